"""A watch goes on whatever happens, and does what it decided when it can."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_scheduler import Scheduler

from stepvideo.mind.cluster import NodeState, Unanswered
from stepvideo.storage import write_json
from tasks import mind_watch
from tasks.mind_acts import FOLDER, LOG, decisions
from tasks.mind_watch import Watch
from tasks.slurm_queue import RECORD, Job


class Store:
    """One job of a stage on n1 and one on n2, whose agents report until a test stops them."""

    def __init__(self, root: Path) -> None:
        self.root, self.scheduler, self.said = root, Scheduler(), []
        self.stages = {f"n{i}": root / "fit" / f"000{i}" for i in (1, 2)}
        self.jobs: dict[str, list[Job]] | None = {}
        for node, directory in self.stages.items():
            directory.mkdir(parents=True)
            write_json(directory / RECORD, {"name": f"fit-{node}"})
            self.jobs[f"fit-{node}"] = [Job(node[1], "RUNNING", 0, "", node, starts=100.0)]
        (root / FOLDER / "agents").mkdir(parents=True)
        self.watch = Watch(root, self.scheduler, root / FOLDER, queue=lambda: self.jobs, said=self.said.append)

    def look(self, first: int, last: int, alive: tuple[str, ...] = ("n1", "n2")) -> list[str]:
        """Faults that were acted on, from one second to another."""
        acted = []
        for second in range(first, last):
            for node in alive:
                job = {"processes": 2, "stopped": 0, "cpu": 1.0, "io": 0.0}
                said = {"node": node, "agent": "a", "seq": second, "time": 0, "jobs": {node[1]: job}}
                write_json(self.root / FOLDER / "agents" / f"{node}.json", said)
                with (self.stages[node] / "events.jsonl").open("a") as f:
                    f.write(json.dumps({"type": "progress", "done": second, "total": 9, "unit": "step"}) + "\n")
            acted += [d.fault for d in self.watch.look(float(second), 0.0)]
        return acted


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path)
    assert made.look(0, 6) == []
    return made


def test_a_controller_that_is_away_with_a_node_ends_no_watch(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(node: str = "") -> bool:
        raise Unanswered("slurmctld is away")

    with monkeypatch.context() as at_once:
        at_once.setattr(store.scheduler, "reachable", away)
        at_once.setattr(store.scheduler, "nodes", away)
        assert store.look(6, 30, alive=("n2",)) == []
        assert store.said == ["stepmind: fit-n1: Unanswered: slurmctld is away"]
    monkeypatch.setattr(store.scheduler, "reachable", lambda node: False)
    assert store.look(30, 36, alive=("n2",)) == ["NODE_SHUTDOWN"]


def test_what_slurm_did_not_hear_is_done_later_and_written_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.scheduler, "reachable", lambda node: False)
    jobs, store.jobs = store.jobs, None
    assert store.look(6, 20, alive=("n2",)) == [] and store.said == []
    store.jobs = jobs
    assert store.look(20, 40, alive=("n2",)) == ["NODE_SHUTDOWN"]
    assert store.scheduler.done == [("down", "n1"), ("requeue", "1", "n1")]
    assert len(decisions(store.stages["n1"])) == len(store.said) == 1


def test_a_folder_that_is_full_delays_a_restart(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tried, real = [], mind_watch.take_out

    def take_out(*given):
        tried.append(given)
        if len(tried) < 4:
            raise OSError(28, "No space left on device")
        return real(*given)

    monkeypatch.setattr(mind_watch, "take_out", take_out)
    store.scheduler.states["n1"] = NodeState.DOWN
    assert store.look(6, 20) == ["NODE_SHUTDOWN"] and len(tried) == 4
    assert store.scheduler.done[-1] == ("requeue", "1", "n1") and len(store.said) == 2


def test_one_stage_that_does_not_read_does_not_blind_the_watch(store: Store) -> None:
    with (store.stages["n1"] / "events.jsonl").open("a") as f:
        f.write('{"type": "progress"}\n')
    store.scheduler.states["n2"] = NodeState.DOWN
    assert store.look(6, 12) == ["NODE_SHUTDOWN"]
    assert (store.stages["n2"] / LOG).exists() and not (store.stages["n1"] / LOG).exists()
