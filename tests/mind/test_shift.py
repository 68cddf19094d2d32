"""Which nodes move between inference and training, and how, with a scheduler that is made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stepvideo.errors import ConfigError
from stepvideo.mind.cluster import Node, NodeState
from stepvideo.mind.mover import Mover
from stepvideo.mind.nodes import first_seen
from stepvideo.mind.settings import Folder, Settings
from stepvideo.mind.shift import Shift, Sides, chosen, decide
from stepvideo.pipes.balance import Load, Pressure
from stepvideo.storage import write_json

HUNGRY, SATED = Load(10.0, 0.0, 0.9), Load(10.0, 0.6, 0.0)  # training waits; producers do
EVEN = Load(10.0, 0.0, 0.0)
FOUR = Sides(("i0", "i1"), ("t0", "t1", "t2", "t3"))


def moves(*rounds: list[Load], sides: Sides = FOUR, **shift: int) -> list[int]:
    pressure, found = Pressure(), []
    for loads in rounds:
        pressure, move = decide(pressure, loads, sides, Shift(**{"most": 2, **shift}))
        found.append(move)
    return found


def test_a_wish_is_followed_when_it_came_often_enough_in_a_row() -> None:
    assert moves([HUNGRY], [HUNGRY], [HUNGRY]) == [0, 0, 2]
    assert moves([SATED], [SATED], [SATED], most=1) == [0, 0, -1]
    assert moves([HUNGRY], [HUNGRY], [EVEN], [HUNGRY], [HUNGRY]) == [0] * 5
    assert moves([HUNGRY], [SATED], [HUNGRY], [SATED]) == [0] * 4
    assert moves([HUNGRY], [HUNGRY], [HUNGRY], [HUNGRY]) == [0, 0, 2, 0]  # it is seen first what that did


def test_stages_must_agree_and_each_side_keeps_its_least() -> None:
    slightly = Load(10.0, 0.0, 0.35)
    assert moves([HUNGRY, SATED], [HUNGRY, SATED], patience=1) == [0, 0]
    assert moves([HUNGRY, slightly], patience=1) == [1]
    assert moves([HUNGRY], patience=1, least_training=4) == [0]
    assert moves([SATED], patience=1, least_inference=2) == [0]
    assert moves([], [HUNGRY], patience=1, sides=Sides((), ("t0",))) == [0, 0]


def test_idle_nodes_go_first() -> None:
    records = [first_seen(n, "training,urgent", 0.0) for n in ("t0", "t1", "t2")] + [first_seen("i0", "inference", 0.0)]
    sides = Sides.of(records, ["t0", "t2"], Shift())
    assert sides == Sides(("i0",), ("t1", "t0", "t2"))
    assert chosen(2, sides) == ("t1", "t0") and chosen(-1, sides) == ("i0",)


class Scheduler:
    def __init__(self, **partitions: str) -> None:
        self.views = {n: Node(n, NodeState.UP, "", p, tuple(p.split(","))) for n, p in partitions.items()}
        self.moved: list[tuple[str, str]] = []

    def nodes(self) -> list[Node]:
        return list(self.views.values())

    def see(self, node: str, **changes) -> None:
        self.views[node] = replace(self.views[node], **changes)

    def move(self, node: str, partition: str) -> bool:
        if self.views[node].admin:
            return False
        self.moved.append((node, partition))
        self.see(node, partitions=tuple(partition.split(",")))
        return True


@pytest.fixture
def farm(tmp_path: Path):
    write_json(tmp_path / "mind.json", {"shift": {"act": True, "patience": 1}})
    scheduler = Scheduler(t0="training,urgent", t1="training,urgent", i0="inference")
    folder = Folder(tmp_path)
    for name, view in scheduler.views.items():
        folder.book.update(name, lambda _, n=name, v=view: first_seen(n, ",".join(v.partitions), 0.0))
    said: list[Load] = []
    return folder, scheduler, said, Mover(folder, scheduler, lambda: [said.pop()] if said else [])  # type: ignore[arg-type]


def test_a_node_leaves_waits_for_its_jobs_and_enters(farm) -> None:
    folder, scheduler, said, mover = farm
    for node in ("t0", "t1"):
        scheduler.see(node, busy=True)
    said.append(HUNGRY)
    assert mover.tick(1.0) == ("t0",) and scheduler.moved == [("t0", "buffer")]
    said.append(HUNGRY)
    again = Mover(folder, scheduler, lambda: [said.pop()] if said else [])  # the first one has died
    assert again.tick(2.0) == () and scheduler.moved == [("t0", "buffer")]  # its job runs on, and nothing else moves
    scheduler.see("t0", busy=False)
    again.tick(3.0)
    assert scheduler.moved[1:] == [("t0", "inference")] and folder.book.all()["t0"].home == "inference"
    again.tick(4.0)
    said.append(SATED)
    assert again.tick(5.0) == ("i0",)
    again.tick(6.0)
    assert scheduler.moved[2:] == [("i0", "buffer"), ("i0", "training,urgent")]


def test_what_an_admin_has_stays(farm) -> None:
    _, scheduler, said, mover = farm
    scheduler.see("t0", admin=True, state=NodeState.DRAINED)
    said.append(HUNGRY)
    assert mover.tick(1.0) == () and not scheduler.moved  # one is left on either side


def test_unless_it_may_act_it_only_says_so(farm, capsys) -> None:
    folder, scheduler, said, mover = farm
    write_json(folder.root / "mind.json", {"shift": {"patience": 1}})
    said.append(HUNGRY)
    assert mover.tick(1.0) == ("t0",) and not scheduler.moved
    assert "t0 should go (`shift.act` is off) to inference: training waits 90%" in capsys.readouterr().out
    write_json(folder.root / "mind.json", {})
    said.append(HUNGRY)
    assert mover.tick(2.0) == ()


@pytest.mark.parametrize("wrong", ({"units": 1}, {"least_training": 0}, {"inference": "a", "training": "a"}))
def test_settings_that_cannot_be(wrong) -> None:
    with pytest.raises(ConfigError):
        Settings.of_json({"shift": wrong})
