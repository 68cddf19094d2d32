"""Time of a step's micro-batches through pipeline stages, in closed form; torch-free, broadcasts over arrays of plans.

1F1B (Narayanan et al. 2021, arXiv:2104.04473, §2.2) and Megatron's interleaved 1F1B: every stage has `virtual` chunks
of layers, so filling and draining the pipeline costs 1/virtual as much and the exchanges between stages `virtual` times
as much. `stepvideo.emulator.events` plays the same schedules pass by pass and agrees.

Legend: p stages, v chunks of a stage, m micro-batches of a step.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stepvideo.errors import ConfigError

Seconds = NDArray[np.float64]


def valid(pipeline: ArrayLike, virtual: ArrayLike, micro_batches: ArrayLike) -> NDArray[np.bool_]:
    """Which schedules can run: all with v = 1; interleaved ones need p > 1 and p | m, or passes wait in a circle."""
    p, v, m = np.asarray(pipeline), np.asarray(virtual), np.asarray(micro_batches)
    positive = (p >= 1) & (v >= 1) & (m >= 1)
    return positive & ((v == 1) | ((p > 1) & (m % np.maximum(p, 1) == 0)))


def check(pipeline: int, virtual: int, micro_batches: int) -> None:
    """Raises ConfigError that says why the schedule cannot run, and what would."""
    p, v, m = pipeline, virtual, micro_batches
    for name, value in (("pipeline", p), ("virtual", v), ("micro_batches", m)):
        if value < 1:
            raise ConfigError(f"{name}={value}: give 1 or more")
    if v > 1 and p == 1:
        raise ConfigError(f"virtual={v} with pipeline=1: one stage has nothing to interleave; give virtual=1")
    if v > 1 and m % p:
        fits = " or ".join(str(n) for n in (m // p * p, (m // p + 1) * p) if n)
        raise ConfigError(
            f"micro_batches={m} with pipeline={p}, virtual={v}: an interleaved schedule takes micro-batches in groups "
            f"of {p} and waits for ever for the rest of the last one; give {fits}"
        )


def pipeline_time(
    forward_s: ArrayLike,
    backward_s: ArrayLike,
    pipeline: ArrayLike,
    virtual: ArrayLike,
    micro_batches: ArrayLike,
    p2p_s: ArrayLike = 0.0,
) -> Seconds:
    """Seconds from the first forward to the last backward of a step: (v·m + p − 1) passes of a chunk there and back.

    Args:
        forward_s, backward_s: one micro-batch through all layers of one stage.
        p2p_s: what handing one micro-batch to the next stage takes of the stage's own time, at every chunk and in both
            directions; 0 where it is overlapped. Without effect when p = 1.

    Returns infinity where the schedule cannot run (`valid`).
    """
    p, v, m = np.asarray(pipeline), np.asarray(virtual), np.asarray(micro_batches)
    chunk = (np.asarray(forward_s) + np.asarray(backward_s)) / v + np.where(p > 1, 2 * np.asarray(p2p_s), 0.0)
    return np.where(valid(p, v, m), (v * m + p - 1) * chunk, np.inf)


def unequal_time(forward_s: ArrayLike, backward_s: ArrayLike, micro_batches: int) -> float:
    """`pipeline_time` of 1F1B over stages that differ, exactly, where none takes longer than the last in either way.

    The last stage never waits once it has begun: it begins, and its last backward returns, through every other stage
    once. Interleaved stages that differ wait in ways that have no such form: `stepvideo.emulator.events` plays them.

    Args:
        forward_s, backward_s: one micro-batch through all layers of each stage (stages,); exchanges included.

    Raises:
        ConfigError: a schedule that cannot run, or a stage that takes longer than the last.
    """
    f, b = np.asarray(forward_s, dtype=float), np.asarray(backward_s, dtype=float)
    check(len(f), 1, micro_batches)
    if (f > f[-1]).any() or (b > b[-1]).any():
        slow = int(np.argmax(np.maximum(f - f[-1], b - b[-1])))
        raise ConfigError(f"stage {slow} takes longer than the last: no closed form; use events.simulate")
    return float(micro_batches * (f[-1] + b[-1]) + (f + b)[:-1].sum())
