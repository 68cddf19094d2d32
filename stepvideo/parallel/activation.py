"""What goes around a block: which activations are kept for backward and which are computed again (a policy is an
object), and compilation.

A block's `forward` is replaced, not the block: parameter names stay, FSDP's hooks on the block stay outside of what is
recomputed, and the hooks of a parallel plan inside it take part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from stepvideo.parallel.config import TrainParallelConfig

ATTENTION = tuple(
    getattr(torch.ops.aten, name).default
    for name in (
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
    )
)
BUCKETS = 64  # sizes that one training may have


class Policy(Protocol):
    """What to recompute."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Further arguments of `torch.utils.checkpoint.checkpoint`."""
        ...

    def covers(self, index: int, count: int) -> bool:
        """Whether block `index` of `count` recomputes anything."""
        ...


@dataclass(frozen=True)
class Fraction:
    """All inside that share of the blocks, evenly spread; 1.0 is full checkpointing, 0.0 none."""

    share: float
    options = MappingProxyType({})

    def covers(self, index: int, count: int) -> bool:
        covered = round(self.share * count)
        return (index + 1) * covered // count > index * covered // count


def _keep_attention(_: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if op in ATTENTION else CheckpointPolicy.PREFER_RECOMPUTE


@dataclass(frozen=True)
class KeepAttention:
    """All inside every block but the outputs of the fused attention, whose recomputation costs most at video lengths.

    On a CPU short sequences take plain products (`models/attention.py`), which are recomputed.
    """

    options = MappingProxyType({"context_fn": partial(create_selective_checkpoint_contexts, _keep_attention)})

    def covers(self, index: int, count: int) -> bool:
        return True


POLICIES: dict[str, Callable[[TrainParallelConfig], Policy]] = {
    "none": lambda _: Fraction(0.0),
    "full": lambda _: Fraction(1.0),
    "fraction": lambda cfg: Fraction(cfg.checkpoint_fraction),
    "attention": lambda _: KeepAttention(),
}


def recompute(blocks: Sequence[nn.Module], policy: Policy) -> None:
    """Apply a policy to the blocks of a network, in place."""
    for i, block in enumerate(blocks):
        if policy.covers(i, len(blocks)):
            block.forward = partial(
                checkpoint,
                block.forward,
                use_reentrant=False,
                preserve_rng_state=_draws(block),
                **policy.options,
            )


def _draws(block: nn.Module) -> bool:
    """Whether its forward draws random numbers, which a recomputation must draw again: adapters may, no more."""
    return any(isinstance(m, nn.Dropout) and m.p > 0 for m in block.modules())


def compile_blocks(blocks: Sequence[nn.Module]) -> None:
    """Compile each block by itself, in place: the same code for all of them, once for every size of a bucket. (With
    symbolic sizes DTensor does not trace.)"""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, BUCKETS)
    for block in blocks:
        block.forward = torch.compile(block.forward, dynamic=False)
