"""Are the models different? Evaluations paired by prompt and noise, against the first, corrected for many tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from flows.comparison.subjects import Aligned, Gap, Subject
from stepvideo import storage
from stepvideo.artifact import Artifact
from stepvideo.errors import ArtifactError
from stepvideo.evaluation.results import (
    ATTRIBUTES,
    GATE_PARTS,
    MAIN,
    Row,
    by_split,
    compare,
    gate_estimate,
    preference,
    rates,
    read_rows,
)
from stepvideo.evaluation.stats import FEWEST, Estimate, holm

ALPHA = 0.05
HIGHER, LOWER, NONE, UNTESTABLE = "higher", "lower", "no difference shown", "too few prompts"
PREFERENCE = "preferred by the oracle"


@dataclass(frozen=True)
class Test:
    """One question about two evaluations: is this one's rate another than the first's?

    Attributes:
        evaluation, run, split: which prompts, sampled how.
        measure: an attribute, "all", or `PREFERENCE` (how often its video beats the first's; equal at 1/2).
        base, other: the rates, with Wilson intervals; of a preference only `other`.
        difference: other - base with its 95 % interval over prompts; of a preference the score - 1/2.
        p, p_holm: exact McNemar (preference: sign flips), and corrected for all tests of one comparison (Holm).
        verdict: from `p_holm`, so that one false finding in the whole table has at most 5 %.
    """

    evaluation: str
    run: str
    split: str
    measure: str
    subject: int
    base: Estimate | None
    other: Estimate
    difference: Estimate
    prompts: int
    p: float
    p_holm: float = 1.0
    verdict: str = UNTESTABLE

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def tests(rows: Aligned, compared: Sequence[Subject]) -> tuple[list[Test], list[Gap]]:
    """Every test of every evaluation against the first subject's, and what could not be tested."""
    found: list[Test] = []
    missing: list[Gap] = []
    for name, row in rows.items():
        base = row[0]
        for i, other in enumerate(row[1:], 1):
            if base is None or other is None:
                lacking = compared[0 if base is None else i]
                missing.append(Gap("metrics", name, f"not measured, {lacking.name} has no such evaluation"))
            elif base.digest != other.digest:
                made, said = _of_pair(name, i, base, other)
                found += made
                missing += [Gap("metrics", name, f"{compared[i].name}: {s}") for s in said]
            else:
                missing.append(Gap("metrics", name, f"{compared[i].name} has the first's, nothing to test"))
    return _judged(found), missing


def rates_of(artifact: Artifact) -> dict[tuple[str, str, str], Estimate | None]:
    """(run, split, attribute): rate with its interval, None where it is untestable."""
    return {
        (run, split, attribute): e
        for run, mine in read_rows(artifact.out / "results.jsonl").items()
        for split, part in by_split(mine).items()
        for attribute, e in rates(part).items()
    }


def untested(
    rows: Aligned, compared: Sequence[Subject], tested: Sequence[Test]
) -> tuple[dict[str, list[Estimate | None]], list[Gap]]:
    """Rates that no test shows, each by itself with Wilson's interval; and what could not be read.

    They are "evaluation.run/split/attribute" and, of gates that differ, "evaluation.gate/part/attribute".
    """
    shown = Counter((t.evaluation, t.run, t.split, t.measure) for t in tested)
    found: dict[str, list[Estimate | None]] = {}
    missing: list[Gap] = []
    for name, row in rows.items():
        if all(row) and len({a.digest for a in row if a}) == 1:
            continue
        each: list[dict[tuple[str, str, str], Estimate | None]] = []
        for subject, artifact in zip(compared, row, strict=True):
            try:
                each.append({**rates_of(artifact), **gate_of(artifact)} if artifact else {})
            except ArtifactError as e:
                each.append({})
                missing.append(Gap("rates", name, f"{subject.name}: not measured, {e}"))
        for key in dict.fromkeys(k for of in each for k, e in of.items() if e):
            values, tests = [of.get(key) for of in each], shown[(name, *key)]
            seen = tests and tests == sum(v is not None for v in values[1:])
            if not seen and not (key[0] == "gate" and len(set(values)) == 1):
                found[f"{name}.{'/'.join(key)}"] = values
    return found, missing


def gate_of(artifact: Artifact) -> dict[tuple[str, str, str], Estimate | None]:
    """("gate", part, attribute): rate of right readings of known truth, with its interval."""
    gate = storage.read_json(artifact.out / "summary.json")["gate"]
    return {("gate", part, n): gate_estimate(r) for part in GATE_PARTS for n, r in gate.get(part, {}).items()}


def scalars(rows: Aligned) -> dict[str, list[float | None]]:
    """Metrics of every stage that are not the same in all ("stage.metric"): single values, without intervals. The rates
    of evaluations, which have some, are not among them."""
    found: dict[str, list[float | None]] = {}
    for name, row in rows.items():
        if " / " in name or len({a.digest for a in row if a}) == 1:  # nothing to tell apart
            continue
        for metric in dict.fromkeys(m for a in row if a for m in a.metrics if not _is_rate(a, m)):
            found[f"{name}.{metric}"] = [a.metrics.get(metric) if a else None for a in row]
    return found


def _is_rate(artifact: Artifact, metric: str) -> bool:
    """Whether it is an evaluation's rate or a bound of one: "train/all", "gate/ground_truth/size_low"."""
    parts, _, last = metric.rpartition("/")
    attribute = last.removesuffix("_low").removesuffix("_high")
    return artifact.manifest["kind"] == "evaluate" and bool(parts) and attribute in ATTRIBUTES


def _of_pair(name: str, i: int, base: Artifact, other: Artifact) -> tuple[list[Test], list[str]]:
    found, missing = [], []
    try:
        ours, theirs = (read_rows(a.out / "results.jsonl") for a in (other, base))
    except ArtifactError as e:
        return [], [f"not measured, {e}"]
    for run in dict.fromkeys([*theirs, *ours]):
        if run not in ours or run not in theirs:
            missing.append(f"run {run!r} is in one of them only")
            continue
        try:
            made = _of_run(name, run, i, theirs[run], ours[run])
        except ArtifactError as e:
            missing.append(f"run {run!r} is not paired, {e}")
            continue
        if not made:
            missing.append(f"run {run!r}: untestable, the oracle reads no attribute of both well enough")
        found += made
    return found, missing


def _of_run(name: str, run: str, i: int, base: list[Row], other: list[Row]) -> list[Test]:
    found = []
    a, b = by_split(base), by_split(other)
    for split in (s for s in a if s in b):
        before, after, prompts = rates(a[split]), rates(b[split]), len({r.text for r in a[split]})
        for attribute, pair in compare(b[split], a[split]).items():
            if pair and (rate := after[attribute]):
                of = (name, run, split, attribute, i, before[attribute], rate)
                found.append(Test(*of, pair.difference, prompts, pair.p_value))
    prompts = len({r.text for r in base})
    if run == MAIN and (liked := preference(other, base)):
        s = liked.score
        gap = Estimate(s.value - 0.5, s.low - 0.5, s.high - 0.5, s.n)
        found.append(Test(name, run, "both", PREFERENCE, i, None, s, gap, prompts, liked.p_value))
    return found


def _judged(found: list[Test]) -> list[Test]:
    judged = []
    for test, p in zip(found, holm([t.p for t in found])):
        verdict = NONE if p >= ALPHA else HIGHER if test.difference.value > 0 else LOWER
        judged.append(replace(test, p_holm=p, verdict=UNTESTABLE if test.prompts < FEWEST else verdict))
    return judged
