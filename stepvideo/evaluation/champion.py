"""Is a challenger really better than the champion? Paired by prompt and initial noise, with intervals over prompts.

A challenger is promoted where the interval of its gain on one metric, named beforehand, lies above 0, and no guarded
category is shown to have lost more than a margin. A tie is not a win. Guards are many, so their intervals are so wide
that all of them hold together at the level (Bonferroni).

Legend: n samples, m prompts, k guards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import NormalDist
from typing import Any

from scipy.special import stdtrit

from stepvideo.evaluation.claims import points
from stepvideo.evaluation.jackknife import FEWEST, mean_interval
from stepvideo.evaluation.results import ATTRIBUTES, Row, by_split, check_paired
from stepvideo.evaluation.stats import Estimate
from stepvideo.world.attributes import NAMES

SOFT = "soft"  # the mean soft score of the values that were asked for, in [0, 1]
METRICS = (*ATTRIBUTES, SOFT)
FAMILIES = ("attribute", "split", "language", *NAMES)
POWER = 0.8  # of what is stated as visible

BETTER, TIE, WORSE = "better", "tie", "worse"  # of the metric
KEPT, OPEN, REGRESSED, LOST = "kept", "open", "regressed", "lost"  # of a guard
UNTESTABLE = "untestable"


@dataclass
class Rules:
    """When a challenger is promoted; set before anything is measured."""

    metric: str = "all"  # all | an attribute | soft: what has to be won
    level: float = 0.95  # of the metric's interval, and of all guards' together
    margin: float = 0.02  # loss in a guarded category that is tolerated
    guards: list[str] = field(
        default_factory=lambda: ["attribute", "split", "language"]
    )  # or colour, shape, …: by value
    strict: bool = False  # guards must be shown to be kept, not only not shown to be lost

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"metric={self.metric!r}: choose one of {', '.join(METRICS)}")
        if not 0.5 <= self.level < 1:
            raise ValueError(f"level={self.level}: give 0.5 or more and less than 1, such as 0.95")
        if not 0 <= self.margin < 1:
            raise ValueError(f"margin={self.margin}: give a share from 0 to below 1, such as 0.02 for two points")
        if unknown := [g for g in self.guards if g not in FAMILIES]:
            raise ValueError(f"guards={unknown}: choose of {', '.join(FAMILIES)}")


@dataclass(frozen=True)
class Line:
    """One comparison, of the metric or of a guarded category.

    Attributes:
        champion, challenger: means in [0, 1] with 95 % intervals; None where nothing can be tested.
        difference: challenger − champion, with the interval that the verdict follows.
        visible: the gain or loss that would have been seen with 80 % chance, given how much prompts differ.
    """

    name: str
    verdict: str
    prompts: int
    champion: Estimate | None = None
    challenger: Estimate | None = None
    difference: Estimate | None = None
    visible: float | None = None


@dataclass(frozen=True)
class Decision:
    """What came out, and why in words."""

    promote: bool
    verdict: str  # better | tie | worse | untestable | regressed | not shown to be kept
    why: str
    metric: Line
    guards: list[Line]
    rules: Rules
    prompts: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Decision:
        """What `as_dict` gave. Raises KeyError, TypeError."""
        lines = {"metric": _line(data["metric"]), "guards": [_line(g) for g in data["guards"]]}
        return cls(**{**data, **lines, "rules": Rules(**data["rules"])})


def decide(champion: Sequence[Row], challenger: Sequence[Row], rules: Rules | None = None) -> Decision:
    """Compare two evaluations of the same prompts from the same noise.

    Args:
        champion, challenger: rows [n] of their main runs, in prompt order.

    Raises:
        ArtifactError: other prompts, seeds or counts (`check_paired`).
    """
    margin = (rules := rules or Rules()).margin
    check_paired(challenger, champion)
    pairs = list(zip(champion, challenger))
    metric = _compared(_name(rules.metric), pairs, rules.metric, rules.level, _won)
    families = list(_guarded(pairs, rules))
    tested = sum(_known(part, name) is not None and _prompts(part) >= FEWEST for _, name, part in families)
    level = 1 - (1 - rules.level) / max(tested, 1)
    guards = [_compared(title, part, name, level, lambda e: _kept(e, margin)) for title, name, part in families]
    verdict, why = _verdict(metric, guards, rules)
    return Decision(verdict == BETTER, verdict, why, metric, guards, rules, _prompts(pairs))


Pairs = Sequence[tuple[Row, Row]]


def _guarded(pairs: Pairs, rules: Rules) -> Iterator[tuple[str, str, Pairs]]:
    """(title, metric, pairs) of every guarded category."""
    if "attribute" in rules.guards:
        for name in NAMES:
            if name != rules.metric and any(a.attrs.get(name) is not None for a, _ in pairs):
                yield name, name, pairs
    if "split" in rules.guards:
        for split in by_split([a for a, _ in pairs]):
            title = {"train": "seen combinations", "heldout": "held-out combinations"}[split]
            yield f"{_name(rules.metric)}, {title}", rules.metric, [p for p in pairs if p[0].split == split]
    if "language" in rules.guards:
        for lang in dict.fromkeys(a.lang for a, _ in pairs):
            yield f"{_name(rules.metric)}, prompts in {lang}", rules.metric, [p for p in pairs if p[0].lang == lang]
    for name in (n for n in NAMES if n in rules.guards):
        for value in dict.fromkeys(str(a.attrs[name]) for a, _ in pairs if a.attrs.get(name) is not None):
            yield f"{name}, of {value}", name, [p for p in pairs if str(p[0].attrs.get(name)) == value]


def _compared(title: str, pairs: Pairs, metric: str, level: float, verdict: Any) -> Line:
    prompts = _prompts(pairs)
    known = _known(pairs, metric)
    if known is None and _values([a for a, _ in pairs], metric) is not None:
        return Line(title, LOST, prompts)  # the champion could be read, the challenger cannot
    if known is None or prompts < FEWEST:
        return Line(title, UNTESTABLE, prompts)
    before, after = known
    clusters = [a.text for a, _ in pairs]
    gains = [y - x for x, y in zip(before, after)]
    difference = Estimate(*mean_interval(gains, clusters, (-1, 1), bounds=(-1, 1), level=level), len(gains))
    old, new = (Estimate(*mean_interval(v, clusters, (0, 1), bounds=(0, 1)), len(v)) for v in (before, after))
    t = float(stdtrit(prompts + 1, 0.5 + level / 2))
    error = (difference.high - difference.low) / 2 / t
    visible = (t + NormalDist().inv_cdf(POWER)) * error
    return Line(title, verdict(difference), prompts, old, new, difference, visible)


def _known(pairs: Pairs, metric: str) -> tuple[list[float], list[float]] | None:
    before, after = (_values([p[i] for p in pairs], metric) for i in (0, 1))
    return None if before is None or after is None else (before, after)


def _values(rows: Sequence[Row], metric: str) -> list[float] | None:
    """A number in [0, 1] a sample; None where the oracle cannot tell."""
    if not rows:
        return None
    if metric == SOFT:
        names = [n for n in NAMES if all(r.right.get(n) is not None for r in rows)]
        return [sum(r.soft[n] for n in names) / len(names) for r in rows] if names else None
    answers = [r.right.get(metric) for r in rows]
    return None if any(a is None for a in answers) else [float(bool(a)) for a in answers]


def _prompts(pairs: Pairs) -> int:
    return len({a.text for a, _ in pairs})


def _won(e: Estimate) -> str:
    return BETTER if e.low > 0 else WORSE if e.high < 0 else TIE


def _kept(e: Estimate, margin: float) -> str:
    return REGRESSED if e.high < -margin else KEPT if e.low > -margin else OPEN


def _verdict(metric: Line, guards: Sequence[Line], rules: Rules) -> tuple[str, str]:
    """In a word, and in sentences."""
    said = f"{metric.name}: {points(metric.difference)}" if metric.difference else f"{metric.name} cannot be tested"
    over = f"{said} over {metric.prompts} prompts"
    if metric.verdict in (UNTESTABLE, LOST):
        few = (
            f"{metric.prompts} prompts are fewer than {FEWEST}" if metric.prompts < FEWEST else "the oracle cannot read"
        )
        return UNTESTABLE, f"Not promoted: {said} ({few}). What is not measured is no win."
    if metric.verdict == TIE:
        seen = f"A gain of {100 * (metric.visible or 0):.1f} points would have been seen with 80 % chance."
        return TIE, f"Not promoted: {over} shows no difference, and a tie is not a win. {seen}"
    if metric.verdict == WORSE:
        return WORSE, f"Not promoted: the challenger is worse. {over}."
    bad = [g for g in guards if g.verdict in (REGRESSED, LOST)]
    if bad:
        named = "; ".join(f"{g.name} {points(g.difference) if g.difference else 'can no longer be read'}" for g in bad)
        return REGRESSED, f"Not promoted: {over} is a win, but guarded categories have lost: {named}."
    shy = [g for g in guards if g.verdict != KEPT]
    if rules.strict and shy:
        return "not shown to be kept", (
            f"Not promoted: {over} is a win, but strict=true and {len(shy)} guarded categories are not shown to be "
            f"within {100 * rules.margin:g} points: {', '.join(g.name for g in shy)}. More prompts would show it."
        )
    kept = f"None of {len(guards)} guarded categories is shown to have lost more than {100 * rules.margin:g} points"
    return BETTER, f"Promoted: {over} is a win. {kept}{f'; {len(shy)} of them are open' if shy else ''}."


def _name(metric: str) -> str:
    return {"all": "all attributes right", SOFT: "soft score"}.get(metric, f"{metric} right")


def _line(data: Mapping[str, Any]) -> Line:
    parts = ("champion", "challenger", "difference")
    return Line(**{**data, **{p: Estimate(**data[p]) if data[p] else None for p in parts}})
