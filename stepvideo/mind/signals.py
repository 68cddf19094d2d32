"""Signs of life of a job, each with a learnt measure of how long it may be silent (report §6.5).

`progress` is anything that the stage writes to its log; `compute` the power of its GPUs, or the CPU time of its
processes where there are none; `traffic` what goes over RDMA ports or the network; `storage` what its processes read
and write. A checkpoint is busy on storage and validation on the GPUs, so these pauses are told from a hang, in which
all cease. No clock and no I/O here: time is an argument, in seconds of the observer's monotonic clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median

from stepvideo.mind.classify import Finding
from stepvideo.mind.cluster import NodeState

GAUGES = ("compute", "traffic", "storage")


class Pulse(StrEnum):
    """What a signal says; in the order of how far it speaks for a hang."""

    ALIVE = "alive"
    UNKNOWN = "unknown"
    SILENT = "silent"


@dataclass(frozen=True)
class NodeView:
    """A node of a job, seen at a moment. None: nobody knows.

    Attributes:
        age_s: since the agent's last new snapshot came; inf: there never was one.
        reachable: whether the scheduler's daemon there takes connections; asked only where the agent is silent.
        processes: of the job.
        stopped: all of them are (state T), which no healthy program is.
        gauges: compute (W, or CPU seconds a second), traffic and storage (bytes/s).
    """

    name: str
    age_s: float = float("inf")
    state: NodeState = NodeState.UNKNOWN
    reachable: bool | None = None
    processes: int | None = None
    stopped: bool = False
    gauges: Mapping[str, float | None] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Observation:
    """A running job, seen at a moment.

    Attributes:
        now: s, of the observer's monotonic clock.
        progress: changes whenever the stage logs something, such as the size of `events.jsonl`.
        step: the last one that is done.
        checkpoints: how many this job has completed, or any number that changes with each.
        nodes: that it runs on, by name.
        working: this attempt has done a step; before that it loads, compiles and waits for others.
    """

    now: float
    progress: float
    step: int = 0
    checkpoints: int = 0
    nodes: Mapping[str, NodeView] = field(default_factory=dict)
    working: bool = True


@dataclass
class Tolerance:
    """How long silence is taken for nothing: the largest of these is the limit.

    Attributes:
        floor_s: at least so long.
        steps: × the signal's median gap.
        pauses: × its longest gap, as of a checkpoint.
        start_s: before the first progress of an attempt, in place of all the others.
        learn: observations with progress before a gauge's level counts, gaps before `steps` and `pauses` do.
    """

    floor_s: float = 15.0
    steps: float = 5.0
    pauses: float = 1.5
    start_s: float = 900.0
    learn: int = 5

    def __post_init__(self) -> None:
        for name in ("floor_s", "steps", "pauses", "start_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give more than 0")


FLOOR = {"compute": 0.02, "traffic": 1e6, "storage": 64e3}
"""Below these a gauge tells nothing: what other programs, agents and heartbeats do."""
SHARE = {"compute": 0.5, "traffic": 0.05, "storage": 0.05}
"""Of its usual level, below which a gauge is silent: GPUs that wait for others in a loop draw power, too."""
TELLING = ("traffic", "storage")
"""Signs of life above their floor even if nothing is usual yet; a GPU draws power when it does nothing."""
KEPT = 64  # gaps and levels


class Signal:
    """When one signal was alive, what is usual of it, and for how long it has been silent."""

    def __init__(self, name: str, tolerance: Tolerance) -> None:
        self.name, self._tolerance = name, tolerance
        self._gaps: deque[float] = deque(maxlen=KEPT)
        self._levels: deque[float] = deque(maxlen=KEPT)
        self.silent_s = 0.0
        self.pulse = Pulse.UNKNOWN
        self.seen = False  # alive in this attempt
        self._whole = False  # nothing of the gap is unknown, so that it may be learnt

    @property
    def typical_s(self) -> float:
        """The median gap; 0 if none is known."""
        return median(self._gaps) if self._gaps else 0.0

    @property
    def level(self) -> float | None:
        """What a gauge usually shows while the job progresses; None: not known yet, or too little to tell anything."""
        if len(self._levels) < self._tolerance.learn:
            return None
        usual = median(self._levels)
        return usual if usual >= FLOOR[self.name] else None

    @property
    def limit_s(self) -> float:
        t = self._tolerance
        if len(self._gaps) < t.learn:
            return t.floor_s
        return max(t.floor_s, t.steps * self.typical_s, t.pauses * max(self._gaps))

    @property
    def ceased(self) -> bool:
        return self.pulse == Pulse.SILENT and self.silent_s >= self.limit_s

    @property
    def lively(self) -> bool:
        """Alive not long ago, even if it says nothing now, as storage between two reads."""
        return self.seen and self.silent_s < self.limit_s

    def beat(self, alive: bool, seconds: float) -> None:
        """`seconds` have passed, and it is alive, or has not been since.

        A gap that was survived is learnt: the next one as long is no surprise. The start of an attempt is no gap.
        """
        if alive:
            if self._whole:
                self._gaps.append(self.silent_s + seconds)
            self.silent_s, self.pulse, self.seen, self._whole = 0.0, Pulse.ALIVE, True, True
        else:
            self.silent_s += seconds
            self.pulse = Pulse.SILENT

    def stir(self, alive: bool, seconds: float) -> None:
        """As `beat`, of an attempt that starts: what it logs shows life, and nothing that is usual."""
        self.silent_s = 0.0 if alive else self.silent_s + seconds
        self.pulse = Pulse.ALIVE if alive else Pulse.SILENT

    def gauge(self, value: float | None, seconds: float, progressed: bool) -> None:
        """A reading: silent below its usual level's share, unknown if there is none or nothing is usual yet."""
        if value is not None and progressed:
            self._levels.append(value)
        level = self.level
        if level is None or value is None:
            self._whole = False
            if value is not None and value >= FLOOR[self.name] and self.name in TELLING:
                self.beat(True, seconds)
                self._whole = False
            else:
                self.silent_s += seconds
                self.pulse = Pulse.UNKNOWN
            return
        self.beat(value >= max(FLOOR[self.name], SHARE[self.name] * level), seconds)

    def restarted(self) -> None:
        """A new attempt: what was learnt stays."""
        self.silent_s, self.pulse, self.seen, self._whole = 0.0, Pulse.UNKNOWN, False, False

    def __str__(self) -> str:
        return f"{self.name} {self.pulse} for {self.silent_s:.1f} s (limit {self.limit_s:.1f} s)"


def reading(observation: Observation, gauge: str, newest_s: float = float("inf")) -> float | None:
    """A gauge over the nodes of a job: the busiest one's, since one that works shows that the job does.

    Nodes without a reading, or with one that is older than `newest_s`, are left out; None if that is all of them.
    """
    nodes = (n for n in observation.nodes.values() if n.age_s <= newest_s)
    return max((v for n in nodes if (v := n.gauges.get(gauge)) is not None), default=None)
