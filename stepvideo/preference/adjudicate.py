"""From the votes on a pair to what is decided of it, and the queue of pairs that a person has to look at again.

1. What an adjudicator says decides alone.
2. Else more than half of the votes that count decide, if there are `least` of them.
3. Anything else is undecided. It stays in the queue, and out of what is made from decisions; it is never a tie.

A pair is queued too when its votes went both ways, whatever the majority, or some of them were excluded and the rest
are not of one mind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from stepvideo.evaluation.votes import Vote
from stepvideo.preference.quality import Screened

ADJUDICATED, MAJORITY, UNDECIDED = "adjudicated", "majority", "undecided"


@dataclass(frozen=True)
class Decision:
    """What is decided of one pair.

    Attributes:
        outcome: 1 a is better, 0 tie, -1 b is better; None while it is undecided.
        by: adjudicated | majority | undecided.
        votes: those that count, in the order of the rows; without adjudicators'.
        why: what puts it into the queue; "" where nothing does, or an adjudicator has spoken.
    """

    item: str
    outcome: int | None
    by: str
    votes: tuple[Vote, ...]
    why: str = ""


def adjudicate(screened: Screened, adjudicators: Collection[str] = (), least: int = 1) -> list[Decision]:
    """One decision for each pair that has a vote, in order of the items' names.

    Args:
        adjudicators: annotators whose word decides; it is no vote beside the others', and no rule excludes it.
        least: votes that a majority needs.
    """
    votes: dict[str, list[Vote]] = {}
    last: dict[str, list[Vote]] = {}
    excluded: Counter[str] = Counter()
    for vote in [*screened.included, *(v for v, _ in screened.excluded)]:
        if vote.annotator in adjudicators:
            last.setdefault(vote.item, []).append(vote)
    for vote in screened.included:
        if vote.annotator not in adjudicators:
            votes.setdefault(vote.item, []).append(vote)
    for vote, _ in screened.excluded:
        excluded[vote.item] += vote.annotator not in adjudicators
    items = sorted({*votes, *last, *excluded})
    return [_decide(i, votes.get(i, []), last.get(i, []), excluded[i], least) for i in items]


def queue(decisions: Collection[Decision]) -> list[Decision]:
    """Those to be looked at again, the undecided first."""
    return sorted((d for d in decisions if d.why), key=lambda d: (d.outcome is not None, d.item))


def counts(decisions: Collection[Decision]) -> Mapping[str, int]:
    """How many were decided by what, and how many are queued."""
    by = Counter(d.by for d in decisions)
    return {k: by[k] for k in (MAJORITY, ADJUDICATED, UNDECIDED)} | {"queued": len(queue(decisions))}


def _decide(item: str, votes: list[Vote], last: list[Vote], excluded: int, least: int) -> Decision:
    told = {v.outcome for v in last}
    if len(told) == 1:
        return Decision(item, told.pop(), ADJUDICATED, tuple(votes))
    why = []
    if told:
        why.append("adjudicators differ")
    given = Counter(v.outcome for v in votes)
    outcome, n = given.most_common(1)[0] if given else (None, 0)
    if len(votes) < least:
        why.append(f"{len(votes)} of {least} votes")
    elif 2 * n <= len(votes):
        why.append("no majority")
    decided = not why
    if given[1] and given[-1]:
        why.append("votes both ways")
    if excluded and len(given) != 1:
        why.append(f"{excluded} excluded")
    by = MAJORITY if decided else UNDECIDED
    return Decision(item, outcome if decided else None, by, tuple(votes), "; ".join(why))
