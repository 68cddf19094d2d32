"""Where the time of a run went, and what its restarts were for: the report's Tables 4 and 5 and its 99 %.

    effective training time = total iteration time / total training time            (report §6.5)

Iterations that a restart made undone, and did again, count once. Everything is read from what stages leave behind:
`events.jsonl` of the stage and `mind.jsonl` of StepMind's decisions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from stepvideo.mind.classify import from_output, root_cause
from stepvideo.mind.faults import CATALOGUE, TABLE_4, Blame
from stepvideo.sink import read_events

DAY_S = 86400.0
PLANNED = "planned"  # a preemption, a time limit, a person
UNKNOWN = "unknown"
LLAMA = {"hardware": 0.422, "unexpected": 0.485}  # Table 5
STEP_VIDEO = {"hardware": 0.037, "unexpected": 0.095}


@dataclass(frozen=True)
class Restart:
    """Between two attempts.

    Attributes:
        fault: of the catalogue, or planned, or unknown.
        lost_s: of iterations that had to be done again.
        down_s: from the last iteration to the next attempt's start.
        detect_s: from the last iteration to the decision; None: it was not StepMind's.
    """

    fault: str
    lost_s: float
    down_s: float
    detect_s: float | None = None


@dataclass
class Account:
    """Of one stage; seconds."""

    stage: str
    ranks: int = 1
    total_s: float = 0.0  # from the first attempt's start to the last record
    iterating_s: float = 0.0  # what counts
    saving_s: float = 0.0  # held up by checkpoints
    starting_s: float = 0.0  # attempts' starts to their first iterations
    restarts: list[Restart] = field(default_factory=list)

    @property
    def lost_s(self) -> float:
        return sum(r.lost_s for r in self.restarts)

    @property
    def down_s(self) -> float:
        return sum(r.down_s for r in self.restarts)

    @property
    def effective(self) -> float:
        return self.iterating_s / self.total_s if self.total_s else 0.0


@dataclass
class _Attempt:
    start: float
    ranks: int
    end: float
    word: str = ""
    error: str = ""
    steps: list[tuple[int, float]] = field(default_factory=list)  # (done, when)
    saving_s: float = 0.0

    def step_s(self) -> float:
        """The median time of a step."""
        return median([(t1 - t0) / (d1 - d0) for (d0, t0), (d1, t1) in pairwise(self.steps) if d1 > d0] or [0.0])

    def iterating_s(self, until: int | None = None) -> float:
        """With steps up to `until`, or all; the first records' step is as long as the median one."""
        times = [t for d, t in self.steps if until is None or d <= until]
        return max(times[-1] - times[0] + self.step_s() - self.saving_s, 0.0) if times else 0.0


def account(stage: str, events: Iterable[Mapping[str, Any]], decisions: Iterable[Mapping[str, Any]]) -> Account | None:
    """The account of a stage that logs its steps; None for others.

    Args:
        events: records of its `events.jsonl`.
        decisions: records of its `mind.jsonl`.
    """
    attempts = _attempts(events)
    worked = [a for a in attempts if a.steps]
    if not worked:
        return None
    found = Account(stage, max(a.ranks for a in attempts), attempts[-1].end - attempts[0].start)
    acted = [d for d in decisions if d.get("action") == "restart"]
    resumed: int | None = None  # the last step that none of the later attempts did again
    kept_s = []
    for each in reversed(attempts):
        kept_s.append(each.iterating_s(resumed))
        if each.steps:
            resumed = min(each.steps[0][0] - 1, each.steps[0][0] if resumed is None else resumed)
    for (this, following), kept in zip(pairwise([*attempts, None]), reversed(kept_s)):
        assert this
        found.iterating_s += kept
        found.saving_s += this.saving_s
        first = this.steps[0][1] - this.step_s() if this.steps else this.end
        found.starting_s += max(first - this.start, 0.0)
        if following:
            found.restarts.append(_restart(this, following, acted, this.iterating_s() - kept))
    return found


def _attempts(events: Iterable[Mapping[str, Any]]) -> list[_Attempt]:
    found: list[_Attempt] = []
    for e in events:
        if e.get("name") == "attempt_started":
            found.append(_Attempt(e["time"], int(e.get("world_size", 1)), e["time"]))
        elif found:
            last = found[-1]
            last.end = e["time"]
            if e.get("type") == "progress" and e.get("unit") == "step":
                last.steps.append((int(e["done"]), e["time"]))
            elif e.get("name") == "checkpoint":
                last.saving_s += float(e.get("held_s", 0.0))
            elif e.get("name") in ("preempted", "failed"):
                last.word, last.error = e["name"], str(e.get("error", ""))
    return found


