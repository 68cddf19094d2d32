"""Intervals of small simulated studies hold the truth as often as they say; benchmarks/study_coverage.py has all."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("study_coverage")


@pytest.mark.parametrize("statistic", ["score", "alpha nominal", "kappa", "alpha ordinal", "rating mean"])
def test_intervals_of_twelve_prompts_cover(bench, statistic):
    """A category of the report has 12 prompts; there the percentile bootstrap of a mean holds the truth too rarely."""
    case = next(c for c in bench.cases() if c.statistic == statistic)
    truth = case.estimate(case.draw(np.random.default_rng(1), 40_000)).value
    row = bench.coverage(case, 12, 300, truth, seed=0)
    error = (0.05 * 0.95 / 300) ** 0.5
    assert bench.LOW - error <= row["coverage"] <= bench.HIGH + error
    assert row["too_high"] + row["too_low"] == pytest.approx(1 - row["coverage"])
    if case.plain:
        assert row["bootstrap"] < min(row["coverage"], bench.LOW)


def test_too_narrow_intervals_are_faults(bench):
    cell = {"statistic": "score", "about": "a", "prompts": 12, "studies": 600, "bootstrap": None}
    assert bench.faults([cell | {"coverage": 0.95}]) == []
    assert len(bench.faults([cell | {"coverage": 0.88}])) == 2
    assert len(bench.faults([cell | {"coverage": 0.94}, cell | {"coverage": 0.90}])) == 2
