"""A toy cascade on a whole team stack; each server is killed mid-run and brought back while the training goes on.

The run ends with the digests of a local one. MLflow has one run a stage with every metric once, Prefect a flow that
completed, the bucket every artifact.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator

import pytest
import team_stack
from fixtures import toys  # noqa: F401
from mini import Mini
from team_stack import Known

from flows.team import start_command
from stepvideo.sink import read_events
from tasks.team import processes
from tasks.team.layout import Stack

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
STEPS, STEP_S = 150, 0.4  # a minute
ON = ["tracking=team", "cluster=local", "cluster.snapshot=false"]
DOWN_S = 8  # at least
PATIENCE_S = 1500  # for what takes seconds on a quiet machine
SERVERS = (("postgresql",), ("s3", "s3-store", "s3-monitor"), ("mlflow",), ("prefect",))
VICTIMS = {"nobody": (), "each in turn": SERVERS} | {names[0]: (names,) for names in SERVERS}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with team_stack.shared() as running:
        yield running


@pytest.fixture
def mini(stack: Stack, tmp_path, capsys, monkeypatch) -> Mini:
    for name, value in stack.clients().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("STEPVIDEO_MIRROR", f"s3://stepvideo/{tmp_path.name}")
    monkeypatch.setenv("STEPVIDEO_ANY_CODE", "1")
    return Mini(tmp_path, capsys)


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_server_is_killed_and_comes_back(victim: str, stack: Stack, mini: Mini, tmp_path) -> None:
    steps = STEPS * (1 + len(VICTIMS[victim]))
    settings = [f"stages.fit.steps={steps}", f"stages.fit.step_s={STEP_S}", *ON]
    here = mini.run(f"store={tmp_path / 'here'}", f"stages.fit.steps={steps}")
    known, began = Known(stack), time.monotonic()
    process = mini.process(*settings)
    directory = mini.wait_for_step("fit", 10, timeout=PATIENCE_S)

    def step() -> int:
        return max(r["step"] for r in read_events(directory / "events.jsonl")[0] if r["type"] == "metrics")

    for names in VICTIMS[victim]:
        before, at = step(), time.monotonic()
        for name in names:
            team_stack.kill(stack, name)
        time.sleep(DOWN_S)
        during = step()
        start_command(str(stack.folder), None, None, names)
        print(f"{names[0]}: killed at step {before}, back after {time.monotonic() - at:.0f} s, at step {step()}")
        assert during > before or before == steps - 1, "training waits for nobody"
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err[-3000:]
    print(f"{victim}: the run took {time.monotonic() - began:.0f} s\n{err[-1500:]}")
    rows = mini.run(*settings)  # the same command again: everything is there
    assert all(row["cached"] for row in rows.values())
    assert {n: r["digest"] for n, r in rows.items()} == {n: r["digest"] for n, r in here.items()}

    runs = known.runs(mini.store.root)
    children = {r["tags"]["stage"]: r for r in runs if "stage" in r["tags"]}
    assert sorted(children) == sorted(here), "one run a stage"
    assert len(runs) == len(here) + 2, [r["tags"].get("mlflow.runName") for r in runs]
    assert {r["status"] for r in runs} == {"FINISHED"}
    assert [s for s, _ in known.history(children["fit"]["id"], "mean")] == list(range(steps)), "each metric once"
    copied = known.objects(f"{tmp_path.name}/")
    for name, row in rows.items():
        assert f"{name}/{row['key']}/manifest.json" in copied
    states = [
        r["state_name"] for r in known.prefect("flow_runs/filter") if str(mini.store.root) in str(r["parameters"])
    ]
    assert states == ["Completed", "Completed"]


def test_a_driver_is_killed_while_the_servers_are_away(stack: Stack, mini: Mini, tmp_path) -> None:
    """What a dead driver could not tell, the next one does."""
    here = mini.run(f"store={tmp_path / 'here'}", f"stages.fit.steps={STEPS}")
    settings = [f"stages.fit.steps={STEPS}", f"stages.fit.step_s={STEP_S}", *ON]
    first = mini.process(*settings)
    mini.wait_for_step("fit", 10, timeout=PATIENCE_S)
    for name in ("mlflow", "postgresql"):
        team_stack.kill(stack, name)
    time.sleep(6)
    first.kill()
    first.wait()
    start_command(str(stack.folder), None, None)
    rows = mini.finish(mini.process(*settings), timeout=PATIENCE_S)
    assert {n: r["digest"] for n, r in rows.items()} == {n: r["digest"] for n, r in here.items()}
    known = Known(stack)
    runs = known.runs(mini.store.root)
    children = {r["tags"]["stage"]: r for r in runs if "stage" in r["tags"]}
    assert len([r for r in runs if "stage" in r["tags"]]) == len(children) == len(here)
    assert [s for s, _ in known.history(children["fit"]["id"], "mean")] == list(range(STEPS))
    assert "RUNNING" not in {r["status"] for r in runs}


def test_stopped_and_started_it_holds_what_it_held(stack: Stack, mini: Mini) -> None:
    """Also an empty store takes from the bucket what lies there, byte for byte."""
    from flows.team import stop_command

    rows = mini.run(*ON)
    assert stop_command(str(stack.folder)) == 0
    assert not any(processes.pid_of(stack, n) for n in ("postgresql", "s3", "mlflow", "prefect", "worker"))
    with contextlib.suppress(subprocess.TimeoutExpired):
        start_command(str(stack.folder), None, None)
    known = Known(stack)
    assert {r["tags"]["stage"] for r in known.runs(mini.store.root) if "stage" in r["tags"]} == set(rows)
    again = mini.run(f"store={mini.folder / 'empty'}", *ON)
    assert {n: (r["digest"], r["cached"]) for n, r in again.items()} == {
        n: (r["digest"], True) for n, r in rows.items()
    }
