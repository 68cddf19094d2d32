"""Slow nodes are found by what ranks tell, while they tell it; nobody is blamed who is not slow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made_segments import Ranks
from made_training import Fault, Made, write_run

from stepvideo.mind.slow import SlowNodes, Tail
from stepvideo.telemetry.segments import FOLDER

SICK = Made(16, 90, per_node=4, faults=(Fault((6,), 1.2, since=31),))


def all_at_once(folder: Path, made: Made, degrees: bool = True) -> set[str]:
    Ranks(folder, made, degrees).write(made.steps)
    return set(SlowNodes(folder, made.run).poll())


def test_a_slow_rank_is_its_nodes_within_50_steps_and_until_it_recovers(tmp_path: Path) -> None:
    made = replace(SICK, steps=160, faults=(Fault((6,), 1.2, since=31, until=91),))
    ranks, slow = Ranks(tmp_path, made), SlowNodes(tmp_path, made.run)
    found = {}
    for step in range(10, 161, 10):
        ranks.write(10)
        found[step] = slow.poll()
    told = [step for step, nodes in found.items() if nodes]
    assert 31 < told[0] <= 81 and 90 in told and told[-1] < 160
    assert all(set(found[step]) == {"training1"} for step in told)
    finding = found[90]["training1"]
    assert (finding.name, finding.node) == ("SLOW_NODE", "training1") and "rank 6" in finding.evidence


def test_a_slow_node_is_found(tmp_path: Path) -> None:
    assert all_at_once(tmp_path, replace(SICK, ranks=64, faults=(Fault((8, 9, 10, 11), 1.2),))) == {"training2"}


def test_a_thousand_healthy_steps_blame_nobody(tmp_path: Path) -> None:
    made = Made(8, 1000, per_node=2)
    ranks, slow = Ranks(tmp_path, made), SlowNodes(tmp_path, made.run)
    for _ in range(10):
        ranks.write(100)
        assert slow.poll() == {}


@pytest.mark.parametrize(
    ("tensor", "exchanges", "blamed"), [(8, False, set()), (8, True, {"training1"}), (4, False, {"training1"})]
)
def test_a_group_on_two_nodes_is_nobodys_unless_exchanges_tell(
    tmp_path: Path, tensor: int, exchanges: bool, blamed: set[str]
) -> None:
    fault = Fault((6,), 1.2, "backward")
    assert all_at_once(tmp_path, replace(SICK, ranks=64, tensor=tensor, exchanges=exchanges, faults=(fault,))) == blamed


def test_everybody_slow_and_slow_data_are_no_nodes_fault(tmp_path: Path) -> None:
    assert all_at_once(tmp_path / "all", replace(SICK, faults=(Fault(tuple(range(16)), 1.5, since=31),))) == set()
    assert all_at_once(tmp_path / "data", replace(SICK, faults=(Fault((6,), 20.0, "data_wait"),))) == set()


def test_another_attempt_begins_anew_and_old_segments_are_not_read(tmp_path: Path) -> None:
    Ranks(tmp_path, SICK).write(90)
    slow = SlowNodes(tmp_path, SICK.run)
    assert set(slow.poll()) == {"training1"}
    again = Ranks(tmp_path, replace(SICK, first=60, attempt=2, faults=()))
    again.write(1)
    assert slow.poll() == {}
    again.write(89)
    assert slow.poll() == {}
    assert SlowNodes(tmp_path, SICK.run, since=again.opened + 1000).poll() == {}
    assert SlowNodes(tmp_path, "another").poll() == {}


def test_whoever_comes_late_finds_the_degrees_in_parquet(tmp_path: Path) -> None:
    made = replace(SICK, ranks=32, tensor=8, faults=(Fault((6,), 1.2, "backward"),))
    assert all_at_once(tmp_path, made, degrees=False) == set()
    alone = replace(made, tensor=1)
    assert all_at_once(tmp_path / "alone", alone, degrees=False) == set()
    write_run(tmp_path / "alone", replace(alone, steps=3))
    assert set(SlowNodes(tmp_path / "alone", made.run).poll()) == {"training1"}


def test_every_frame_is_read_once_whatever_its_segment_is_called(tmp_path: Path) -> None:
    ranks, tail = Ranks(tmp_path, replace(SICK, ranks=2, faults=())), Tail(tmp_path / FOLDER, SICK.run, 0)
    ranks.write(5)
    assert len(list(tail.new())) == 4 and list(tail.new()) == []  # of each rank counters and spans
    (first, _) = sorted((tmp_path / FOLDER).iterdir())
    whole = first.read_bytes()
    ranks.write(5)
    grown = first.read_bytes()
    first.write_bytes(grown[: len(whole) + 20])  # torn
    assert len(list(tail.new())) == 1
    first.write_bytes(grown)
    assert len(list(tail.new())) == 1
    first.rename(first.with_suffix(".seg"))
    assert list(tail.new()) == []
