"""Bradley–Terry and Rao–Kupper against choix, scipy's optimiser and truths that were simulated."""

from __future__ import annotations

import choix
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from intervals import bare
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from stepvideo.evaluation.pairwise import RIDGE, Unfit, fit, rank
from stepvideo.evaluation.stats import wilson
from stepvideo.evaluation.votes import Vote

NAMES = ["A", "B", "C", "D"]


def _draw(rng, win, loss):
    u = rng.random()
    return 1 if u < win else -1 if u > 1 - loss else 0


def _votes(theta, tau, n, seed, raters=1):
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        a, b = rng.choice(len(theta), 2, replace=False)
        win, loss = expit(theta[a] - theta[b] - tau), expit(theta[b] - theta[a] - tau)
        for r in range(raters):
            outcome = _draw(rng, win, loss)
            pair = {"model_a": NAMES[a], "model_b": NAMES[b]}
            out.append(Vote("s", "compare", f"i{i}", f"p{i}", f"r{r}", outcome=outcome, **pair))
    return out


def _counts(votes, k):
    counts = np.zeros((2, k, k))
    for v in votes:
        a, b = NAMES.index(v.model_a), NAMES.index(v.model_b)
        if v.outcome:
            counts[0][(a, b) if v.outcome == 1 else (b, a)] += 1
        else:
            counts[1][a, b] += 1
            counts[1][b, a] += 1
    return counts


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 0.5]))
def test_bradley_terry_equals_choix(seed, ridge):
    votes = _votes([0.8, 0.1, -0.3, -0.6], 0, 120, seed)
    wins = [tuple(NAMES.index(n) for n in (v.model_a, v.model_b)[:: v.outcome]) for v in votes]
    # choix's penalty is alpha · Σ θ², ours ridge / 2 · Σ θ².
    expected = choix.opt_pairwise(4, wins, alpha=ridge / 2, tol=1e-10)
    for model in ("bradley-terry", "rao-kupper"):  # without ties the two are one
        found = fit(_counts(votes, 4), model, ridge)
        assert found[:4] == pytest.approx(expected, abs=2e-4) and found[4] == 0


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_rao_kupper_is_at_the_maximum_that_scipy_finds(seed):
    counts = _counts(_votes([0.8, 0.1, -0.3, -0.6], 0.5, 150, seed), 4)

    def loss(x):
        d = x[:4, None] - x[None, :4]
        win = log_expit(d - x[4])
        tie = np.log(np.expm1(2 * x[4])) + win + win.T
        return -(counts[0] * win).sum() - (counts[1] * tie).sum() / 2 + RIDGE / 2 * (x[:4] ** 2).sum()

    bounds = [(-9, 9)] * 4 + [(1e-4, 9)]
    expected = minimize(loss, [0, 0, 0, 0, 0.3], bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-14})
    found = fit(counts)
    assert loss(found) <= expected.fun + 1e-7
    assert found == pytest.approx(expected.x, abs=2e-3)


def test_fits_at_once_are_the_fits_one_by_one():
    tables = np.stack([_counts(_votes([0.5, 0, -0.5], t, 60, s), 3) for s, t in ((0, 0.0), (1, 0.4), (2, 2.0))])
    assert fit(tables) == pytest.approx(np.stack([fit(t) for t in tables]), abs=1e-8)


def test_a_ranking_finds_the_simulated_order_and_its_intervals_hold_the_truth():
    truth = [1.0, 0.2, -0.3, -0.9]
    found = rank(_votes(truth, 0.4, 900, 5, raters=3))
    assert found.names == NAMES
    for e, t in zip(found.theta, truth):
        assert e.low < t < e.high and e.high - e.low < 0.4
    assert found.ties.low < 1 - 2 * expit(-0.4) < found.ties.high < found.ties.low + 0.12
    assert found.strength[0].value == pytest.approx(expit(1.0), abs=0.04)
    value, low, high = np.array([[(e.value, e.low, e.high) for e in row] for row in found.against]).transpose(2, 0, 1)
    assert value + value.T == pytest.approx(np.ones((4, 4))) and low + high.T == pytest.approx(np.ones((4, 4)))
    true = expit(np.subtract.outer(truth, truth))
    assert ((low <= true + 1e-9) & (true <= high + 1e-9)).all() and bare(found.as_dict()) == []


def test_no_tie_in_the_votes_is_no_proof_that_there_are_none():
    votes = [v for v in _votes([0.5, 0, -0.5], 0, 60, 1) if v.outcome]
    ties = rank(votes).ties
    assert (ties.value, ties.low) == (0, 0) and ties.high == wilson(0, len({v.prompt_id for v in votes})).high
    assert rank(votes, "bradley-terry").ties.high == 0  # which has none by its definition


def test_votes_of_one_prompt_are_one_cluster():
    votes = _votes([0.5, 0, -0.5], 0.3, 200, 1)
    thrice = [Vote(**{**vars(v), "annotator": f"r{r}"}) for v in votes for r in range(3)]
    one, three = rank(votes).theta[0], rank(thrice).theta[0]
    assert three.high - three.low == pytest.approx(one.high - one.low, rel=0.03)


def test_a_model_that_never_lost_has_a_finite_strength():
    votes = [v for v in _votes([9, 0, 0], 0, 60, 3) if "A" in (v.model_a, v.model_b) or v.outcome]
    found = rank(votes)
    assert found.names[0] == "A" and 2 < found.theta[0].value < 12 and np.isfinite(found.theta[0].high)


def test_what_cannot_be_ranked_is_refused_with_its_reason():
    votes = _votes([0.5, -0.5], 0, 20, 0)
    with pytest.raises(Unfit, match="2 models: their score says all"):
        rank(votes)
    apart = [Vote(**{**vars(v), "model_a": "CD"[v.model_a == "A"], "model_b": "CD"[v.model_b == "A"]}) for v in votes]
    with pytest.raises(Unfit, match=r"no comparison connects \(A, B\) with \(C, D\)"):
        rank(votes + apart)
    with pytest.raises(ValueError, match="model='elo'"):
        rank(votes, "elo")
