"""Rows of results: completeness, rates, pairing, preference."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stepvideo.errors import ArtifactError
from stepvideo.evaluation.results import (
    Row,
    by_split,
    clustered_rates,
    compare,
    preference,
    rates,
    read_rows,
    write_rows,
)
from stepvideo.world.attributes import NAMES, held_out_combinations, train_combinations

COMBOS = train_combinations()[:6] + held_out_combinations()[:3]


def row(i: int, right: int = 5, soft: float = 0.8, untestable: tuple[str, ...] = (), run: str = "main") -> Row:
    """A sample whose first `right` attributes are right."""
    attrs = COMBOS[i % len(COMBOS)]
    answers: dict[str, bool | None] = {n: k < right for k, n in enumerate(NAMES)}
    answers["all"] = right == 5
    for n in untestable:
        answers[n] = answers["all"] = None
    return Row(
        run, i, f"prompt {i}", "en", i % len(COMBOS) >= 6, attrs.as_dict(), 7, 8, 16, answers,
        dict.fromkeys(NAMES, "x"), dict.fromkeys(NAMES, soft), 1.0,
    )  # fmt: skip


def test_rows_survive_the_file(tmp_path):
    rows = [row(i, run=run) for run in ("main", "fast") for i in range(5)]
    write_rows(tmp_path / "r.jsonl", rows)
    back = read_rows(tmp_path / "r.jsonl")
    assert back == {"main": rows[:5], "fast": rows[5:]}


def test_a_missing_sample_is_an_error(tmp_path):
    rows = [row(i) for i in range(6)]
    write_rows(tmp_path / "r.jsonl", rows[:2] + rows[3:])
    with pytest.raises(ArtifactError, match=r"no result for prompt \[2\]"):
        read_rows(tmp_path / "r.jsonl")
    write_rows(tmp_path / "r.jsonl", rows + [row(i, run="fast") for i in range(5)])
    with pytest.raises(ArtifactError, match=r"run fast has no result for prompt \[5\]"):
        read_rows(tmp_path / "r.jsonl")
    (tmp_path / "r.jsonl").write_text("")
    with pytest.raises(ArtifactError, match="no result"):
        read_rows(tmp_path / "r.jsonl")
    (tmp_path / "r.jsonl").write_text('{"run": "main"')
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_rows(tmp_path / "r.jsonl")


def test_rates_and_splits():
    rows = [row(i, right=5 if i % 2 else 2) for i in range(18)]
    train, heldout = by_split(rows)["train"], by_split(rows)["heldout"]
    assert (len(train), len(heldout)) == (12, 6)
    found = rates(rows)
    assert found["colour"].value == found["shape"].value == 1.0
    assert found["direction"].value == found["all"].value == 0.5
    assert found["all"].n == 18 and found["all"].low < 0.5 < found["all"].high


def test_untestable_attributes_have_no_rate():
    rows = [row(i, untestable=("shape",)) for i in range(9)]
    assert rates(rows)["shape"] is None and rates(rows)["all"] is None
    assert rates(rows)["colour"].value == 1.0
    assert clustered_rates(rows)["shape"] is None


def test_clusters_of_combinations_widen_the_interval():
    """9 combinations × 20 prompts where a combination is right always or never."""
    rows = [row(i, right=5 if i % 9 % 2 else 0) for i in range(180)]
    wide, narrow = clustered_rates(rows)["all"], rates(rows)["all"]
    assert wide.value == narrow.value
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_preference_counts_right_attributes_first_then_softness():
    a = [row(i, right=5, soft=0.5) for i in range(40)]
    assert preference(a, a).ties == 40 and preference(a, a).score.value == 0.5
    more_right = [row(i, right=4, soft=0.9) for i in range(40)]
    assert preference(a, more_right).wins == 40
    softer = [row(i, right=5, soft=0.4) for i in range(40)]
    assert preference(a, softer).wins == 40 and preference(softer, a).losses == 40
    assert preference(a, softer).verdict == "preferred"


def test_untestable_attributes_do_not_decide_a_preference():
    a = [row(i, right=5, untestable=("count", "size")) for i in range(10)]
    b = [row(i, right=3, untestable=("count", "size")) for i in range(10)]
    result = preference(a, [replace(r, soft={**r.soft, "count": 0.0}) for r in b])
    assert result.ties == 10
    assert preference([row(0, untestable=NAMES)], [row(0)]) is None


def test_compare_is_paired():
    a = [row(i, right=5 if i < 30 else 0) for i in range(60)]
    b = [row(i, right=5 if i < 20 else 0) for i in range(60)]
    found = compare(a, b)["all"]
    assert found.difference.value == pytest.approx(10 / 60)
    assert (found.only_a, found.only_b, found.p_value) == (10, 0, 2 / 2**10)
    assert found.difference.low > 0
    assert compare(a, [row(i, untestable=("size",)) for i in range(60)])["size"] is None


def test_only_equal_prompts_and_noise_are_paired():
    a = [row(i) for i in range(3)]
    with pytest.raises(ArtifactError, match="3 and 2 prompts"):
        preference(a, a[:2])
    with pytest.raises(ArtifactError, match="same prompt_seed"):
        preference(a, [*a[:2], replace(a[2], seed=8)])
    with pytest.raises(ArtifactError, match="prompt 1"):
        compare(a, [a[0], replace(a[1], text="other"), a[2]])
