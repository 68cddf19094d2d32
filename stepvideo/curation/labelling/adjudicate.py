"""From what annotators say to what is decided.

1. Of each question the majority of pass and fail decides; unsure and no answer count for nothing.
2. A correction of a caption stands against the caption as it was. Of different corrections, the one that most gave.
3. Where that is a tie, and where fewer than `least` people answered, the clip is open.
4. What an adjudicator says decides alone.
5. Any other clip is approved if every question passes, rejected as soon as one fails, else open. SFT sets take approved
   ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from stepvideo.curation.labelling.questions import FAIL, PASS, QUESTIONS, SLOTS, Label, Vote


def adjudicate(votes: Iterable[Vote], adjudicators: Collection[str] = (), least: int = 1) -> list[Label]:
    """One label a clip that has a vote, in the order of their ids.

    Args:
        adjudicators: pseudonyms of those whose word decides.
        least: annotators that a clip needs, unless an adjudicator answered.
    """
    clips: dict[str, list[Vote]] = {}
    for vote in votes:
        clips.setdefault(vote.clip_id, []).append(vote)
    return [_label(i, clips[i], set(adjudicators), least) for i in sorted(clips)]


def agreement(votes: Iterable[Vote]) -> dict[str, float | None]:
    """Question → share of the pairs of annotators of a clip that agree, of those who both said pass or fail."""
    said: dict[tuple[str, str], list[str]] = {}
    for vote in votes:
        for question, verdict in vote.verdicts.items():
            if verdict in (PASS, FAIL):
                said.setdefault((question, vote.clip_id), []).append(verdict)
    found: dict[str, float | None] = {}
    for question in QUESTIONS:
        counts = [Counter(given) for (q, _), given in said.items() if q == question]
        pairs = sum(n * (n - 1) for n in (c.total() for c in counts))
        same = sum(n * (n - 1) for c in counts for n in c.values())
        found[question] = same / pairs if pairs else None
    return found


def _label(clip_id: str, votes: Sequence[Vote], adjudicators: set[str], least: int) -> Label:
    last = [v for v in votes if v.annotator in adjudicators]
    open_on: list[str] = []
    verdicts: dict[str, bool | None] = {}
    for question in QUESTIONS:
        given = [(v.verdicts.get(question, ""), v) for v in votes]
        by_last = [(verdict, v) for verdict, v in given if v in last and verdict in (PASS, FAIL)]
        won, tied = _winner(by_last or [(verdict, v) for verdict, v in given if verdict in (PASS, FAIL)])
        verdicts[question] = None if won is None else won == PASS
        open_on += [f"{question}: {tied}"] if tied else []
        open_on += [f"{question}: nobody is sure"] if won is None and not tied else []
    captions: dict[str, str] = {}
    for slot in SLOTS:
        given = [(v.captions[slot], v) for v in votes if slot in v.captions]
        won, tied = _winner([(text, v) for text, v in given if v in last] or given)
        if won is not None:
            captions[slot] = won
        open_on += [f"{slot}: {tied}"] if tied else []
    few = len(votes) < least and not last
    open_on += [f"{len(votes)} of {least} annotators"] if few else []
    approved = False if False in verdicts.values() and not few else None if open_on else True
    if approved is None:
        decided = "open"
    elif last:
        decided = "adjudicated"
    else:
        decided = "agreed" if _unanimous(votes) else "majority"
    return Label(clip_id, approved, verdicts, captions, decided, tuple(votes), "; ".join(open_on) * (approved is None))


def _winner(given: Sequence[tuple[str, Vote]]) -> tuple[str | None, str]:
    """What most gave; None, and the rows that differ, where it is a tie."""
    ranked = Counter(value for value, _ in given).most_common(2)
    if not ranked:
        return None, ""
    if len(ranked) == 1 or ranked[0][1] > ranked[1][1]:
        return ranked[0][0], ""
    return None, f"{', '.join(v.where for _, v in given)} differ"


def _unanimous(votes: Sequence[Vote]) -> bool:
    return all(len({v.verdicts[q] for v in votes if q in v.verdicts}) <= 1 for q in QUESTIONS)
