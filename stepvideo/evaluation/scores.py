"""Metric-1: how often one model beats another, as in Tables 7, 9, 10 and 12 of the report, with intervals.

score = (W + ½ T) / n. Several annotators see one prompt, so intervals and p-values are over prompts. A prompt with
several categories counts in each, and once in the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stepvideo.errors import ArtifactError
from stepvideo.evaluation.stats import LEVEL, Preference, holm, preference_score, score_estimate, verdict
from stepvideo.evaluation.votes import Vote


@dataclass(frozen=True)
class Line:
    """Votes of one category, one annotator, or all.

    Attributes:
        p_holm: p-value corrected for the number of lines beside it; None where there is only one.
        verdict: from the 95 % interval; beside other lines from one so wide that all of them hold at 95 % (Bonferroni).
        tally: annotator → (wins, ties, losses).
    """

    name: str
    score: Preference
    prompts: int
    verdict: str
    p_holm: float | None
    tally: dict[str, tuple[int, int, int]]


@dataclass(frozen=True)
class Duel:
    """Votes on one pair of models, `a` against `b`; `claim` is the score that verdicts compare with."""

    a: str
    b: str
    claim: float
    overall: Line
    categories: list[Line]
    annotators: list[Line]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def duels(votes: Sequence[Vote], against: str | None = None, claim: float = 0.5, seed: int = 0) -> list[Duel]:
    """Every pair of models that was compared, in order of first appearance; with `against`, others against that one.

    Raises:
        ArtifactError: votes that name no models (their study is still blind), or no vote on the model `against`.
    """
    pairs: dict[tuple[str, str], list[Vote]] = {}
    for v in votes:
        if not (v.model_a and v.model_b):
            raise ArtifactError(
                f"the vote on item {v.item!r} names no models: close its study first, which unblinds it"
            )
        if against is not None and against not in (v.model_a, v.model_b):
            continue
        turned = (v.model_b, v.model_a) in pairs if against is None else v.model_a == against
        key = (v.model_b, v.model_a) if turned else (v.model_a, v.model_b)
        pairs.setdefault(key, []).append(v)
    if not pairs and votes:
        names = sorted({n for v in votes for n in (v.model_a, v.model_b)})
        raise ArtifactError(f"no vote is on {against!r}; the models are {', '.join(names)}")
    return [_duel(a, b, found, claim, seed) for (a, b), found in pairs.items()]


def _duel(a: str, b: str, votes: Sequence[Vote], claim: float, seed: int) -> Duel:
    rows = [(v, (v.outcome or 0) * (1 if v.model_a == a else -1)) for v in votes]
    people = list(dict.fromkeys(v.annotator for v in votes))
    kinds = list(dict.fromkeys(c for v in votes for c in v.categories))

    (overall,) = _lines({"overall": rows}, claim, seed)
    return Duel(
        a,
        b,
        claim,
        overall,
        _lines({k: [r for r in rows if k in r[0].categories] for k in kinds}, claim, seed),
        _lines({x: [r for r in rows if r[0].annotator == x] for x in people}, claim, seed),
    )


def _lines(family: dict[str, list[tuple[Vote, int]]], claim: float, seed: int) -> list[Line]:
    """Lines that are looked at together, so that the more there are, the more each of them has to show."""
    scores = [
        preference_score([x for _, x in rows], [v.prompt_id for v, _ in rows], seed=seed) for rows in family.values()
    ]
    corrected: Iterable[float | None] = holm([s.p_value for s in scores]) if len(scores) > 1 else [None]
    return [
        _line(name, rows, score, p, claim, len(family))
        for (name, rows), score, p in zip(family.items(), scores, corrected)
    ]


def _line(
    name: str, rows: Sequence[tuple[Vote, int]], score: Preference, p: float | None, claim: float, beside: int
) -> Line:
    tally: dict[str, tuple[int, int, int]] = {}
    for v, x in rows:
        w, t, lost = tally.get(v.annotator, (0, 0, 0))
        tally[v.annotator] = (w + (x == 1), t + (x == 0), lost + (x == -1))
    prompts = [v.prompt_id for v, _ in rows]
    wide = score_estimate([x for _, x in rows], prompts, level=1 - (1 - LEVEL) / beside)
    return Line(name, score, len(set(prompts)), verdict(wide, claim, len(set(prompts))), p, tally)
