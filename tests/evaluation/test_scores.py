"""Metric-1 and Metric-2: the report's tables from their rows, its slips as slips, and intervals over prompts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stepvideo.errors import ArtifactError
from stepvideo.evaluation.ratings import rate
from stepvideo.evaluation.scores import duels
from stepvideo.evaluation.stats import mcnemar_exact
from stepvideo.evaluation.votes import SCALES, Vote

REPORT = json.loads((Path(__file__).parent / "report_tables.json").read_text(encoding="utf-8"))
OURS = "Step-Video-T2V"


def _rows(table: str) -> dict:
    return {k: v for k, v in REPORT[table]["rows"].items() if k != "Overall"}


def _votes(table: str, other: str) -> list[Vote]:
    """Votes with the tallies of a table's rows. Which prompt got which vote is not published; the order is ours."""
    out = []
    for category, cells in _rows(table).items():
        for annotator, (w, t, n) in zip(REPORT[table]["columns"], cells):
            for i, outcome in enumerate([1] * w + [0] * t + [-1] * n):
                prompt = f"{category} {i}"
                names = {"model_a": OURS, "model_b": other, "category": category}
                out.append(Vote("s", "compare", prompt, prompt, annotator, outcome=outcome, **names))
    return out


@pytest.mark.parametrize(
    ("table", "other", "prompts"), [("7", "HunyuanVideo", 128), ("9", "T2VTopA", 126), ("10", "T2VTopB", 122)]
)
def test_totals_of_metric_1_follow_from_the_rows(table, other, prompts):
    (duel,) = duels(_votes(table, other))
    printed = REPORT[table]["rows"]
    assert duel.overall.tally == dict(zip(REPORT[table]["columns"], map(tuple, printed["Overall"])))
    assert duel.overall.prompts == prompts and sum(c.prompts for c in duel.categories) == prompts
    assert {c.name: [list(t) for t in c.tally.values()] for c in duel.categories} == _rows(table)
    assert {a.name: [a.score.wins, a.score.ties, a.score.losses] for a in duel.annotators} == dict(
        zip(REPORT[table]["columns"], printed["Overall"])
    )


def test_totals_of_the_movie_gen_benchmark_count_a_prompt_in_each_of_its_categories():
    rows, overall = _rows("12"), REPORT["12"]["rows"]["Overall"]
    for column in (0, 1):
        assert [sum(x) for x in zip(*(r[column] for r in rows.values()))] == overall[column]
    assert all(sum(r[0]) == sum(r[1]) == r[2][0] for r in (*rows.values(), overall))
    both = [
        Vote("s", "compare", "i", "p", "x", outcome=1, model_a="m", model_b="n", category="human; scene"),
        Vote("s", "compare", "j", "q", "x", outcome=-1, model_a="m", model_b="n", category="human"),
    ]
    (duel,) = duels(both)
    assert {c.name: c.prompts for c in duel.categories} == {"human": 2, "scene": 1} and duel.overall.prompts == 2


def test_one_total_of_table_8_is_a_slip_and_the_other_seven_follow():
    """Physical plausibility of HunyuanVideo is printed as 1,238, the total of the column beside it; rows give 1,341."""
    sums = [[sum(x) for x in zip(*cells)] for cells in zip(*_rows("8").values())]
    printed = REPORT["8"]["rows"]["Overall"]
    slips = [
        (REPORT["8"]["columns"][i], j, printed[i][j], sums[i][j])
        for i in range(4)
        for j in (0, 1)
        if printed[i][j] != sums[i][j]
    ]
    assert slips == [("Physical Plausibility", 1, 1238, 1341)]
    assert printed[2][1] == printed[3][1] == 1238


def test_single_annotators_of_table_7_decide_little():
    """Of three annotators one alone prefers a model at 5 %, and none after the correction for three."""
    (duel,) = duels(_votes("7", "HunyuanVideo"))
    scores = [a.score for a in duel.annotators]
    assert [round(mcnemar_exact(s.wins, s.losses), 3) for s in scores] == [0.285, 0.266, 0.031]
    assert [round(s.score.value, 3) for s in scores] == [0.547, 0.543, 0.582]
    assert [a.verdict for a in duel.annotators] == ["inconclusive"] * 3
    assert [s.p_value < 0.05 for s in scores] == [False, False, True]
    assert all(a.p_holm > 0.05 for a in duel.annotators)
    assert all(0.065 < (s.score.high - s.score.low) / 2 < 0.085 for s in scores)


