"""The other commands: what they print, their exit codes, and errors in one message."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stepvideo import cli, storage


@pytest.fixture
def made(mini):
    """Two runs that differ in one setting."""
    first = mini.run()
    second = mini.run("stages.fit.lr=0.2")
    mini.at = ["--store", str(mini.store.root)]
    return mini, first, second


def test_status(made) -> None:
    mini, _, second = made
    code, out, _ = mini.cli("status", "--json", *mini.at)
    status = json.loads(out)
    assert code == 0 and status["state"] == "done"
    assert {s["stage"]: (s["state"], s["key"]) for s in status["stages"]} == {
        name: ("complete", row["key"]) for name, row in second.items()
    }
    (Path(second["fit"]["path"]) / "model.json").write_text("{}")
    code, out, _ = mini.cli("status", *mini.at)
    assert code == 1 and "damaged" in out and "model.json has 2 bytes" in out


def test_lineage_reaches_the_start_and_says_how_to_make_it_again(made) -> None:
    mini, first, _ = made
    code, out, _ = mini.cli("lineage", f"score/{first['score']['key'][:6]}", *mini.at)
    assert code == 0
    for name, row in first.items():
        assert f"{name}/{row['key'][:8]}" in out
    assert "stepvideo run" in out and out.strip().endswith("--until score") and "git checkout" in out


def test_the_command_in_the_lineage_finds_the_artifact(made) -> None:
    mini, first, _ = made
    lineage = storage.read_json(Path(first["score"]["path"]).parent / "manifest.json")["lineage"]
    again = lineage["command"].split()
    assert again[:2] == ["stepvideo", "run"]
    code, out, _ = mini.cli("run", "--json", *again[2:])
    assert code == 0 and {r["stage"]: r["key"] for r in json.loads(out)} == {n: r["key"] for n, r in first.items()}
    assert all(r["cached"] for r in json.loads(out))


def test_compare(made) -> None:
    mini, first, second = made
    a, b = (f"fit/{rows['fit']['key']}" for rows in (first, second))
    code, out, _ = mini.cli("compare", "--json", a, b, *mini.at)
    found = json.loads(out)
    assert code == 0 and [(s["key"], s["values"]) for s in found["config"]] == [("lr", [0.1, 0.2])]
    assert found["metrics"]["fit.mean"] == [rows["fit"]["metrics"]["mean"] for rows in (first, second)]
    assert {len(points) for points in found["curves"]["fit"].values()} == {2}
    found = json.loads(mini.cli("compare", "--json", "latest~1", "latest", *mini.at)[1])
    assert [s["key"] for s in found["config"]] == ["stages.fit.lr"]
    assert found["lineage"][0]["first"] == "the first difference is fit: lr 0.1 → 0.2"
    assert found["cost"]["noise"][1]["cached"] and not found["cost"]["fit"][1]["cached"]
    code, out, _ = mini.cli("compare", a, b, *mini.at)
    assert "lr 0.1 → 0.2" in out and "mean" in out and "no evaluation" in out


def test_logs(mini) -> None:
    mini.at = ["--store", str(mini.store.root)]
    mini.fails("cluster=local", "stages.fit.fail_at=2", "runtime.max_attempts=1")
    code, out, err = mini.cli("logs", "fit", *mini.at)
    assert code == 0 and "RuntimeError: the machine erred" in out and "attempt 1" in err
    mini.run()
    code, _, err = mini.cli("logs", "score", *mini.at)
    assert code == 2 and "ran inside the driver" in err


def test_doctor(made) -> None:
    mini, *_ = made
    code, out, _ = mini.cli("doctor", "--json", *mini.at)
    checks = {c["name"]: c["status"] for c in json.loads(out)}
    assert checks["store"] == "ok" and code == (1 if "missing" in checks.values() else 0)
    assert "python" in mini.cli("doctor", *mini.at)[1]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["lineage", "nope"], "no artifact 'nope'"),
        (["lineage", "stepvideo-t2v@champion"], "no run in"),
        (["compare", "fit", "nope"], "no artifact 'nope'"),
        (["logs", "nope"], "there are: fit, noise, score"),
        (["generate", "a red circle", "--out", "x.mp4"], "no trained model"),
        (["generate", "a red circle", "--out", "x.mp4", "--model", "fit"], "has no vae behind it"),
    ],
)
def test_errors_are_one_message(made, args: list[str], said: str) -> None:
    mini, *_ = made
    code, _, err = mini.cli(*args, *mini.at)
    assert code == 2 and err.startswith("error: ") and said in err and "Traceback" not in err


def test_settings_may_stand_around_options(mini) -> None:
    first, *rest = mini.args()
    code, out, _ = mini.cli("plan", first, "--until", "fit", *rest, "--json", "stages.fit.lr=0.3")
    assert code == 0 and [s["stage"] for s in json.loads(out)] == ["noise", "fit"]
    for wrong in (["plan", "--untill", "fit"], ["status", "seed=1"]):
        with pytest.raises(SystemExit, match="2"):
            cli.main(wrong)


def test_nothing_there_yet(tmp_path: Path, capsys) -> None:
    assert cli.main(["status", "--store", str(tmp_path / "none")]) == 2
    assert "stepvideo run" in capsys.readouterr().err
    assert cli.main(["status", "--store", str(tmp_path)]) == 2
    assert "nothing was run" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "lineage fit", "plan"])
def test_reading_commands_import_nothing_heavy(made, command: str) -> None:
    mini, *_ = made
    name, *rest = command.split()
    args = [name, *(mini.args() if name == "plan" else [*rest, *mini.at])]
    code = f"import sys; from stepvideo import cli; cli.main({args!r})\n"
    code += "print([m for m in ('torch', 'lightning', 'mlflow', 'prefect', 'great_expectations') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]"), done.stdout[-200:]
