"""Metric-2: scores from 1 to 5 on four scales, summed as in Tables 8 and 11 of the report, with means and intervals.

A sum depends on how many people rated how many videos; the mean does not, so it stands beside it. Models are compared
where the same annotator rated both on the same prompt. Intervals are over prompts.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from numpy.typing import ArrayLike

from stepvideo.errors import ArtifactError
from stepvideo.evaluation.jackknife import mean_interval
from stepvideo.evaluation.stats import Estimate, holm, sign_flip, verdict
from stepvideo.evaluation.votes import SCALES, Vote

# Pseudo-prompts of the interval: a quarter of one at 1 and at 5, and of differences half of one at −1 and at +1; the
# weights with the coverage that benchmarks/study_coverage.py measures.
_ENDS, _WEIGHT, _STEP = (1, 5), 0.25, (-1, 1)


@dataclass(frozen=True)
class Cell:
    """Ratings of one model on one scale: their sum, and their mean with its interval."""

    total: int
    mean: Estimate


@dataclass(frozen=True)
class Difference:
    """Mean of a's score minus b's on one scale, of pairs rated by one annotator on one prompt.

    Attributes:
        p_holm: sign-flip p-value over prompts, corrected for the four scales.
    """

    a: str
    b: str
    scale: str
    difference: Estimate
    p_holm: float
    verdict: str


@dataclass(frozen=True)
class Ratings:
    """Cells by model and scale: of everything, by category, and by annotator; differences of every two models."""

    models: list[str]
    overall: dict[str, dict[str, Cell]]
    categories: dict[str, dict[str, dict[str, Cell]]]
    annotators: dict[str, dict[str, dict[str, Cell]]]
    differences: list[Difference]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def mean_estimate(scores: ArrayLike, prompts: Sequence[Hashable]) -> Estimate:
    """Mean of scores from 1 to 5 with its interval over prompts."""
    return Estimate(*mean_interval(scores, prompts, _ENDS, weight=_WEIGHT, bounds=_ENDS), len(prompts))


def difference_estimate(steps: ArrayLike, prompts: Sequence[Hashable]) -> Estimate:
    """Mean of differences of two scores with its interval over prompts."""
    return Estimate(*mean_interval(steps, prompts, _STEP, bounds=(-4, 4)), len(prompts))


def rate(votes: Sequence[Vote], against: str | None = None) -> Ratings:
    """Sums, means and differences of rated videos; with `against` only differences from that model.

    Raises:
        ArtifactError: votes that name no model, or no vote on the model `against`.
    """
    for v in votes:
        if not v.model:
            raise ArtifactError(f"the vote on item {v.item!r} names no model: close its study first, which unblinds it")
    models = list(dict.fromkeys(v.model for v in votes))
    if against is not None and against not in models:
        raise ArtifactError(f"no vote is on {against!r}; the models are {', '.join(models)}")
    kinds = list(dict.fromkeys(c for v in votes for c in v.categories))
    people = list(dict.fromkeys(v.annotator for v in votes))
    pairs = [(m, against) for m in models if m != against] if against else list(combinations(models, 2))
    return Ratings(
        models,
        _cells(votes, models),
        {k: _cells([v for v in votes if k in v.categories], models) for k in kinds},
        {p: _cells([v for v in votes if v.annotator == p], models) for p in people},
        [d for a, b in pairs for d in _differences(votes, a, b)],
    )


def _cells(votes: Sequence[Vote], models: Sequence[str]) -> dict[str, dict[str, Cell]]:
    out: dict[str, dict[str, Cell]] = {}
    for model in models:
        rows = [v for v in votes if v.model == model]
        if rows:
            out[model] = {
                scale: _cell([v.scores[scale] for v in rows], [v.prompt_id for v in rows]) for scale in SCALES
            }
    return out


def _cell(scores: Sequence[int], prompts: Sequence[str]) -> Cell:
    return Cell(sum(scores), mean_estimate(scores, prompts))


def _differences(votes: Sequence[Vote], a: str, b: str) -> list[Difference]:
    rated = [_by_key([v for v in votes if v.model == m]) for m in (a, b)]
    both = [(v, rated[1][k]) for k, v in rated[0].items() if k in rated[1]]
    if not both:
        return []
    prompts = [v.prompt_id for v, _ in both]
    found = []
    for scale in SCALES:
        steps = [x.scores[scale] - y.scores[scale] for x, y in both]
        found.append((scale, difference_estimate(steps, prompts), sign_flip(steps, prompts)))
    corrected = holm([p for *_, p in found])
    n = len(set(prompts))
    return [Difference(a, b, s, e, p, verdict(e, 0.0, n)) for (s, e, _), p in zip(found, corrected)]


def _by_key(votes: Sequence[Vote]) -> dict[tuple[str, str, int], Vote]:
    """By prompt and annotator; several videos of a prompt are numbered in their order."""
    out: dict[tuple[str, str, int], Vote] = {}
    for v in votes:
        i = 0
        while (v.prompt_id, v.annotator, i) in out:
            i += 1
        out[v.prompt_id, v.annotator, i] = v
    return out
