"""What a rank needs to train a DiT, in bytes, in closed form; torch-free. Checked against the real modules in tests.

Counted is what autograd keeps of our blocks and of the plans of `stepvideo.parallel` (`activations`), as they run on an
accelerator, and what optimizers and FSDP hold. What a driver, a caching allocator and libraries add is `RESERVE`.
`plan_memory` says the same of plans with pipeline stages, many at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stepvideo.emulator.activations import (
    MicroBatch,
    Share,
    in_backward,
    of_block,
    of_input,
    of_output,
    of_recomputed,
)
from stepvideo.emulator.dit_memory import DiTParameters, dit_parameters
from stepvideo.emulator.ledger import BYTES
from stepvideo.models.config import DiTConfig
from stepvideo.parallel.config import TrainParallelConfig

RESERVE = 4_000_000_000  # context, communication buffers, workspaces of products, fragments
FSDP_BLOCKS = 2  # whose whole weights or gradients are under way at a time

Size = Any  # a number, or an array that broadcasts


@dataclass(frozen=True)
class Training:
    """How a DiT is trained: the ranks and what they divide, and what an optimizer keeps."""

    parallel: TrainParallelConfig
    ranks: int = 1
    precision: str = "bf16-mixed"
    accumulate: int = 1  # micro-batches of a step
    muon: bool = False  # for the blocks' matrices; AdamW for the rest
    ema: bool = False
    reference: bool = False  # a second, fixed network of the same size is evaluated beside it (DPO)

    @property
    def e(self) -> int:
        return BYTES["fp32" if self.precision == "32-true" else "bf16"]

    @property
    def shards(self) -> int:
        """Ranks that share the master weights of a tensor rank."""
        _, shard, ulysses, _ = self.parallel.dims(self.ranks)
        return shard * (ulysses if self.parallel.zero else 1)

    @property
    def residual(self) -> int:
        """Bytes of an element between the blocks: one process computes under autocast, which adds up in fp32."""
        return 4 if self.ranks == 1 else self.e

    def share(self, cfg: DiTConfig, batch: MicroBatch) -> Share:
        """What a rank has of a micro-batch."""
        par = self.parallel
        sequence = par.sequence and par.tensor > 1
        return Share(cfg, batch, par.tensor, par.ulysses, sequence, self.e, self.residual, par.compile)


@dataclass(frozen=True)
class TrainMemory:
    """Bytes of one rank. All but activations, gradients and backward are there through the whole step."""

    master: int  # fp32 weights
    optimizer: int  # moments
    ema: int
    weights: int  # gathered, in the dtype of the computation
    gradients: int
    exchange: int  # FSDP's blocks under way, where that is the worst moment
    activations: int  # kept from forward to backward
    backward: int  # what the backward adds to them at its worst moment, such as the recomputed ones of a block
    reserve: int = RESERVE
    beside: int = 0  # other networks: a fixed reference (DPO), a VAE that encodes clips as they come
    encoding: int = 0  # what that VAE holds at its worst moment, before the forward
    updating: int = (
        0  # what AdamW (foreach) makes while it steps, when activations and the computation's weights are gone
    )

    @property
    def tensors(self) -> int:
        """The worst moment: of encoding, when the backward sets in, at its end, when the gradients are there, or of the
        optimizer's step."""
        states = self.master + self.optimizer + self.ema + self.beside
        computing = max(max(self.activations, self.gradients) + self.backward, self.encoding)
        return states + max(self.weights + self.exchange + computing, self.gradients + self.updating)

    @property
    def total(self) -> int:
        return self.tensors + self.reserve


def train_memory(cfg: DiTConfig, batch: MicroBatch, how: Training, reserve: int = RESERVE) -> TrainMemory:
    """Raises ValueError: ranks that do not divide so, or blocks that this does not describe (MMDiT)."""
    check_described(cfg)
    par, p = how.parallel, dit_parameters(cfg)
    par.check(cfg.num_attention_heads, 4 * cfg.inner_dim)
    states = standing(p, p.layers, par.tensor, how.shards, par.zero, how.accumulate, how.e, how.muon, how.ema)
    if how.ranks == 1:  # no FSDP
        states |= {"exchange": 0} | ({"weights": 0} if how.e == 4 else {})
    share = how.share(cfg, batch)
    kept = kept_by_blocks(share, p.layers, checkpointed(par, p.layers), par.checkpointing == "attention")
    again = checkpointed(par, p.layers) > 0
    few = of_recomputed(share, par.checkpointing == "attention")
    backward, states["exchange"] = in_backward(share, again, few, exchange=states["exchange"])
    beside = states["master"] + states["weights"] if how.reference else 0
    return TrainMemory(
        **{name: round(float(value)) for name, value in states.items()},
        activations=round(float(kept + of_input(share) + of_output(share))),
        backward=round(float(backward)),
        reserve=reserve,
        beside=round(float(beside)),
    )


def check_described(cfg: DiTConfig) -> None:
    """Raises ValueError: blocks whose activations no formula here is of."""
    if cfg.block != "cross":
        raise ValueError(f"block={cfg.block!r}: training memory is predicted for block='cross'")


def standing(
    p: DiTParameters,
    layers: Size,
    tensor: Size,
    shards: Size,
    zero: Size,
    accumulate: Size,
    e: int,
    muon: bool = False,
    ema: bool = False,
) -> dict[str, Size]:
    """Bytes of weights, optimizer and gradients of a rank with `layers` blocks and all that is outside the blocks.

    shards: ranks that divide the master weights. zero: ZeRO stage. accumulate: micro-batches of a step, over which
    gradients are added up in fp32, whole up to stage 1.
    """
    matrices = p.block_matrices // tensor
    block = matrices + p.block - p.block_matrices
    own = layers * block + p.outside  # parameters of a tensor rank
    zero = np.asarray(zero)
    by_muon = 4 * layers * matrices / shards if muon else 0
    summed = np.where((zero <= 1) & (np.asarray(accumulate) > 1), own, 0)
    return {
        "master": 4 * own / shards,
        "optimizer": 8 * own / shards - by_muon,
        "ema": 4 * own / shards if ema else 0 * own,
        "weights": e * np.where(zero == 3, FSDP_BLOCKS * block + p.outside, own),
        "gradients": 4 * own / shards + 4 * summed,
        "exchange": FSDP_BLOCKS * block * (e + 4),
        "updating": 4 * own / shards - by_muon,
    }


def kept_by_blocks(share: Share, layers: Size, recomputing: Size, attention: bool = False) -> Size:
    """Activations of `layers` blocks of which so many recompute (with `attention`: all but its outputs)."""
    again = recomputing * of_recomputed(share, attention)
    timestep = np.where(recomputing > 0, 6 * share.batch.samples * share.width * share.e, 0)  # an input of theirs
    return (layers - recomputing) * sum(of_block(share).values()) + again + timestep


def checkpointed(par: TrainParallelConfig, layers: int) -> int:
    """Blocks that recompute."""
    share = {"none": 0.0, "fraction": par.checkpoint_fraction}.get(par.checkpointing, 1.0)
    return round(share * layers)
