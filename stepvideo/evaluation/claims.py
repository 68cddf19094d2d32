"""What a run showed, in words and figures, absent effects included.

Verdicts of targets: met, not met. Of comparisons: preferred, not preferred, no difference shown. Of distillation:
supported, contradicted, inconclusive. Of anything: untestable (the oracle or the base model cannot tell) and not
measured (the run was not evaluated).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from stepvideo.evaluation.collect import Run, label
from stepvideo.evaluation.config import Comparison, ReportConfig, Target
from stepvideo.evaluation.results import by_split, compare, preference, rates
from stepvideo.evaluation.stats import Estimate, cluster_bootstrap, paired_bootstrap

SPLIT_NAMES = {"train": "training combinations", "heldout": "held-out combinations"}


@dataclass
class Claim:
    """One finding: its title, verdict, a sentence, and the figures behind it."""

    title: str
    verdict: str
    text: str
    figures: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def claims(cfg: ReportConfig, runs: Mapping[str, Run]) -> list[Claim]:
    """All targets, then all comparisons, in the order of the config."""
    found = [_target(t, runs) for t in cfg.targets]
    for c in cfg.comparisons:
        found.append(_distillation(c, runs) if c.kind == "distillation" else _preference(c, runs))
    return found


def percent(e: Estimate) -> str:
    """ "93.0 % (88.6 to 95.8 %)" """
    return f"{100 * e.value:.1f} % ({100 * e.low:.1f} to {100 * e.high:.1f} %)"


def points(e: Estimate) -> str:
    """A difference of rates: "+4.5 points (-1.0 to +10.0)" """
    return f"{100 * e.value:+.1f} points ({100 * e.low:+.1f} to {100 * e.high:+.1f})"


def p_value(p: float) -> str:
    """ "p = 0.034"; below what the drawn sign flips resolve, "p < 0.001" """
    return f"p = {p:.2g}" if p >= 0.001 else "p < 0.001"


def _missing(title: str, runs: Mapping[str, Run], *wanted: str) -> Claim | None:
    absent = [name for name in wanted if name not in runs]
    return Claim(title, "not measured", f"There is no evaluation of {', '.join(absent)}.") if absent else None


def _target(t: Target, runs: Mapping[str, Run]) -> Claim:
    what = "all attributes" if t.attribute == "all" else t.attribute
    bar = f"{'lower bound above' if t.bound == 'low' else 'at least'} {100 * t.value:g} %"
    title = f"{label(t.run)}: {what} right on {SPLIT_NAMES[t.split]}, {bar}" + (" (stretch)" if t.stretch else "")
    if missing := _missing(title, runs, t.run):
        return missing
    rows = by_split(runs[t.run].rows).get(t.split)
    if not rows:
        return Claim(title, "not measured", f"No prompt of {SPLIT_NAMES[t.split]} was sampled.")
    rate = rates(rows)[t.attribute]
    if rate is None:
        return Claim(
            title, "untestable", "The oracle does not read this reliably at this size, so no rate is reported."
        )
    reached = rate.low > t.value if t.bound == "low" else rate.value >= t.value
    text = f"{percent(rate)} of {rate.n} samples."
    if t.bound == "value" and rate.low < t.value <= rate.high:
        text += " The interval includes the bar: another set of prompts could fall on the other side."
    return Claim(title, "met" if reached else "not met", text, {"rate": rate.as_dict(), "bar": t.value})


def _preference(c: Comparison, runs: Mapping[str, Run]) -> Claim:
    title = c.title or f"{label(c.a)} against {label(c.b)}"
    if missing := _missing(title, runs, c.a, c.b):
        return missing
    a, b = runs[c.a], runs[c.b]
    result = preference(a.rows, b.rows)
    if result is None:
        return Claim(title, "untestable", "The oracle reads no attribute reliably at this size.")
    sentence = {
        "preferred": f"The oracle prefers {a.label} to {b.label}",
        "not preferred": f"The oracle prefers {b.label} to {a.label}",
        "no difference shown": f"The oracle shows no difference between {a.label} and {b.label}",
    }[result.verdict]
    text = (
        f"{sentence}: score {percent(result.score)}, where 50 % is equal; {result.wins} wins, {result.ties} ties, "
        f"{result.losses} losses on the same prompts and noise, {p_value(result.p_value)}."
    )
    figures: dict[str, Any] = {"preference": result.as_dict(), "nfe": [a.nfe, b.nfe], "differences": {}}
    for name, pair in compare(a.rows, b.rows).items():
        figures["differences"][name] = pair.as_dict() if pair else None
        if pair and name == "all":
            text += f" All attributes right: {points(pair.difference)}."
    return Claim(title, result.verdict, text, figures)


def _distillation(c: Comparison, runs: Mapping[str, Run]) -> Claim:
    """Non-inferior to the teacher, where the undistilled model at the same steps is worse than the teacher.

    Without the second half "as good as 50 steps" would hold with no distillation at all: a small base model is often
    as good at 8 steps as at 50.
    """
    title = c.title or f"{label(c.a)} against {label(c.b)}"
    if missing := _missing(title, runs, c.a, c.b, c.control):
        return missing
    student, teacher, control = runs[c.a], runs[c.b], runs[c.control]
    gap, loss = compare(student.rows, teacher.rows)["all"], compare(control.rows, teacher.rows)["all"]
    if gap is None or loss is None:
        return Claim(title, "untestable", "The oracle does not read every attribute reliably at this size.")
    figures: dict[str, Any] = {
        "student_minus_teacher": gap.as_dict(),
        "control_minus_teacher": loss.as_dict(),
        "nfe": {"student": student.nfe, "teacher": teacher.nfe, "control": control.nfe},
        "margin": c.margin,
        "end_points": _end_points(student, teacher, control),
    }
    as_good, worse = gap.difference.low > -c.margin, gap.difference.high < -c.margin
    base_falls = loss.difference.high < 0
    text = (
        f"All attributes right, against {teacher.label} ({teacher.nfe} evaluations): {student.label} "
        f"({student.nfe} evaluations) {points(gap.difference)}; {control.label} ({control.nfe} evaluations) "
        f"{points(loss.difference)}."
    )
    if worse:
        verdict = "contradicted"
        text += f" The distilled model falls more than {100 * c.margin:g} points behind its teacher."
    elif not base_falls:
        verdict = "untestable"
        text += " The undistilled model loses nothing measurable with few steps: distillation has nothing to win here."
    elif as_good:
        verdict = "supported"
        text += (
            f" The distilled model stays within {100 * c.margin:g} points of its teacher; the undistilled one loses."
        )
    else:
        verdict = "inconclusive"
        text += f" The interval includes a loss of {100 * c.margin:g} points; more prompts would decide."
    return Claim(title, verdict, text + _end_point_text(figures["end_points"], student, control), figures)


def _end_points(student: Run, teacher: Run, control: Run) -> dict[str, Any] | None:
    """Relative distance ‖x − teacher‖ / ‖teacher‖ of end points from the same noise, mean with interval."""
    tensors = [run.latents() for run in (student, teacher, control)]
    if any(t is None for t in tensors) or len({t.shape for t in tensors if t is not None}) != 1:
        return None
    x, y, z = (t.reshape(len(t), -1) for t in tensors if t is not None)
    size = np.linalg.norm(y, axis=1)
    near, base = np.linalg.norm(x - y, axis=1) / size, np.linalg.norm(z - y, axis=1) / size
    texts = [r.text for r in student.rows]
    return {
        "student": cluster_bootstrap(near, texts).as_dict(),
        "control": cluster_bootstrap(base, texts).as_dict(),
        "student_minus_control": paired_bootstrap(near, base, texts).as_dict(),
    }


def _end_point_text(figures: Mapping[str, Any] | None, student: Run, control: Run) -> str:
    if figures is None:
        return ""
    d, *ends = (figures[name] for name in ("student_minus_control", "student", "control"))
    near, base = (f"{e['value']:.2f} ({e['low']:.2f} to {e['high']:.2f})" for e in ends)
    nearer = student.label if d["high"] < 0 else control.label if d["low"] > 0 else ""
    return (
        f" Started from the same noise, the latents of {student.label} end at a relative distance of {near} from the "
        f"teacher's, those of {control.label} at {base}; "
        + (f"{nearer} is nearer." if nearer else "no difference shown.")
    )
