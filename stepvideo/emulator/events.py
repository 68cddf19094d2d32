"""The same pipeline schedules as `schedule`, played pass by pass: for stages that differ, and to draw.

A pass is one micro-batch through one chunk of a stage, forward or backward. Every stage does its passes in an order
that is fixed beforehand; a pass starts when the stage is free and what it reads has arrived.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from stepvideo.emulator.schedule import check
from stepvideo.errors import ConfigError


class Pass(NamedTuple):
    """One micro-batch through one chunk of one stage."""

    stage: int
    chunk: int
    micro_batch: int
    backward: bool = False

    def __str__(self) -> str:
        kind = "backward" if self.backward else "forward"
        return f"{kind} of micro-batch {self.micro_batch} through chunk {self.chunk} of stage {self.stage}"


class Event(NamedTuple):
    """A pass and when it ran, in seconds from the start of the step."""

    work: Pass
    start: float
    end: float


def orders(pipeline: int, virtual: int, micro_batches: int) -> list[list[Pass]]:
    """The passes of every stage, as Megatron orders them (arXiv:2104.04473, Fig. 4): warm-up, steady state, the rest.

    Of an interleaved schedule, groups of `pipeline` micro-batches go through one chunk before the next chunk's turn.
    """
    total = micro_batches * virtual
    plan = []
    for stage in range(pipeline):
        warm = pipeline - stage - 1
        if virtual > 1:
            warm = 2 * warm + (virtual - 1) * pipeline
        warm = min(warm, total)
        forward = [_nth(i, stage, pipeline, virtual, backward=False) for i in range(total)]
        backward = [_nth(i, stage, pipeline, virtual, backward=True) for i in range(total)]
        steady = [w for pair in zip(forward[warm:], backward) for w in pair]
        plan.append([*forward[:warm], *steady, *backward[total - warm :]])
    return plan


def _nth(i: int, stage: int, pipeline: int, virtual: int, backward: bool) -> Pass:
    if virtual == 1:
        return Pass(stage, 0, i, backward)
    group, within = divmod(i, pipeline * virtual)
    chunk, member = divmod(within, pipeline)
    return Pass(stage, virtual - 1 - chunk if backward else chunk, group * pipeline + member, backward)


def simulate(
    forward_s: Sequence[float] | float,
    backward_s: Sequence[float] | float,
    pipeline: int,
    virtual: int,
    micro_batches: int,
    p2p_s: float = 0.0,
    hidden_s: float = 0.0,
) -> list[Event]:
    """The passes of one step in order of their start.

    Args:
        forward_s, backward_s: one micro-batch through all layers of a stage; one number a stage where they differ.
        p2p_s: an exchange between stages as `schedule.pipeline_time` counts it: the stage's own time, at every pass.
        hidden_s: latency of an exchange that runs beside the computation: only the receiver may wait for it.

    Raises:
        ConfigError: a schedule that cannot run (`schedule.check`), negative or missing times.
    """
    check(pipeline, virtual, micro_batches)
    seconds = {
        False: _per_stage("forward_s", forward_s, pipeline),
        True: _per_stage("backward_s", backward_s, pipeline),
    }
    if p2p_s < 0 or hidden_s < 0:
        raise ConfigError(f"p2p_s={p2p_s}, hidden_s={hidden_s}: give 0 or more")
    alone = pipeline == 1
    own = {b: [t / virtual + (0 if alone else p2p_s) for t in seconds[b]] for b in seconds}
    return play(orders(pipeline, virtual, micro_batches), own, virtual, 0.0 if alone else hidden_s)


def play(
    plan: Sequence[Sequence[Pass]], own: dict[bool, list[float]], virtual: int, hidden_s: float = 0.0
) -> list[Event]:
    """Run the given order of every stage. `own`: {backward: seconds of a pass at each stage}.

    Raises:
        ConfigError: stages that wait for each other in a circle; names the pass that each of them waits to begin.
    """
    stages = len(plan)
    free, done, at = [0.0] * stages, dict[Pass, float](), [0] * stages
    events: list[Event] = []
    ready = list(range(stages))
    waiting: dict[Pass, int] = {}  # what has to end: the stage that waits for it
    while ready:
        stage = ready.pop()
        while at[stage] < len(plan[stage]):
            work = plan[stage][at[stage]]
            start, blocked = free[stage], False
            for needed in _reads(work, stages, virtual):
                if needed not in done:
                    waiting[needed], blocked = stage, True
                    break
                start = max(start, done[needed] + (hidden_s if needed.stage != stage else 0.0))
            if blocked:
                break
            free[stage] = done[work] = start + own[work.backward][stage]
            events.append(Event(work, start, free[stage]))
            at[stage] += 1
            if work in waiting:
                ready.append(waiting.pop(work))
    if stuck := [plan[s][at[s]] for s in range(stages) if at[s] < len(plan[s])]:
        raise ConfigError(f"deadlock: each waits for another to end: {'; '.join(map(str, stuck))}")
    return sorted(events, key=lambda e: (e.start, e.work.stage))


def total(events: Sequence[Event]) -> float:
    """Seconds of the step."""
    return max(e.end for e in events)


def _reads(work: Pass, stages: int, virtual: int) -> list[Pass]:
    """What must have ended: the pass that hands over the activation or its gradient, and the pass's own forward."""
    s, c, m = work.stage, work.chunk, work.micro_batch
    if not work.backward:
        if s:
            return [Pass(s - 1, c, m)]
        return [Pass(stages - 1, c - 1, m)] if c else []
    own = Pass(s, c, m)
    if s < stages - 1:
        return [own, Pass(s + 1, c, m, True)]
    return [own, Pass(0, c + 1, m, True)] if c < virtual - 1 else [own]


def _per_stage(name: str, seconds: Sequence[float] | float, pipeline: int) -> list[float]:
    times = [float(seconds)] * pipeline if isinstance(seconds, int | float) else [float(s) for s in seconds]
    if len(times) != pipeline:
        raise ConfigError(f"{name} has {len(times)} values for pipeline={pipeline} stages; give one each")
    if bad := [t for t in times if not t >= 0]:
        raise ConfigError(f"{name}={bad[0]}: give 0 or more seconds")
    return times
