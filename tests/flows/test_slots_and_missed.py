"""Who waits for a slot of a partition, and which missed runs are dropped; a server's answers are played."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.concurrency._asyncio import ConcurrencySlotAcquisitionError

from flows import missed, slots
from flows.slots import Slots
from tasks.stages import Cancelled

SLURM = {"partition": "cpu", "stages": {"t2vi_*": {"partition": "h800"}, "report": {"partition": ""}}}


class Partitions:
    """In place of the server: so many slots each; `held` are the names that are taken now, in their order."""

    def __init__(self, free: int) -> None:
        self.free, self.held, self.asked = free, [], 0
        self.away = False

    @contextlib.contextmanager
    def concurrency(self, name: str, timeout_seconds: float) -> Iterator[None]:
        self.asked += 1
        if self.away:
            raise ConcurrencySlotAcquisitionError(name)
        if not self.free:
            raise TimeoutError
        self.free -= 1
        self.held.append(name)
        yield
        self.free += 1
        self.held.remove(name)


@pytest.fixture
def partitions(monkeypatch: pytest.MonkeyPatch) -> Partitions:
    made = Partitions(1)
    monkeypatch.setattr(slots, "concurrency", made.concurrency)
    return made


def spec(stage: str, **slurm: Any) -> Any:
    return SimpleNamespace(stage=stage, config={"runtime": {"slurm": slurm}})


def test_a_stage_takes_a_slot_of_its_own_partition_and_gives_it_back(partitions: Partitions) -> None:
    listener, none = Slots(SLURM, threading.Event()), SimpleNamespace()
    for stage, more, held in (("t2vi_192.s1", {}, "h800"), ("sft.1", {}, "cpu"), ("sft.2", {"partition": "x"}, "x")):
        listener.started(spec(stage, **more), none, attached=False)  # type: ignore[arg-type]
        assert partitions.held == [f"partition-{held}"]
        listener.ended(spec(stage), None, None)
        assert partitions.held == [] and partitions.free == 1
    listener.started(spec("report"), none, attached=False)  # type: ignore[arg-type]
    listener.ended(spec("report"), None, None)
    assert partitions.asked == 3  # the cluster's default partition has no name, and no limit


def test_it_waits_but_not_when_it_runs_already_or_is_cancelled_or_nobody_answers(partitions: Partitions) -> None:
    cancel, none = threading.Event(), SimpleNamespace()
    listener = Slots(SLURM, cancel)
    listener.started(spec("a"), none, attached=False)  # type: ignore[arg-type]
    listener.started(spec("b"), none, attached=True)  # type: ignore[arg-type]
    assert partitions.held == ["partition-cpu"] and partitions.asked == 2
    waiting = threading.Thread(target=lambda: listener.started(spec("c"), none, attached=False))  # type: ignore[arg-type]
    waiting.start()
    while partitions.asked < 5:
        assert waiting.is_alive()
    listener.ended(spec("a"), None, None)
    waiting.join(60)
    assert partitions.held == ["partition-cpu"]
    threading.Timer(0.2, cancel.set).start()
    with pytest.raises(Cancelled, match="stage d was cancelled while it waited for a slot of partition cpu"):
        listener.started(spec("d"), none, attached=False)  # type: ignore[arg-type]
    cancel.clear()
    partitions.away = True
    listener.started(spec("e"), none, attached=False)  # type: ignore[arg-type]


def test_of_the_missed_runs_only_those_go_that_are_the_same_and_due(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)

    def run(id: str, minutes: int, auto: bool = True, **parameters: Any) -> Any:
        given = {"parameters": parameters, "auto_scheduled": auto, "deployment_id": "d", "name": id}
        return SimpleNamespace(id=id, expected_start_time=now + timedelta(minutes=minutes), **given)

    mine = run("mine", -120, profile="smoke")
    there = [
        mine,
        run("missed", -60, profile="smoke"),
        run("missed too", -1, profile="smoke"),
        run("to come", 60, profile="smoke"),
        run("of another schedule", -60, profile="micro"),
        run("of a person", -60, auto=False, profile="smoke"),
    ]
    ended: dict[str, str] = {}

    @contextlib.contextmanager
    def client(**_: Any) -> Iterator[Any]:
        def end(id: str, state: Any, force: bool) -> None:
            assert state.is_cancelled()
            ended[id] = state.message

        yield SimpleNamespace(read_flow_runs=lambda **_: there, set_flow_run_state=end)

    monkeypatch.setattr(missed, "get_client", client)
    monkeypatch.setattr(missed, "DeploymentFilterId", lambda any_: None)
    monkeypatch.setattr(missed, "DeploymentFilter", lambda id: None)
    missed.drop_missed(None, mine, None)
    assert set(ended) == {"missed", "missed too"} and ended["missed"] == "missed, and caught up by mine (mine)"
    ended.clear()
    missed.drop_missed(None, run("by hand", -120, auto=False, profile="smoke"), None)
    assert ended == {}
