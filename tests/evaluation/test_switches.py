"""Figure 10: the drop of the loss where training goes on other data."""

from __future__ import annotations

import numpy as np
import pytest

from stepvideo.evaluation.collect import Curve
from stepvideo.evaluation.page_data import curves_html
from stepvideo.evaluation.switches import chained, drop, families, switches


def curve(stage: str, values) -> Curve:
    return Curve(stage, ["step", "loss", "grad_norm"], [[i, float(v), 1.0] for i, v in enumerate(values)])


def falling(n: int, level: float, noise: float, seed: int, slope: float = -1e-3) -> np.ndarray:
    return level + slope * np.arange(n) + noise * np.random.default_rng(seed).standard_normal(n)


def test_the_drop_is_the_step_and_not_the_learning():
    """Both sides fall by 0.1 in a window; the data make another 0.05 of difference."""
    before, after = falling(100, 0.6, 0.0, 0), falling(100, 0.6 - 0.1 - 0.05, 0.0, 0)
    exact = drop(list(enumerate(before)), list(enumerate(after)), 100)
    assert exact.value == pytest.approx(0.05) and exact.high - exact.low < 1e-9
    assert before.mean() - after.mean() == pytest.approx(0.15), "what a difference of means would have said"


@pytest.mark.parametrize("n", [8, 30, 100])
def test_the_interval_covers_the_truth_as_often_as_it_says(n):
    hits = 0
    for seed in range(600):
        a, b = falling(n, 0.5, 0.02, 2 * seed), falling(n, 0.5 - 1e-3 * n - 0.01, 0.02, 2 * seed + 1)
        found = drop(list(enumerate(a)), list(enumerate(b)), n)
        hits += found.low <= 0.01 <= found.high
    assert 0.925 <= hits / 600 <= 0.975


def test_switches_of_a_chain():
    chain = [
        curve("t2vi_192.s1", falling(120, 0.9, 0.01, 1)),
        curve("t2vi_192.s2", falling(80, 0.6, 0.01, 2)),
        curve("t2vi_192.s3", falling(80, 0.52, 0.01, 3)),
    ]
    found = switches(chain)
    assert [(s.before, s.after, s.step) for s in found] == [("s1", "s2", 120), ("s2", "s3", 200)]
    assert [s.verdict for s in found] == ["drop", "no change shown"]
    assert found[0].drop.low < 0.9 - 0.12 - 0.6 < found[0].drop.high
    assert found[0].as_dict()["low"] == found[0].drop.low
    assert switches([curve("a.s1", [1.0] * 5), curve("a.s2", [0.5] * 50)]) == [], "five steps say nothing"


def test_the_page_names_the_drops():
    members = [curve("t2vi_192.s1", falling(120, 0.9, 0.01, 1)), curve("t2vi_192.s2", falling(80, 0.6, 0.01, 2))]
    apart = [curve("sft.1", falling(60, 0.5, 0.01, 4)), curve("sft.2", falling(60, 0.4, 0.01, 5))]
    groups = families([*members, *apart])
    assert list(groups) == ["t2vi_192", "sft"] and chained(groups["t2vi_192"]) and not chained(groups["sft"])
    html = curves_html([*members, *apart])
    found = switches(members)[0].drop
    assert html.count("Loss at the switch") == 1 and f"s1 → s2: {-found.value:+.3g}" in html
    assert 'class="mark"' in html
