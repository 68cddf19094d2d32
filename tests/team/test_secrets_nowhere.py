"""No secret of the environment is in what a run leaves: store, logs, specs, pickles, code, databases."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(3600),
]  # a Prefect server and a driver: over the budget of `make test`

NAMES = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_API_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "PGPASSWORD",
)


def holders(root: Path, given: dict[str, str]) -> dict[str, list[str]]:
    """{variable: files below `root` that have its value}."""
    files = [p for p in root.rglob("*") if p.is_file() and not p.is_symlink()]
    found: dict[str, list[str]] = {}
    for path in files:
        data = path.read_bytes()
        for name, value in given.items():
            if value.encode() in data:
                found.setdefault(name, []).append(str(path))
    return found


def test_no_secret_is_written_down(mini, new_mlflow, tmp_path, monkeypatch) -> None:
    given = {name: secrets.token_hex(16) for name in NAMES}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    work = tmp_path / "work"
    work.mkdir()
    shutil.copyfile(new_mlflow, work / "mlflow.db")
    # one that fails leaves as much, and what it says of its failure
    process = mini.process("tracking=local", "cluster=submitit-local", "stages.fit.fail_at=5")
    assert "the machine erred" in process.communicate()[1] and process.returncode == 1
    kinds = {p.suffix for p in tmp_path.rglob("*")} | {p.name for p in tmp_path.rglob("*")}
    assert {
        ".pkl",
        "mlflow.db",
        "prefect.db",
        "spec.json",
        "ledger.json",
        "events.jsonl",
        "manifest.json",
        "_code",
    } <= kinds, kinds
    assert holders(tmp_path, given) == {}
    (tmp_path / "work" / "one").write_text(given["PGPASSWORD"])
    assert list(holders(tmp_path, given)) == ["PGPASSWORD"], "the search finds what is there"
