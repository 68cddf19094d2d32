"""The keeper with a scheduler that is made up; the real one is in tests/system/test_mind_nodes.py."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from stepvideo.errors import ConfigError
from stepvideo.mind.checks.result import fail, ok
from stepvideo.mind.cluster import MARK, Node, NodeState, Unanswered
from stepvideo.mind.keeper import Keeper
from stepvideo.mind.nodes import State
from stepvideo.mind.settings import Folder, Settings
from stepvideo.storage import write_json


class Scheduler:
    """Does at once what it is told; jobs and reboots end when a test says so."""

    def __init__(self, **partitions: str) -> None:
        self.views = {n: Node(n, NodeState.UP, "", p, (p,)) for n, p in partitions.items()}
        self.done: list[tuple[str, str]] = []
        self.silent = False

    def nodes(self) -> list[Node]:
        if self.silent:
            raise Unanswered("no answer")
        return list(self.views.values())

    def see(self, node: str, **changes) -> None:
        self.views[node] = replace(self.views[node], **changes)

    def _act(self, what: str, node: str, **changes) -> bool:
        if self.views[node].admin:
            return False
        self.done.append((what, node))
        self.see(node, **changes)
        return True

    def drain(self, node: str, reason: str) -> bool:
        return self._act("drain", node, state=NodeState.DRAINED, reason=f"{MARK} {reason}")

    def reboot(self, node: str, reason: str) -> bool:
        return self._act("reboot", node, state=NodeState.REBOOTING)

    def resume(self, node: str) -> bool:
        return self._act("resume", node, state=NodeState.UP, reason="")

    def move(self, node: str, partition: str) -> bool:
        return self._act(f"move to {partition}", node, partition=partition, partitions=(partition,))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    settings = {"pools": [{"name": "video", "least_score": 0.8}], "limits": {"always": 2}, "expected": {"gpus": 0}}
    write_json(tmp_path / "mind.json", settings)
    return Folder(tmp_path)


def say(folder: Folder, node: str, *results, kind: str = "checks", **more) -> None:
    """As the node's own program reports."""
    record = folder.book.get(node)
    said = {"id": str(time.perf_counter_ns()), "since": record.since if record else None, **more}
    folder.write_report(kind, node, {**said, "results": [asdict(r) for r in results]} if results else said)


BAD, GOOD = fail("kernel", "Xid 48", "GPU_DBE_ERROR", "reboot"), ok("kernel")


def test_from_a_failed_check_to_the_buffer(folder: Folder) -> None:
    farm, told = Scheduler(a="video", b="video", spare="buffer"), []
    keeper = Keeper(folder, farm, told.append)  # type: ignore[arg-type]
    assert {n: r.state for n, r in keeper.tick(0.0).items()} == {
        "a": State.IN_SERVICE, "b": State.IN_SERVICE, "spare": State.BUFFER,
    }  # fmt: skip
    say(folder, "a", BAD)
    farm.see("a", busy=True)
    assert keeper.tick(1.0)["a"].state == State.DRAINING
    assert farm.done == [("drain", "a"), ("move to video", "spare")] and farm.views["a"].reason.startswith(MARK)
    assert keeper.tick(2.0)["a"].state == State.DRAINING  # its job goes on
    farm.see("a", busy=False)
    assert keeper.tick(3.0)["a"].state == State.REBOOTING
    say(folder, "a", GOOD)  # from before the reboot
    farm.see("a", state=NodeState.DRAINED)
    assert keeper.tick(4.0)["a"].state == keeper.tick(5.0)["a"].state == State.CHECKING
    say(folder, "a", GOOD)
    assert keeper.tick(6.0)["a"].state == State.STRESSING
    say(folder, "a", kind="stress", ok=True, seconds=600.0, detail="")
    farm.done.clear()
    records = keeper.tick(7.0)
    assert records["a"].state == State.BUFFER and farm.done == [("move to buffer", "a"), ("resume", "a")]
    assert records["spare"].home == "video" and records["a"].home == "buffer"
    assert any("from the buffer to video" in t for t in told)


def test_a_node_that_is_set_up_unlike_the_others_does_not_come_back(folder: Folder) -> None:
    farm = Scheduler(a="video")
    keeper = Keeper(folder, farm, lambda _: None)  # type: ignore[arg-type]
    keeper.tick(0.0)
    for i in range(4):
        folder.write_report("prints", f"n{i}", {"cpu": "x", "driver": "570.1", "file /etc/x": "1"})
    folder.write_report("prints", "a", {"cpu": "x", "driver": "550.2", "file /etc/x": "2"})
    say(folder, "a", BAD)
    keeper.tick(1.0)
    keeper.tick(2.0)
    for now in (3.0, 5.0):
        farm.see("a", state=NodeState.DRAINED)
        keeper.tick(now)
        say(folder, "a", GOOD)
        record = keeper.tick(now + 1)["a"]
    assert record.state == State.OUT and record.history[-1].detail == "driver is 550.2, not 570.1"


def test_a_keeper_that_starts_anew_goes_on(folder: Folder) -> None:
    farm = Scheduler(a="video")
    Keeper(folder, farm, lambda _: None).tick(0.0)  # type: ignore[arg-type]
    say(folder, "a", BAD)
    Keeper(folder, farm, lambda _: None).tick(1.0)  # type: ignore[arg-type]
    assert Keeper(folder, farm, lambda _: None).tick(2.0)["a"].state == State.REBOOTING  # type: ignore[arg-type]


