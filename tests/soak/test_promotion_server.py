"""Promotion and rollback in the registry of an MLflow server with users: over HTTP, with wrong passwords, and with
kills of either side. The champion is the old one or the new one, and the same again finishes what was begun."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_champions import Made
from mini import ROOT
from mlflow_http import ADMIN, PASSWORD, MLflow

from flows.promote import promote, rollback
from stepvideo.errors import StepVideoError
from tasks import promotion
from tasks.registry import Registry

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflow]:
    with MLflow(tmp_path_factory.mktemp("mlflow"), users=True) as running:
        yield running


@pytest.fixture
def made(server: MLflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Version 1 is the champion, 2 is much better."""
    enter(monkeypatch, ADMIN, PASSWORD)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    (tmp_path / "work").mkdir()
    made = Made(tmp_path, server.url, 0.7, 1.0)
    first, _ = numbers(made)
    made.registry.set_alias("champion", first)
    return made


def enter(monkeypatch: pytest.MonkeyPatch, user: str, password: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)


def numbers(made: Made) -> tuple[int, int]:
    """The server keeps the versions of all tests: this one's are the last two."""
    return tuple(v.number for v in made.registry.versions()[-2:])  # type: ignore[return-value]


def judged(made: Made) -> Any:
    """Evidence that the second is better; the version to be promoted."""
    from flows.promote_evidence import judge
    from stepvideo.evaluation.champion import Rules

    sides = []
    for number, version in zip((2, 1), reversed(made.registry.versions()[-2:])):
        found = [made.store.find(stage, f"{number:016d}") for stage in ("fit", "evaluate.fit")]
        assert found[0] and found[1]
        sides.append((version, *found))
    assert judge(made.store, sides[0], sides[1], Rules()).promote
    return sides[0][0]


def test_there_and_back_with_evidence_at_the_server(made: Made) -> None:
    (first, second), version = numbers(made), judged(made)
    promote(made.registry, made.store, version)
    aliases = made.registry.aliases()
    assert (aliases["champion"], aliases["previous"]) == (second, first)
    run_id, _, folder = made.registry.version(second).tags["evidence"].removeprefix("runs:/").partition("/")
    kept = {Path(f.path).name for f in made.registry.server.client.list_artifacts(run_id, folder)}
    assert kept == {"decision.json", "evidence.html"}
    rollback(made.registry, made.store, reason="flickers")
    assert made.registry.aliases()["champion"] == first
    assert "flickers" in made.registry.version(second).tags["rolled_back"]
    assert PASSWORD not in "".join(p.read_text() for p in made.store.root.glob("_promotions/*/*"))


def reader(server: MLflow) -> tuple[str, str]:
    """A user who may only read; made over HTTP as an administrator does."""
    word = base64.b64encode(f"{ADMIN}:{PASSWORD}".encode()).decode()
    body = json.dumps({"username": "reader", "password": "another-password"}).encode()
    headers = {"Authorization": f"Basic {word}", "Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"{server.url}/api/2.0/mlflow/users/create", body, headers)).read()
    return "reader", "another-password"


def test_who_may_not_changes_nothing(made: Made, server: MLflow, monkeypatch: pytest.MonkeyPatch) -> None:
    (first, second), version = numbers(made), judged(made)
    for user, password in ((ADMIN, "wrong"), reader(server)):
        with monkeypatch.context() as m:
            enter(m, user, password)
            with pytest.raises(StepVideoError, match="mend the address or its password"):
                promote(made.registry, made.store, version)
        assert made.registry.aliases()["champion"] == first
    assert promote(made.registry, made.store, version)["state"] == "done"  # who may finishes it
    assert made.registry.aliases()["champion"] == second and len(promotion.history(made.store)) == 1


def test_a_server_that_is_killed_at_any_change(made: Made, server: MLflow, monkeypatch: pytest.MonkeyPatch) -> None:
    (first, second), version = numbers(made), judged(made)

    for name in ("keep", "tag", "set_alias"):
        real = getattr(Registry, name)

        def change(*args: Any, real: Any = real) -> Any:
            server.kill()
            return real(*args)

        with monkeypatch.context() as m:
            m.setattr(Registry, name, change)
            with pytest.raises(StepVideoError, match="start the server"):
                promote(made.registry, made.store, version)
        server.start()
        assert made.registry.aliases()["champion"] == first
    assert promote(made.registry, made.store, version)["state"] == "done"
    assert made.registry.aliases()["champion"] == second and len(promotion.history(made.store)) == 1


@pytest.mark.parametrize("k", [1, 2, 4, 6, 8])
def test_a_promoter_that_is_killed(made: Made, k: int) -> None:
    (first, second), _ = numbers(made), judged(made)
    path = os.pathsep.join([str(ROOT / "tests" / "toys"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    for change, code in ((k, -signal.SIGKILL), (99, 0)):
        argv = [sys.executable, "-m", "killed_promotion", str(made.store.root), "promote", str(second), str(change)]
        done = subprocess.run(argv, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert made.registry.aliases()["champion"] in (first, second)
    assert made.registry.aliases()["champion"] == second
    assert [r["state"] for r in promotion.history(made.store)] == ["done"]