def _restart(this: _Attempt, following: _Attempt, acted: list[Mapping[str, Any]], lost_s: float) -> Restart:
    last = this.steps[-1][1] if this.steps else this.start
    decided = [d for d in acted if this.start <= d["time"] < following.start]
    detect = decided[0]["time"] - decided[0].get("act_s", 0.0) - last if decided else None
    return Restart(_cause(this, decided), lost_s, following.start - last, detect)


def _cause(attempt: _Attempt, decided: list[Mapping[str, Any]]) -> str:
    if decided:
        return decided[0]["fault"]
    if attempt.word == "preempted":
        return PLANNED
    if attempt.word == "failed":
        cause = root_cause(from_output(attempt.error))
        return cause.name if cause else "SOFTWARE_FAULT"
    return UNKNOWN


# ------------------------------------------------------------------------------------------------------------ report


@dataclass
class Report:
    """Of all stages of a store that log their steps."""

    accounts: list[Account]

    @property
    def gpu_days(self) -> float:
        """Ranks × days, of the stages that ran."""
        return sum(a.total_s * a.ranks for a in self.accounts) / DAY_S

    @property
    def effective(self) -> float:
        """Iteration time over training time, both weighted by ranks."""
        total = sum(a.total_s * a.ranks for a in self.accounts)
        return sum(a.iterating_s * a.ranks for a in self.accounts) / total if total else 0.0

    def causes(self) -> dict[str, int]:
        """{fault: restarts}."""
        return dict(Counter(r.fault for a in self.accounts for r in a.restarts).most_common())

    def table_4(self) -> list[tuple[str, str, int]]:
        """(fault, category, count) by the rows of the report's table."""
        counts = Counter(CATALOGUE[f].row for a in self.accounts for r in a.restarts if (f := r.fault) in CATALOGUE)
        return [(row, CATALOGUE[row].category.value, counts[row]) for row in TABLE_4]

    def table_5(self) -> dict[str, float]:
        """Restarts a day and 1,000 GPUs: of hardware, and all unexpected ones (the report's 7, and 18 without OOM)."""
        rows = {row: n for row, _, n in self.table_4()}
        hardware = sum(n for row, n in rows.items() if CATALOGUE[row].fatal and CATALOGUE[row].blame == Blame.NODE)
        unexpected = hardware + rows["SOFTWARE_FAULT"] + self.causes().get(UNKNOWN, 0)
        scale = 1000 / self.gpu_days if self.gpu_days else 0.0
        return {"hardware": hardware * scale, "unexpected": unexpected * scale}

    def as_dict(self) -> dict[str, Any]:
        stages = [
            {**asdict(a), "lost_s": a.lost_s, "down_s": a.down_s, "effective": a.effective} for a in self.accounts
        ]
        tables = {"table_4": self.table_4(), "table_5": self.table_5(), "causes": self.causes()}
        return {"effective": self.effective, "gpu_days": self.gpu_days, **tables, "stages": stages}

    def text(self) -> str:
        """For the terminal."""
        if not self.accounts:
            return "no stage has logged a step yet"
        lines = [f"{'stage':24} {'ranks':>5} {'hours':>8} {'effective':>9} {'restarts':>8} {'lost':>8} {'down':>8}"]
        for a in sorted(self.accounts, key=lambda a: -a.total_s):
            lines.append(
                f"{a.stage:24} {a.ranks:5} {a.total_s / 3600:8.2f} {a.effective:9.2%} {len(a.restarts):8} "
                f"{a.lost_s:7.0f}s {a.down_s:7.0f}s"
            )
        lines += ["", f"effective training time: {self.effective:.2%} (report: 99 %)", ""]
        lines += [f"{'fault':16} {'category':10} {'here':>6} {'report':>7}"]
        lines += [f"{row:16} {category:10} {count:6} {TABLE_4[row]:7}" for row, category, count in self.table_4()]
        others = [f"{name} {n}" for name, n in self.causes().items() if name not in CATALOGUE]
        lines += [f"other restarts: {', '.join(others)}"] if others else []
        lines += ["", f"restarts a day and 1,000 GPUs ({self.gpu_days:.3g} GPU-days)     here  report  LLaMA 3.1"]
        here = self.table_5()
        lines += [f"  {name:46} {here[name]:8.3g} {STEP_VIDEO[name]:7} {LLAMA[name]:10}" for name in here]
        return "\n".join(lines)


def report(store: Path) -> Report:
    """Of everything that ran in a store."""
    found = []
    for path in sorted(Path(store).glob("*/*/events.jsonl")):
        decided = read_events(path.parent / "mind.jsonl")[0]
        name = f"{path.parents[1].name}/{path.parent.name[:6]}"
        if (one := account(name, read_events(path)[0], decided)) is not None:
            found.append(one)
    return Report(found)