def test_a_scheduler_that_is_silent_delays_and_loses_nothing(folder: Folder) -> None:
    farm = Scheduler(a="video")
    keeper = Keeper(folder, farm, lambda _: None)  # type: ignore[arg-type]
    keeper.tick(0.0)
    say(folder, "a", BAD)
    farm.drain = lambda *_: (_ for _ in ()).throw(Unanswered("no answer"))  # type: ignore[assignment,method-assign]
    with pytest.raises(Unanswered):
        keeper.tick(1.0)
    record = folder.book.get("a")
    assert record and record.state == State.IN_SERVICE
    del farm.drain
    assert keeper.tick(2.0)["a"].state == State.DRAINING


def test_a_refusal_for_one_node_is_told_once_and_does_not_stop_the_others(folder: Folder) -> None:
    farm, told = Scheduler(a="video", b="video"), []
    keeper = Keeper(folder, farm, told.append)  # type: ignore[arg-type]
    keeper.tick(0.0)
    drain = farm.drain

    def refusing(node: str, reason: str) -> bool:
        if node == "a":
            raise ConfigError("Invalid user")
        return drain(node, reason)

    farm.drain = refusing  # type: ignore[method-assign]
    for now in (1.0, 2.0):
        for node in "ab":
            say(folder, node, BAD)
        records = keeper.tick(now)
    assert records["a"].state == State.IN_SERVICE and records["b"].state != State.IN_SERVICE
    assert told.count("a: Invalid user") == 1


def test_what_others_took_out(folder: Folder) -> None:
    """The watch over jobs drained a; b died; c an admin drained, and resumes."""
    farm = Scheduler(a="video", b="video", c="video")
    keeper = Keeper(folder, farm, lambda _: None)  # type: ignore[arg-type]
    keeper.tick(0.0)
    farm.see("a", state=NodeState.DRAINED, reason=f"{MARK} GPU_LOCKED: of job 7")
    farm.see("b", state=NodeState.DOWN, reason="Not responding")
    farm.see("c", state=NodeState.DRAINED, reason="fan", admin=True)
    records = keeper.tick(1.0)
    assert {n: (r.state, r.fault) for n, r in records.items()} == {
        "a": (State.DRAINING, "GPU_LOCKED"),
        "b": (State.DRAINING, "NODE_SHUTDOWN"),
        "c": (State.ADMIN, ""),
    }
    say(folder, "c", BAD)
    farm.see("c", state=NodeState.UP, reason="", admin=False)
    assert keeper.tick(2.0)["c"].state == State.IN_SERVICE


def test_an_open_breaker_is_told_once_and_nobody_is_drained(folder: Folder) -> None:
    farm, told = Scheduler(**{f"n{i}": "video" for i in range(6)}), []
    keeper = Keeper(folder, farm, told.append)  # type: ignore[arg-type]
    keeper.tick(0.0)
    for now in (1.0, 2.0):
        for i in range(6):
            say(folder, f"n{i}", BAD)
        keeper.tick(now)
    assert [d for d in farm.done if d[0] == "drain"] == [("drain", "n0"), ("drain", "n1")]
    assert sum("not drained" in t for t in told) == 4
    assert "3 of 6 nodes fail kernel" in folder.close_breaker().open and not folder.breaker().open


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    for given, words in (
        ({"pool": []}, "no such key: pool; known: buffer, pools"),
        ({"limits": {"drained": 7}}, "limits: same_cause, drained, out"),
        ({"expected": {"gpu": 1}}, "no such key: gpu"),
        ({"pools": [{"name": "a", "least_score": 2}]}, "least_score of pool a is 2"),
    ):
        with pytest.raises(ConfigError, match=words):
            Settings.of_json(given)


def test_a_report_from_before_a_node_came_back_drains_nobody(folder: Folder) -> None:
    """An administrator put it back; what was seen before is theirs to know."""
    scheduler = Scheduler(a="video", b="video")
    keeper = Keeper(folder, scheduler, lambda _: None)
    keeper.tick(0.0)
    say(folder, "a", fail("disk", "full", "DISK_FULL", ""))
    scheduler.see("a", state=NodeState.DRAINED, reason="disk", admin=True)
    assert keeper.tick(60.0)["a"].state == State.ADMIN
    scheduler.see("a", state=NodeState.UP, reason="", admin=False)
    keeper.tick(120.0)
    assert Keeper(folder, scheduler, lambda _: None).tick(180.0)["a"].state == State.IN_SERVICE
    say(folder, "a", fail("disk", "full", "DISK_FULL", ""))
    assert keeper.tick(240.0)["a"].state == State.DRAINING


def test_what_does_not_read_of_one_node_leaves_the_others_kept(folder: Folder) -> None:
    scheduler, said = Scheduler(a="video", b="video"), []
    keeper = Keeper(folder, scheduler, said.append)
    keeper.tick(0.0)
    say(folder, "a", kind="checks", results=[{"check": "gpus", "status": "doubtful"}])
    say(folder, "b", fail("gpus", "1 of 8", "GPU_LOST", ""))
    assert keeper.tick(60.0)["b"].state == State.DRAINING and keeper.tick(120.0)["a"].state == State.IN_SERVICE
    assert [line for line in said if "doubtful" in line] == [line for line in said if line.startswith("a: its reports")]
