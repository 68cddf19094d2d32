"""Everything that a table of votes says: scores, agreement, a ranking, ratings; and what was left out, with reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from stepvideo.evaluation import agreement, pairwise
from stepvideo.evaluation.ratings import Ratings, rate
from stepvideo.evaluation.scores import Duel, duels
from stepvideo.evaluation.stats import Estimate
from stepvideo.evaluation.votes import SCALES, Vote, Votes

INTERVALS = "95 % over prompts: jackknife with Student's t, of alpha and kappa on Fisher's scale; n: votes or units"


@dataclass(frozen=True)
class Agreement:
    """How annotators agree on one question.

    Attributes:
        alpha: level of measurement → Krippendorff's α; None where it is undefined.
        raw: share of pairs of annotators with the same answer.
    """

    question: str
    raw: Estimate | None
    alpha: dict[str, Estimate | None]
    kappa: Estimate | None


@dataclass(frozen=True)
class Analysis:
    """Results of a table of votes.

    Attributes:
        votes, prompts, annotators: what the results rest on.
        left_out: skipped items, gold and A/A pairs, repeats, practice and excluded annotators → rows.
        simulated: votes of simulated annotators among `votes`; they say nothing about people.
        left_share: share of decided votes for the left side, and its p-value; None if sides are not known.
        unranked: why there is no ranking; "" where there is one.
    """

    votes: int
    prompts: int
    annotators: int
    left_out: dict[str, int]
    simulated: int
    both_bad: int
    duels: list[Duel]
    ranking: pairwise.Ranking | None
    unranked: str
    ratings: Ratings | None
    agreements: list[Agreement] = field(default_factory=list)
    left_share: tuple[Estimate, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "intervals": INTERVALS}


def analyse(
    votes: Votes, against: str | None = None, claim: float = 0.5, exclude: Sequence[str] = (), seed: int = 0
) -> Analysis:
    """Results of all votes that count.

    Args:
        against: the model that others are compared with; None: every pair that was compared.
        claim: the score that verdicts are about.
        exclude: annotators whose votes are left out.

    Raises:
        ArtifactError: votes of a study that is still blind, or no vote on `against`.
    """
    left_out = Counter({"skipped": len(votes.skipped)})
    left_out.update(v.role for v in votes.answers if v.role != "vote")
    counted = [v for v in votes.counted() if v.annotator not in exclude]
    left_out["excluded annotators"] = len(votes.counted()) - len(counted)
    pairs = [v for v in counted if v.kind != "rate"]
    compared = [v for v in pairs if v.kind == "compare"]
    rated = [v for v in counted if v.kind == "rate"]
    ranking, unranked = None, ""
    if compared:
        found = duels(compared, against, claim, seed)
        try:
            ranking = pairwise.rank(compared)
        except pairwise.Unfit as e:
            unranked = str(e)
    else:
        found = []
    return Analysis(
        len(counted),
        len({v.prompt_id for v in counted}),
        len({v.annotator for v in counted}),
        {k: n for k, n in left_out.items() if n},
        sum(bool(v.simulated) for v in counted),
        sum(v.outcome == 0 and v.note.startswith("both bad") for v in pairs),
        found,
        ranking,
        unranked,
        rate(rated, against) if rated else None,
        agreements(counted),
        agreement.left_share(pairs),
    )


def agreements(votes: Sequence[Vote]) -> list[Agreement]:
    """Of each question that the votes answer; they may be blind."""
    pairs, rated = ([v for v in votes if (v.kind == "rate") == is_rated] for is_rated in (False, True))
    found = (_preference_agreement(pairs), *(_scale_agreement(rated, scale) for scale in SCALES))
    return [a for a in found if a]


def _preference_agreement(votes: Sequence[Vote]) -> Agreement | None:
    """A pair that other rows show the other way round is the same unit."""
    units: dict[tuple[str, str, str, str], list[float]] = {}
    for v in votes:
        turned = v.model_b < v.model_a
        names = (v.model_b, v.model_a) if turned else (v.model_a, v.model_b)
        units.setdefault((v.prompt_id, v.item, *names), []).append(-(v.outcome or 0) if turned else (v.outcome or 0))
    return _agreement("which is better", units, ("nominal", "ordinal"))


def _scale_agreement(votes: Sequence[Vote], scale: str) -> Agreement | None:
    units: dict[tuple[str, str, str], list[float]] = {}
    for v in votes:
        units.setdefault((v.prompt_id, v.item, v.model), []).append(v.scores[scale])
    return _agreement(scale, units, ("ordinal", "interval"))


def _agreement(question: str, units: dict[Any, list[float]], levels: Sequence[str]) -> Agreement | None:
    if not units:
        return None
    _, domain, counts = agreement.value_counts(units)
    prompts = [k[0] for k in units]
    alpha = {level: agreement.krippendorff(counts, domain, level, prompts) for level in levels}
    kappa = agreement.fleiss(counts, prompts)
    return Agreement(question, agreement.raw_agreement(counts, prompts), alpha, kappa)
