"""What a study says once it is closed, and how well it was done, which may be looked at before.

Results come with the study's exclusions and without them: rules fixed in advance decide who counts, and a reader sees
what they changed. Blind, nothing here tells one model from another: checks, agreement and counts alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stepvideo.errors import StepVideoError
from stepvideo.evaluation.agreement import left_share
from stepvideo.evaluation.analysis import INTERVALS, Agreement, Analysis, agreements, analyse
from stepvideo.evaluation.stats import Estimate, Preference, preference_score
from stepvideo.evaluation.votes import Vote, Votes
from stepvideo.preference import adjudicate as deciding
from stepvideo.preference.quality import Quality, Screened, counts, screen
from stepvideo.preference.rules import Rules, digest
from stepvideo.preference.session import Session
from stepvideo.preference.table import is_closed, unblinded, vote_rows

SIMULATED = "SIMULATED ANNOTATORS, no result about people"
PARTLY = "PARTLY SIMULATED ANNOTATORS, no result about people"


@dataclass(frozen=True)
class Results:
    """What the votes say of the models.

    Attributes:
        counted: by the votes that count; every: by those too that the rules exclude.
        decisions: pairs by how they were decided (`adjudicate.counts`); none of ratings.
        decided: (a, b) → one decision a pair, undecided ones left out.
        ties: of the votes that count; a study of kind `prefer` has no other result.
    """

    counted: Analysis
    every: Analysis
    decisions: Mapping[str, int]
    decided: Mapping[tuple[str, str], Preference]
    ties: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "with_exclusions": self.counted.as_dict(),
            "without_exclusions": self.every.as_dict(),
            "decisions": dict(self.decisions),
            "decided_pairs": [{"a": a, "b": b, **p.as_dict()} for (a, b), p in self.decided.items()],
            "ties": self.ties,
        }


@dataclass(frozen=True)
class Report:
    """A study's report.

    Attributes:
        title: says first what is no result about people.
        simulated: names of the simulated annotators.
        fixed_before: whether these rules were in the study when it was made.
        rows: where every row went (`quality.counts`).
        excluded, skipped: reason → votes.
        before: agreement before exclusions.
        results: None in a blind report.
    """

    study: str
    kind: str
    title: str
    simulated: tuple[str, ...]
    rules: Rules
    fixed_before: bool
    rows: Mapping[str, int]
    annotators: tuple[Quality, ...]
    excluded: Mapping[str, int]
    skipped: Mapping[str, int]
    agreements: list[Agreement]
    before: list[Agreement]
    left_share: tuple[Estimate, float] | None
    results: Results | None

    @property
    def blind(self) -> bool:
        return self.results is None

    def as_dict(self) -> dict[str, Any]:
        """Every figure, for JSON."""
        said = {k: v for k, v in asdict(self).items() if k != "results"}
        said |= {"blind": self.blind, "rules": asdict(self.rules) | {"sha256": digest(self.rules)}}
        said |= {"intervals": f"{INTERVALS}; an annotator's shares: Wilson, answers as trials"}
        return said | ({"results": self.results.as_dict()} if self.results else {})


def report(
    session: Session,
    folder: Path,
    blind: bool = False,
    adjudicators: Collection[str] = (),
    rules: Rules | None = None,
) -> Report:
    """The report of the study in `folder`.

    Args:
        blind: quality alone; the only report that an open study gives.
        adjudicators: annotators whose word decides pairs; their answers count in no score.
        rules: others than the study's; the report says that they came after.

    Raises:
        StepVideoError: the study is open and the report is not blind, or nobody has answered.
    """
    study = session.study
    if not blind and not is_closed(session):
        raise StepVideoError(
            f"{study.name} is open: results would tell which model leads while people still vote. "
            "Close it (stepvideo study close), or look at quality alone: --blind"
        )
    rows = vote_rows(session, folder)
    if all(v.skipped for v in rows):
        raise StepVideoError(f"nobody has answered {study.name} yet")
    used = rules or study.config.rules
    found = screen(rows, used)
    counted = [v for v in found.included if v.annotator not in adjudicators]
    every = counted + [v for v, _ in found.excluded if v.annotator not in adjudicators]
    results = None
    if not blind:
        results = _results(session, found, counted, every, adjudicators)
    return Report(
        study.name,
        study.kind,
        title(study.name, rows),
        tuple(sorted({v.annotator for v in rows if v.simulated})),
        used,
        digest(used) == study.rules_sha256,
        counts(found),
        tuple(found.annotators.values()),
        dict(Counter(f"{v.annotator}: {reason}" for v, reason in found.excluded)),
        dict(Counter(v.skipped for v in found.skipped)),
        agreements(counted),
        agreements(every),
        left_share(counted),
        results,
    )


def _results(
    session: Session, found: Screened, counted: list[Vote], every: list[Vote], adjudicators: Collection[str]
) -> Results:
    study = session.study
    decisions = deciding.adjudicate(found, adjudicators) if study.config.paired else []
    kept, whole = (analyse(Votes([unblinded(study, v) for v in votes])) for votes in (counted, every))
    by = deciding.counts(decisions) if decisions else {}
    return Results(kept, whole, by, _decided(session, decisions), sum(v.outcome == 0 for v in counted))


def title(name: str, rows: Sequence[Vote]) -> str:
    """The study's name, and whether simulated annotators answered it."""
    made = [bool(v.simulated) for v in rows]
    return f"{name}: {SIMULATED}" if all(made) else f"{name}: {PARTLY}" if any(made) else name


def _decided(session: Session, decisions: Sequence[deciding.Decision]) -> dict[tuple[str, str], Preference]:
    """(a, b) → score of one outcome a pair: the majority's, or the adjudicator's."""
    if session.study.kind != "compare":
        return {}
    of: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for d in decisions:
        item = session.study.by_id[d.item]
        if d.outcome is not None and item.b:
            names, turned = (item.a.model, item.b.model), (item.b.model, item.a.model)
            if turned in of:  # which of the two is a was drawn for every item
                of[turned].append((item.prompt_id, -d.outcome))
            else:
                of.setdefault(names, []).append((item.prompt_id, d.outcome))
    return {names: preference_score([o for _, o in of[names]], [p for p, _ in of[names]]) for names in of}
