"""Agreement against the reference libraries on random tables with missing entries, and on textbook cases."""

from __future__ import annotations

import krippendorff as reference
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepvideo.evaluation.agreement import fleiss, krippendorff, left_share, raw_agreement, value_counts
from stepvideo.evaluation.votes import Vote

NAN = float("nan")
# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), example C: 4 observers, 12 units, values 1 to 5.
EXAMPLE = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
    [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
]
PUBLISHED = {"nominal": 0.743, "ordinal": 0.815, "interval": 0.849}


def _counts(table):
    units = {i: [x for x in column if not np.isnan(x)] for i, column in enumerate(np.asarray(table, float).T)}
    return value_counts(units)


@pytest.mark.parametrize("level", PUBLISHED)
def test_alpha_reproduces_krippendorffs_example(level):
    _, domain, counts = _counts(EXAMPLE)
    assert round(krippendorff(counts, domain, level).value, 3) == PUBLISHED[level]


@st.composite
def tables(draw):
    """Raters by units, values from a domain with gaps, some missing."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    raters, units = int(rng.integers(2, 6)), int(rng.integers(3, 40))
    domain = np.sort(rng.choice(12, int(rng.integers(2, 6)), replace=False)).astype(float)
    centre = rng.integers(0, len(domain), units)
    noise = rng.integers(-1, 2, (raters, units))
    table = domain[np.clip(centre + noise, 0, len(domain) - 1)]
    table[rng.random(table.shape) < draw(st.sampled_from([0, 0.2, 0.5]))] = np.nan
    return table


@settings(max_examples=60, deadline=None)
@given(tables(), st.sampled_from(["nominal", "ordinal", "interval"]))
def test_alpha_equals_the_reference_library(table, level):
    _, domain, counts = _counts(table)
    found = krippendorff(counts, domain, level)
    paired = counts[counts.sum(1) >= 2]
    if found is None:
        assert not len(paired) or (paired.sum(0) > 0).sum() < 2
        return
    assert found.value == pytest.approx(reference.alpha(table, level_of_measurement=level), abs=1e-12)
    assert found.low <= found.value <= found.high and -1 <= found.low and found.high <= 1
    assert found.n == paired.sum()


@settings(max_examples=60, deadline=None)
@given(tables())
def test_kappa_equals_the_reference_library(table):
    from statsmodels.stats.inter_rater import fleiss_kappa  # takes a second, which each test process would pay above

    whole = np.nan_to_num(table, nan=float(np.nanmax(table)) if np.isfinite(table).any() else 0.0)
    _, _, counts = _counts(whole)
    found = fleiss(counts)
    if counts.shape[1] < 2:
        assert found is None
    else:
        assert found.value == pytest.approx(fleiss_kappa(counts), abs=1e-12)
        assert found.low <= found.value <= found.high


def test_units_of_one_prompt_are_one_cluster():
    rng = np.random.default_rng(0)
    table = rng.integers(0, 3, (3, 60)).astype(float)
    table[1] = np.where(rng.random(60) < 0.6, table[0], table[1])
    _, domain, counts = _counts(table)
    alone, thrice = krippendorff(counts, domain, "nominal"), krippendorff(np.repeat(counts, 3, 0), domain, "nominal")
    again = krippendorff(np.repeat(counts, 3, 0), domain, "nominal", [i for i in range(60) for _ in range(3)])
    assert thrice.high - thrice.low < 0.65 * (alone.high - alone.low)
    assert again.high - again.low == pytest.approx(alone.high - alone.low, rel=0.02)


@pytest.mark.parametrize("measure", [lambda c, d: krippendorff(c, d, "nominal"), lambda c, _: fleiss(c)])
def test_full_agreement_keeps_a_width_and_one_value_is_undefined(measure):
    counts = np.array([[3.0, 0.0], [0.0, 3.0]] * 6)
    found = measure(counts, [0.0, 1.0])
    assert found.value == found.high == 1 and 0.5 < found.low < 0.99
    assert measure(np.array([[3.0]] * 6), [1.0]) is None
    assert measure(np.array([[1.0, 0.0], [0.0, 1.0]]), [0.0, 1.0]) is None


def test_raw_agreement_is_the_share_of_agreeing_pairs():
    counts = [[2, 1, 0], [3, 0, 0], [1, 1, 1], [1, 0, 0]]
    found = raw_agreement(counts)
    assert found.value == pytest.approx((1 / 3 + 1 + 0) / 3) and found.n == 3
    assert raw_agreement([[1, 0]]) is None


def test_a_side_that_wins_is_seen():
    def vote(i, outcome, left):
        return Vote("s", "compare", f"i{i}", f"p{i}", "x", outcome=outcome, shown_left=left)

    always_left = [vote(i, 1 if i % 2 else -1, "a" if i % 2 else "b") for i in range(40)]
    share, p = left_share(always_left)
    assert share.value == 1 and share.low > 0.8 and p < 0.001
    share, p = left_share([vote(i, 1, "ab"[i % 2]) for i in range(40)])
    assert share.value == 0.5 and share.low < 0.5 < share.high and p == 1
    assert left_share([vote(0, 0, "a"), vote(1, 1, "")]) is None
