"""Statistics against closed forms, published values and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stepvideo.evaluation.stats import (
    Estimate,
    cluster_bootstrap,
    holm,
    mcnemar_exact,
    paired_bootstrap,
    preference_score,
    sign_flip,
    verdict,
    wilson,
)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3 (score).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_reproduces_published_intervals(k, n, low, high):
    estimate = wilson(k, n)
    assert estimate.value == k / n
    assert (round(estimate.low, 4), round(estimate.high, 4)) == (low, high)


def test_wilson_equals_scipy_and_mirrors():
    binomtest = pytest.importorskip("scipy.stats").binomtest
    for k, n in ((0, 7), (3, 11), (199, 200), (200, 200)):
        expected = binomtest(k, n).proportion_ci(method="wilson")
        assert wilson(k, n).low == pytest.approx(expected.low, abs=1e-12)
        assert wilson(k, n).high == pytest.approx(expected.high, abs=1e-12)
        assert wilson(n - k, n).low == pytest.approx(1 - wilson(k, n).high, abs=1e-12)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_was_not_measured(k, n):
    with pytest.raises(ValueError, match=f"n={n}"):
        wilson(k, n)


def test_cluster_bootstrap_of_independent_values_has_the_normal_width():
    x = np.random.default_rng(0).normal(3, 2, 400)
    estimate = cluster_bootstrap(x, resamples=4000)
    assert estimate.value == pytest.approx(x.mean())
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * x.std() / 20, rel=0.06)


def test_cluster_bootstrap_widens_by_the_design_effect():
    """Identical answers of 4 raters to a prompt carry the information of one: the width must grow by sqrt(4)."""
    per_prompt = np.random.default_rng(1).integers(0, 2, 200)
    x, prompts = np.repeat(per_prompt, 4), np.repeat(np.arange(200), 4).tolist()
    naive, clustered = cluster_bootstrap(x, resamples=4000), cluster_bootstrap(x, prompts, resamples=4000)
    assert clustered.value == naive.value
    ratio = (clustered.high - clustered.low) / (naive.high - naive.low)
    assert ratio == pytest.approx(2.0, rel=0.08)


def test_cluster_bootstrap_weighs_clusters_by_their_size():
    estimate = cluster_bootstrap([1, 1, 1, 0], ["a", "a", "a", "b"])
    assert estimate.value == 0.75
    assert (estimate.low, estimate.high) == (0.0, 1.0)  # a resample may hold one of the two clusters only


def test_bootstrap_is_deterministic_and_covers():
    x = np.random.default_rng(2).random(50)
    assert cluster_bootstrap(x, seed=3) == cluster_bootstrap(x, seed=3)
    rng = np.random.default_rng(4)
    covered = sum(
        e.low <= 0.5 <= e.high for e in (cluster_bootstrap(rng.random(60), resamples=400, seed=i) for i in range(200))
    )
    assert 0.90 <= covered / 200 <= 0.985


def test_paired_bootstrap_uses_the_pairing():
    rng = np.random.default_rng(5)
    difficulty = rng.normal(0, 5, 100)
    a, b = difficulty + 0.5 + rng.normal(0, 0.2, 100), difficulty + rng.normal(0, 0.2, 100)
    estimate = paired_bootstrap(a, b)
    assert estimate.value == pytest.approx(0.5, abs=0.06)
    assert estimate.high - estimate.low < 0.15  # unpaired, it would be about 2.8
    with pytest.raises(ValueError, match="equal lengths"):
        paired_bootstrap([1, 2], [1])


def test_mcnemar_closed_forms_and_scipy():
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(0, 5) == 2 / 32
    assert mcnemar_exact(4, 4) == 1.0
    assert mcnemar_exact(10, 2) == mcnemar_exact(2, 10) == pytest.approx(2 * (1 + 12 + 66) / 4096)
    binomtest = pytest.importorskip("scipy.stats").binomtest
    for b, c in ((3, 9), (40, 61), (300, 250)):
        assert mcnemar_exact(b, c) == pytest.approx(binomtest(b, b + c).pvalue, rel=1e-9)


def test_sign_flip_exact_values():
    assert sign_flip([1, 1, 1, 1, 1]) == 2 / 32
    assert sign_flip([1, -1]) == 1.0
    assert sign_flip([0, 0, 0]) == 1.0
    # 3 outcomes of one prompt flip together: two clusters, 4 patterns, 2 as extreme as observed.
    assert sign_flip([1, 1, 1, 1], ["p", "p", "p", "q"]) == 0.5


def test_sign_flip_monte_carlo_agrees_with_the_binomial():
    differences = [1] * 60 + [-1] * 40
    exact = mcnemar_exact(60, 40)
    assert sign_flip(differences, resamples=20_000) == pytest.approx(exact, abs=0.01)
    assert sign_flip(differences, seed=1) == sign_flip(differences, seed=1)


def test_preference_score_and_verdicts():
    better = preference_score([1] * 70 + [0] * 10 + [-1] * 20)
    assert better.score.value == 0.75 and (better.wins, better.ties, better.losses) == (70, 10, 20)
    assert better.verdict == "preferred" and better.p_value < 1e-3
    assert preference_score([-1] * 30).verdict == "not preferred"
    ties = preference_score([0] * 30)
    assert ties.score.value == 0.5 and 0.45 < ties.score.low < 0.5 < ties.score.high < 0.55
    assert ties.verdict == "no difference shown" and ties.p_value == 1.0
    mirrored = preference_score([-1] * 70 + [0] * 10 + [1] * 20)
    assert mirrored.score.value == pytest.approx(1 - better.score.value)
    with pytest.raises(ValueError, match="outcomes"):
        preference_score([0.5])


def test_three_raters_of_one_prompt_do_not_count_as_three():
    rng = np.random.default_rng(6)
    votes = rng.choice([1, 0, -1], 300, p=[0.45, 0.2, 0.35])
    alone = preference_score(votes)
    thrice = preference_score(np.repeat(votes, 3), np.repeat(np.arange(300), 3).tolist())
    assert thrice.score.value == pytest.approx(alone.score.value)
    assert thrice.p_value == pytest.approx(alone.p_value, abs=0.01)
    assert thrice.score.high - thrice.score.low == pytest.approx(alone.score.high - alone.score.low, rel=0.1)


def test_missing_samples_are_errors():
    with pytest.raises(ValueError, match="at least one"):
        cluster_bootstrap([])
    with pytest.raises(ValueError, match="value 1 is not finite"):
        cluster_bootstrap([1.0, math.nan])
    with pytest.raises(ValueError, match="2 values but 1 clusters"):
        cluster_bootstrap([1, 2], ["a"])


def test_holm_equals_statsmodels():
    from statsmodels.stats.multitest import multipletests

    rng = np.random.default_rng(0)
    for n in (1, 2, 11):
        p = (rng.random(n) ** 2).round(2).tolist()  # with equal ones
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert holm([]) == []


@pytest.mark.parametrize(
    ("low", "high", "prompts", "expected"),
    [
        (0.51, 0.6, 100, "supported"),
        (0.3, 0.49, 100, "contradicted"),
        (0.45, 0.55, 100, "inconclusive"),
        (0.9, 1.0, 5, "untestable"),
    ],
)
def test_four_verdicts(low, high, prompts, expected):
    assert verdict(Estimate((low + high) / 2, low, high, 300), 0.5, prompts) == expected
    assert verdict(None, 0.5, prompts) == "untestable"
