"""Sequence parallelism beside tensor parallelism (Megatron, arXiv:2205.05198; report §6.2.2, "TP + SP").

Between the matrices of a block - norms, modulation, gates, the residual stream - a tensor rank has its share of the
tokens. Tokens are gathered before the columns and, with the sum over the ranks, divided again after the rows: the
all-reduce of tensor parallelism in two halves, and activations between them that shrink with the ranks. Tokens that do
not divide are filled up with zeros, which attention does not see and nothing reads.

Legend: b batch, n tokens of this rank's Ulysses share, s tokens of this rank (n over the ranks, rounded up), d width.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from stepvideo.models.dit import DiT
from stepvideo.models.dit_blocks import Block, SelfAttention

TOKENS = Shard(1)


def split_between(dit: DiT, mesh: DeviceMesh) -> None:
    """Divide what lies between the matrices of a DiT's blocks, whose matrices `split_heads(..., sequence=True)` has
    divided, and whose tokens `split_tokens` has, in place, by hooks.

    The gradients of the blocks' undivided parameters are then a rank's own tokens' (`gradients.add_up`).

    Raises:
        ValueError: a form whose blocks have a second stream, or order tokens by frame.
    """
    if dit.cfg.attention != "full" or dit.cfg.block != "cross":
        raise ValueError(
            f"parallel.sequence=true divides the tokens of full attention over the video, not "
            f"attention={dit.cfg.attention!r} with block={dit.cfg.block!r}; set parallel.sequence=false"
        )
    plan, blocks = _Sequence(mesh), dit.transformer_blocks
    dit.adaln_single.register_forward_hook(plan.time)
    blocks[0].register_forward_pre_hook(plan.enter)
    for block in blocks:
        assert isinstance(block, Block)
        block.attn1.register_forward_pre_hook(plan.place)
        for layer in (block.attn1.wqkv, block.attn2.wq):
            layer.register_forward_hook(plan.trim)
        for layer in (block.attn1.wo, block.attn2.wo):
            layer.register_forward_pre_hook(plan.fill, prepend=True)  # before it divides its input
    blocks[-1].register_forward_hook(plan.leave, prepend=True)  # before the Ulysses ranks join their tokens


class _Sequence:
    def __init__(self, mesh: DeviceMesh) -> None:
        self.mesh = mesh
        self.entered = 0  # n, in the forward that is being computed
        self.tokens = 0  # n, in the block that is being computed, perhaps again and after a forward of another size

    def time(self, _: nn.Module, args: Any, out: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The modulation of all blocks: each rank's tokens give a part of its gradient."""
        time_b6d, emb_bd = out
        whole = DTensor.from_local(time_b6d, self.mesh, [Replicate()], run_check=False)
        return whole.to_local(grad_placements=[Partial()]), emb_bd

    def enter(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Before the first block: its own tokens are left to a rank."""
        x_bnd, *rest = args
        self.entered = x_bnd.shape[1]
        return self._move(self._filled(x_bnd), Replicate(), TOKENS), *rest

    def place(self, _: SelfAttention, args: tuple[Tensor, tuple[Tensor, Tensor]]) -> None:
        """Before each self-attention: how many tokens are gathered."""
        self.tokens = args[1][0].shape[0]

    def trim(self, _: nn.Module, args: Any, out: Tensor) -> Tensor:
        """Of the projections into attention: without what was filled up."""
        return out[:, : self.tokens]

    def fill(self, _: nn.Module, args: tuple[Tensor]) -> Tensor:
        """Before the projections out of attention."""
        return self._filled(args[0])

    def leave(self, _: nn.Module, args: Any, x_bsd: Tensor) -> Tensor:
        """After the last block: the tokens of all ranks."""
        return self._move(x_bsd, TOKENS, Replicate())[:, : self.entered]

    def _filled(self, x_bnd: Tensor) -> Tensor:
        missing = -x_bnd.shape[1] % self.mesh.size()
        return F.pad(x_bnd, (0, 0, 0, missing)) if missing else x_bnd

    def _move(self, x: Tensor, before: Placement, after: Placement) -> Tensor:
        return DTensor.from_local(x, self.mesh, [before], run_check=False).redistribute(placements=[after]).to_local()
