"""Sample sizes against figures of notes and against simulated studies."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr

from stepvideo.evaluation.planner import Design, detectable, power_of, prompts_needed, simulate
from stepvideo.evaluation.stats import sign_flip


@pytest.mark.parametrize(
    ("score", "ties", "prompts"),
    [(0.55, 0.0, 783), (0.55, 0.4, 469), (0.60, 0.0, 194), (0.60, 0.4, 116), (0.45, 0.4, 469)],
)
def test_one_annotator_a_prompt(score, ties, prompts):
    assert prompts_needed(Design(score, ties, raters=1)) == prompts


def test_annotators_who_agree_add_nothing_and_independent_ones_are_as_good_as_prompts():
    assert prompts_needed(Design(0.55, 0.0, raters=3, correlation=1)) == 783
    assert prompts_needed(Design(0.55, 0.0, raters=3, correlation=0)) == 261
    # 300 prompts with 3 annotators, as in the report's DPO study, reach 55 % only where annotators disagree a lot.
    assert power_of(Design(0.55, 0.4, 3, 0.39), 300) > 0.8 > power_of(Design(0.55, 0.0, 3, 0.68), 300)


@pytest.mark.parametrize(
    "design", [Design(0.55, 0.0, 1), Design(0.55, 0.4, 3, 0.4), Design(0.62, 0.2, 5, 0.7), Design(0.42, 0.3, 2, 0.1)]
)
def test_simulated_studies_have_the_planned_power(design):
    n = prompts_needed(design)
    assert simulate(design, n, studies=1500) == pytest.approx(0.8, abs=0.035)
    assert power_of(design, n) >= 0.8 > power_of(design, n - 1)


def test_the_simulation_decides_as_the_sign_flip_test_does():
    """Its normal tail against the permutations themselves on 40 prompts, and its level where there is nothing."""
    rng = np.random.default_rng(0)
    for _ in range(12):
        sums = rng.choice([-2, -1, 0, 1, 2], 40, p=[0.1, 0.15, 0.3, 0.25, 0.2]).astype(float)
        z = (abs(sums.sum()) - 1) / np.sqrt((sums**2).sum())
        assert sign_flip(sums) == pytest.approx(2 * ndtr(-z), abs=0.03)
    assert simulate(Design(0.5 + 1e-9, 0.3, 3, 0.4), 100, studies=3000) == pytest.approx(0.05, abs=0.013)


def test_what_a_number_of_prompts_can_show_is_the_inverse():
    design = Design(0.55, 0.3, 3, 0.4)
    shown = detectable(design, prompts_needed(design))
    assert shown == pytest.approx(0.55, abs=2e-4)
    assert detectable(design, 5) is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"score": 0.5}, "score=0.5"),
        ({"score": 0.9, "ties": 0.3}, "ties=0.3: at a score of 0.9 the share of ties is from 0 to 0.2"),
        ({"raters": 0}, "raters=0"),
        ({"correlation": 1.2}, "correlation=1.2"),
        ({"power": 1.0}, "power=1.0"),
    ],
)
def test_impossible_designs_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        Design(**fields)
