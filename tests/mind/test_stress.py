"""Stress tests: they measure, they are held against the fleet, and a rank that breaks fails its group."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stepvideo.errors import ConfigError
from stepvideo.mind.stress.expectations import Expectation, judge, learn
from stepvideo.mind.stress.group import run_group
from stepvideo.mind.stress.run import PROFILES, Expectations, Profile, held, measure, profile

if TYPE_CHECKING:
    from rank_pool import RankPool

ALL = {"gemm_tflops", "gemm_repeats", "memory_gbs", "h2d_gbs", "d2h_gbs", "disk_write_mbs", "disk_read_mbs"}


def test_expectations_are_the_fleets_even_if_some_of_it_is_ill() -> None:
    draw = random.Random(0)
    fleet = {f"n{i}": {"gemm": draw.gauss(100, 1), "disk": draw.gauss(1000, 200)} for i in range(50)}
    for i in range(15):
        fleet[f"n{i}"]["gemm"] = 60.0
    known = learn(fleet)
    assert known["gemm"].median == pytest.approx(100, abs=1.5) and known["gemm"].count == 50
    ill = [n for n, measured in fleet.items() if any(v.ok is False for v in judge(measured, known))]
    assert ill == [f"n{i}" for i in range(15)]
    assert learn({"a": {"gemm": 1.0}, "b": {"gemm": 1.0}}) == {}


def test_a_test_whose_values_scatter_is_held_less_strictly() -> None:
    steady, wide = Expectation(100, 0, 9), Expectation(100, 10, 9)
    found = judge({"a": 89.0, "b": 89.0, "new": 1.0}, {"a": steady, "b": wide})
    assert [v.ok for v in found] == [False, True, None] and found[0].share == pytest.approx(0.89)


def test_wrong_bits_and_a_dead_group_fail_without_a_fleet() -> None:
    verdicts = {v.test: v.ok for v in held({"gemm_repeats": 0.0, "tp_gbs": 0.0, "gemm_tflops": 9.0}, {}, 0.1)}
    assert verdicts == {"gemm_repeats": False, "tp_gbs": False, "gemm_tflops": None}
    with pytest.raises(ConfigError, match="no stress profile brief; there are quick"):
        profile("brief")


def test_expectations_are_kept_by_kind_of_machine(tmp_path: Path) -> None:
    file = Expectations(tmp_path / "expectations.json")
    found = file.learn("H800, short", {f"n{i}": {"gemm": 600.0} for i in range(3)})
    file.learn("cpu, short", {f"n{i}": {"gemm": 0.1} for i in range(3)})
    assert file.of("H800, short") == found == {"gemm": Expectation(600.0, 0.0, 3)} and file.of("H200, short") == {}


def breaks(rank: int) -> None:
    if rank == 1:
        raise OSError("its card is gone")


def measured_alone(folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """In a process without threads, as groups are forked from it."""
    broken = run_group(2, seconds=0.0, timeout_s=60, before=breaks)
    return broken, measure("cpu", Profile(0.01), folder)


def test_everything_is_measured_on_a_cpu_and_a_broken_rank_fails_its_group(ranks: RankPool, tmp_path: Path) -> None:
    ((broken, measured),) = ranks(1, measured_alone, tmp_path)
    assert broken == {} and not list(tmp_path.iterdir())
    assert set(measured) == ALL | {"tp_gbs", "ep_gbs", "pp_gbs", "dp_gbs"}
    assert measured["gemm_repeats"] == 1.0 and all(v > 0 for v in measured.values())


@pytest.mark.gpu
def test_a_gpu_is_measured_by_the_same_code(tmp_path: Path) -> None:
    measured = measure("cuda", PROFILES["quick"], tmp_path)
    assert set(measured) >= ALL and measured["gemm_tflops"] > 50 and measured["memory_gbs"] > 500