def test_aesthetics_of_table_11_in_the_two_ways_that_its_text_can_be_read():
    """That 4 of 6 annotators rate T2VTopA and T2VTopB higher is true of either of the two, and of both it is 0."""
    aesthetic = {who: {m: scores[3] for m, scores in models.items()} for who, models in _rows("11").items()}
    either = [who for who, s in aesthetic.items() if max(s["T2VTopA"], s["T2VTopB"]) > s[OURS]]
    both = [who for who, s in aesthetic.items() if min(s["T2VTopA"], s["T2VTopB"]) > s[OURS]]
    assert (len(either), len(both)) == (4, 0)


def _ratings(raters: int, prompts: int, models: dict[str, float], seed: int = 0) -> list[Vote]:
    rng = np.random.default_rng(seed)
    out = []
    for p in range(prompts):
        hard = rng.normal(0, 1)
        for model, level in models.items():
            for r in range(raters):
                scores = {s: int(np.clip(round(level + hard + rng.normal(0, 0.7)), 1, 5)) for s in SCALES}
                kind = {"model": model, "category": "AB"[p % 2]}
                out.append(Vote("s", "rate", f"{model}{p}", f"p{p}", f"r{r}", **kind, **scores))
    return out


def test_metric_2_sums_by_category_and_annotator_add_up_to_the_whole():
    votes = _ratings(3, 20, {"m": 3.4, "n": 3.0})
    found = rate(votes)
    for model in ("m", "n"):
        for scale in SCALES:
            total = sum(v.scores[scale] for v in votes if v.model == model)
            cell = found.overall[model][scale]
            assert cell.total == total and cell.mean.value == pytest.approx(total / 60) and cell.mean.n == 60
            for parts in (found.categories, found.annotators):
                assert sum(p[model][scale].total for p in parts.values()) == total
    assert list(found.categories) == ["A", "B"] and list(found.annotators) == ["r0", "r1", "r2"]


def test_differences_of_ratings_are_paired_by_prompt_and_annotator():
    """Prompts differ far more than models, so pairs decide what two means with their own intervals do not."""
    found = rate(_ratings(3, 60, {"m": 3.2, "n": 2.8}))
    for d in found.differences:
        a, b = found.overall["m"][d.scale].mean, found.overall["n"][d.scale].mean
        assert d.difference.value == pytest.approx(a.value - b.value) and d.difference.n == 180
        assert d.difference.high - d.difference.low < 0.8 * ((a.high - a.low) + (b.high - b.low)) / 2
        assert d.verdict == "supported" and d.p_holm < 0.05
    assert [(d.a, d.b) for d in rate(_ratings(1, 6, {"m": 3, "n": 3, "o": 3}), "n").differences[::4]] == [
        ("m", "n"),
        ("o", "n"),
    ]


def test_a_unanimous_rating_keeps_a_width():
    votes = [Vote("s", "rate", f"i{p}", f"p{p}", "x", model="m", **dict.fromkeys(SCALES, 5)) for p in range(12)]
    mean = rate(votes).overall["m"]["motion_smoothness"].mean
    assert mean.value == mean.high == 5 and 4.5 < mean.low < 5


def test_models_are_turned_to_the_one_that_is_asked_for():
    votes = _votes("7", "HunyuanVideo") + _votes("9", "T2VTopA")
    assert [(d.a, d.b) for d in duels(votes)] == [(OURS, "HunyuanVideo"), (OURS, "T2VTopA")]
    (turned,) = duels(votes, "Step-Video-T2V")[:1]
    assert (turned.a, turned.b) == ("HunyuanVideo", OURS)
    assert turned.overall.score.score.value == pytest.approx(1 - duels(votes)[0].overall.score.score.value)
    mixed = [
        Vote(**{**vars(v), "model_a": v.model_b, "model_b": v.model_a, "outcome": -(v.outcome or 0)}) for v in votes
    ]
    assert duels(votes[:1] + mixed[1:384])[0].overall.tally == duels(votes[:384])[0].overall.tally


def test_blind_votes_and_unknown_models_are_refused():
    blind = [Vote("s", "compare", "i", "p", "x", outcome=1)]
    with pytest.raises(ArtifactError, match="names no models: close its study"):
        duels(blind)
    with pytest.raises(ArtifactError, match="no vote is on 'x'; the models are HunyuanVideo, Step-Video-T2V"):
        duels(_votes("7", "HunyuanVideo"), "x")
    with pytest.raises(ArtifactError, match="names no model"):
        rate([Vote("s", "rate", "i", "p", "x", **dict.fromkeys(SCALES, 3))])


def test_too_few_prompts_are_untestable_whatever_they_say():
    votes = [Vote("s", "compare", f"i{i}", f"p{i}", "x", outcome=1, model_a="m", model_b="n") for i in range(5)]
    assert duels(votes)[0].overall.verdict == "untestable"
