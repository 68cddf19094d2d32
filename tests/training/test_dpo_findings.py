"""What the study of DPO concludes: intervals of made seeds and prompts, verdicts, controls that fail."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from intervals import bare

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from dpo_findings import (  # noqa: E402
    DEFAULT,
    DIFFUSION_DPO,
    mean_of,
    missed,
    nested_bootstrap,
    outcomes,
    preferences,
    table,
    verdicts,
)


def made(better, draw, **arms):
    """Qualities of the base and of arms that are `better` by so much, for a seed of 60 prompts."""
    base = draw.normal(0.8, 0.1, 60)
    found = {"base": base, **{k: base + draw.normal(by, 0.1, 60) for k, by in {**better, **arms}.items()}}
    return {"qualities": {k: [[5.0, float(v)] for v in q] for k, q in found.items()}, "dpo": {}, "shuffled": {}}


def test_outcomes_rank_attributes_before_fidelity():
    arm, base = [[5, 0.1], [4, 0.9], [5, 0.52], [5, 0.5]], [[4, 0.9], [5, 0.1], [5, 0.5], [5, 0.5]]
    assert outcomes(arm, base) == [1, 0, 1, 0.5]
    assert outcomes(arm, base, tie=0.03) == [1, 0, 0.5, 0.5]


def test_the_interval_holds_the_truth_and_counts_seeds_as_well_as_prompts():
    draw = np.random.default_rng(0)
    inside = 0
    for k in range(30):
        e = nested_bootstrap((draw.random((5, 40)) < 0.5).astype(float), np.random.default_rng(k), resamples=400)
        inside += e["low"] <= 0.5 <= e["high"]
    assert inside >= 26
    same = np.repeat(draw.random((5, 1)) < 0.5, 40, 1).astype(float)  # seeds differ, their prompts do not
    e = nested_bootstrap(same, draw, resamples=400)
    assert e["high"] - e["low"] > 0.5


def test_every_mean_of_an_arm_has_its_interval():
    draw = np.random.default_rng(2)
    seeds = [made({"shuffled": 0.0, "aa": 0.0}, draw, dpo=0.2) | {"dpo": {"drift": float(k)}} for k in range(5)]
    found = preferences(seeds)["dpo"]
    assert found["fidelity_low"] < 0.2 < found["fidelity_high"] < found["fidelity_low"] + 0.1
    assert found["right"] == found["right_low"] == found["right_high"] == 0
    assert found["training"]["drift"]["low"] < 1 < found["training"]["drift"]["value"] == 2 and bare(found) == []
    said = table({"preference": {"dpo": found}, "verdicts": {}})
    assert f"[{found['fidelity_low']:+.4f}, {found['fidelity_high']:+.4f}]" in said
    assert mean_of([0.5], [0]) == {"value": 0.5, "low": None, "high": None, "n": 1}


def test_verdicts():
    draw = np.random.default_rng(1)
    null = {"shuffled": 0.0, "aa": 0.0}
    for by, said in ((0.2, "supported"), (-0.2, "contradicted"), (0.0, "inconclusive")):
        found = {"preference": preferences([made(null, draw, dpo=by) for _ in range(5)])}
        assert not missed(found) and list(verdicts(found).values()) == [said] * 2
    found = {"preference": preferences([made({"shuffled": 0.2, "aa": 0.0}, draw, dpo=0.2) for _ in range(5)])}
    assert missed(found) == ["shuffled"] and list(verdicts(found).values()) == ["untestable"] * 2


def test_the_rule_that_decides_counts_what_nobody_sees_as_a_tie():
    """Every sample is a hair better: the strict rule calls that a preference, annotators see nothing."""
    seeds = [{"qualities": {"base": [[5.0, 0.5]] * 40, **{a: [[5.0, 0.51]] * 40 for a in ("dpo", "shuffled", "aa")}}}]
    found = {"preference": preferences(seeds)}
    assert found["preference"]["dpo"]["value"] == 1 and found["preference"]["dpo"]["value_with_ties"] == 0.5
    assert not missed(found) and set(verdicts(found).values()) == {"inconclusive"}


def test_verdicts_of_the_grid():
    def cell(setting, norm, accuracy=0.9, exploded=False):
        beta, lr = setting
        norms = {"grad_norm_first": norm, "gradient_ratio_first": 2 * norm / beta}
        return {"beta": beta, "lr": lr, **norms, "implicit_accuracy": accuracy, "exploded": exploded}

    large = (5000.0, DEFAULT[1])
    good = [cell(DEFAULT, 20), cell(large, 500, exploded=True), cell(DIFFUSION_DPO, 500, 0.5)]
    assert list(verdicts({"grid": good}).values()) == ["supported"] * 4
    bad = [cell(DEFAULT, 20, exploded=True), cell(large, 20), cell(DIFFUSION_DPO, 20)]
    assert list(verdicts({"grid": bad}).values()) == ["contradicted"] * 4
    del good[1]["grad_norm_first"]
    assert "untestable" in verdicts({"grid": good}).values()
