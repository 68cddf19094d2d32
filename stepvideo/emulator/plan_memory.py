"""Bytes of every rank under a plan, or under arrays of plans, by pipeline stage and by part; torch-free.

The same closed forms as `train_memory`, with pipeline stages: the first stage holds the activations of most
micro-batches and the embedders, the last one the output. Zero-bubble schedules and stages of unequal depth are not
described.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepvideo.emulator.activations import MicroBatch, Share, in_backward, of_block, of_input, of_output, of_recomputed
from stepvideo.emulator.dit_memory import dit_parameters
from stepvideo.emulator.plan import Plan
from stepvideo.emulator.train_memory import RESERVE, check_described, standing
from stepvideo.errors import ConfigError
from stepvideo.models.config import DiTConfig

Bytes = Any  # a number, or an array that broadcasts to `plan.shape`


@dataclass(frozen=True)
class StageMemory:
    """Bytes of a rank of one pipeline stage; each part is there at the worst moment and they add up to `total`.

    states: fp32 weights and the optimizer's moments, as ZeRO divides them. weights, gradients: whole ones in use.
    activations: of `in_flight` micro-batches. backward: what the backward holds besides. buffers: exchanges under way.
    updating: what the optimizer's step makes beyond the room of those that are gone by then.
    """

    states: Bytes
    weights: Bytes
    gradients: Bytes
    activations: Bytes
    backward: Bytes
    buffers: Bytes
    updating: Bytes
    reserve: Bytes

    @property
    def total(self) -> Bytes:
        return sum(getattr(self, name) for name in PARTS)

    def row(self, index: int = 0) -> dict[str, float]:
        """Of one plan of the arrays, by its flat index."""
        shape = np.shape(self.total)
        found = {n: float(np.broadcast_to(getattr(self, n), shape).flat[index]) for n in PARTS}
        return found | {"total": float(np.asarray(self.total).flat[index])}


PARTS = tuple(f.name for f in fields(StageMemory))


@dataclass(frozen=True)
class Storing:
    """What is the same for all plans. `compiled`: each block by torch.compile, which keeps less for the backward."""

    e: int = 2
    compiled: bool = True
    muon: bool = False
    ema: bool = False
    reserve: float = RESERVE


def plan_memory(
    cfg: DiTConfig, batch: MicroBatch, plan: Plan, stage: Any = 0, how: Storing | None = None
) -> StageMemory:
    """Memory of a rank of pipeline stage `stage` (an array broadcasts; -1 is the last stage of each plan).

    Args:
        batch: samples for each of the plan's `micro_batch`, their size and their text.

    Raises:
        ConfigError: blocks that this does not describe. Impossible plans are `plan.problems`' to say; their bytes mean
            nothing.
    """
    try:
        check_described(cfg)
    except ValueError as e:
        raise ConfigError(str(e)) from e
    how = how or Storing()
    p, pp, vp = dit_parameters(cfg), plan.pipeline, plan.virtual
    stage = np.where(np.asarray(stage) < 0, pp + stage, stage)
    first, last = stage == 0, stage == pp - 1
    layers = cfg.num_layers / pp
    shards = np.where(plan.zero > 0, plan.copies, 1)
    found = standing(p, layers, plan.tensor, shards, plan.zero, plan.micro_batches, how.e, how.muon, how.ema)
    outside = {"master": 4 / shards, "optimizer": 8 / shards, "weights": how.e, "gradients": 4 / shards}
    outside["updating"] = 4 / shards
    for name, size in outside.items():  # embedders and the output layer: no inner stage has them
        found[name] = found[name] - np.where(first | last, 0, size * p.outside)
    samples = MicroBatch(batch.samples * plan.micro_batch, batch.latent, batch.text, batch.clip)
    sequence = plan.sequence_parallel & (plan.tensor > 1)
    share = Share(cfg, samples, plan.tensor, plan.context, sequence, how.e, how.e, how.compiled)
    held = in_flight(pp, vp, plan.micro_batches, stage)
    few = of_recomputed(share, plan.keep_attention)
    again = recomputing(cfg.num_layers, plan.recompute)
    whole = sum(of_block(share).values())
    kept = held * (layers * whole - again / pp * (whole - few))
    ends = held * np.where(first, of_input(share), 0) + np.where(last, of_output(share), 0)
    under_way = np.where(plan.gpus == 1, 0, found["exchange"])
    ending, inner = (in_backward(share, again > 0, few, last=x, exchange=under_way) for x in (True, False))
    backward, exchanged = (np.where(last, a, b) for a, b in zip(ending, inner))
    buffers = exchanged + np.where(pp > 1, 2 * few, 0)  # one micro-batch received, one sent
    return StageMemory(
        states=found["master"] + found["optimizer"] + found["ema"],
        weights=found["weights"],
        gradients=found["gradients"],
        activations=kept + ends,
        backward=backward,
        buffers=buffers,
        updating=np.maximum(found["updating"] - (found["weights"] + kept + ends + backward + buffers), 0),
        reserve=np.asarray(float(how.reserve)),
    )


def in_flight(pipeline: Any, virtual: Any, micro_batches: Any, stage: Any = 0) -> NDArray[Any]:
    """Micro-batches whose activations of all the stage's layers would take as much as what it holds at most.

    1F1B: a stage has begun as many as there are stages from it to the last. Interleaved, it has begun 2(p - 1 - i)
    chunks more than one round of all but one of its chunks (Narayanan et al. 2021, arXiv:2104.04473, §2.2).
    """
    p, v, m, i = (np.asarray(x) for x in (pipeline, virtual, micro_batches, stage))
    chunks = np.where(v > 1, 2 * (p - 1 - i) + (v - 1) * p + 1, p - i)
    return np.minimum(chunks, m * v) / v


def recomputing(layers: int, share: Any) -> NDArray[Any]:
    """Blocks of all that recompute; as `stepvideo.parallel` rounds."""
    return np.round(np.asarray(share, dtype=float) * layers)


def worst(cfg: DiTConfig, batches: list[MicroBatch], plan: Plan, how: Storing | None = None) -> NDArray[np.float64]:
    """Bytes of the rank that needs most, of all stages and of all sizes of the stream; an array of `plan.shape`.

    The first stage or the last: inner ones have fewer micro-batches than the first and no output.
    """
    sizes = [plan_memory(cfg, b, plan, stage, how).total for b in batches for stage in (0, -1)]
    return np.broadcast_to(np.maximum.reduce(np.broadcast_arrays(*sizes)), plan.shape)
