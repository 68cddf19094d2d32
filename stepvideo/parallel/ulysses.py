"""Ulysses sequence parallelism (DeepSpeed-Ulysses, arXiv:2309.14509; report §6.2.2, "head-wise CP").

From the first block to the last a rank holds its share of the tokens. Self-attention exchanges tokens for heads and
back; cross-attention needs nothing, as each token reads all of the text. Shares may be uneven, of tokens and of heads,
so nothing is padded and any number of ranks up to the number of heads will do. Fewer tokens than ranks are not divided.

Legend: b batch, s tokens of this rank, n tokens of all, h heads, g this rank's share of them, e head width, d width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from stepvideo.models.attention import attention
from stepvideo.models.dit import DiT
from stepvideo.models.dit_blocks import SelfAttention
from stepvideo.parallel.collectives import all_to_all, gather, own_share, shares

Rope = tuple[Tensor, Tensor]


def split_tokens(dit: DiT, group: ProcessGroup) -> None:
    """Divide the tokens of a DiT over the ranks of `group`, in place, by hooks; its parameters are untouched.

    Raises:
        ValueError: a form whose blocks attend to something else than all video tokens.
    """
    if dit.cfg.attention != "full" or dit.cfg.block != "cross":
        raise ValueError(
            f"parallel.ulysses={group.size()} divides full attention over video tokens, not "
            f"attention={dit.cfg.attention!r} with block={dit.cfg.block!r}; use parallel.tensor or parallel.cfg"
        )
    plan, blocks = _Ulysses(group), dit.transformer_blocks
    blocks[0].register_forward_pre_hook(plan.enter)
    for layer in blocks.modules():
        if isinstance(layer, SelfAttention):
            layer.register_forward_pre_hook(plan.place)
            layer.attend = plan.attend
    blocks[-1].register_forward_hook(plan.leave)


class _Ulysses:
    def __init__(self, group: ProcessGroup) -> None:
        self.group = group
        self.tokens = 0  # of all ranks, in the attention that is being computed

    def own(self, n: int) -> slice:
        """This rank's share of n tokens; all of them if they do not go round (DTensor takes no empty shares)."""
        return own_share(n, self.group) if n >= self.group.size() else slice(n)

    def enter(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Before the first block: its own tokens are left to a rank."""
        x_bnd, *rest = args
        return x_bnd[:, self.own(x_bnd.shape[1])], *rest

    def place(self, _: nn.Module, args: tuple[Tensor, Rope]) -> tuple[Tensor, Rope]:
        """Before each self-attention: the positions of these tokens."""
        x_bsd, (cos_ne, sin_ne) = args
        self.tokens = cos_ne.shape[0]
        own = self.own(self.tokens)
        return x_bsd, (cos_ne[own], sin_ne[own])

    def attend(self, q_bhse: Tensor, k_bhse: Tensor, v_bhse: Tensor) -> Tensor:
        """`attention` between the tokens of all ranks: [b, s, h·e]."""
        if self.tokens < self.group.size():
            return attention(q_bhse, k_bhse, v_bhse)
        b, h, s, e = q_bhse.shape
        ranks, me = self.group.size(), self.group.rank()
        tokens, heads = shares(self.tokens, ranks), shares(h, ranks)
        g, n = heads[me], self.tokens
        # Queries and keys are normalised in fp32; they travel in the dtype that fused attention takes them in.
        qkv_s3bhe = torch.stack([q_bhse.to(v_bhse.dtype), k_bhse.to(v_bhse.dtype), v_bhse]).permute(3, 0, 1, 2, 4)
        pieces = torch.cat([piece.reshape(-1) for piece in qkv_s3bhe.split(heads, dim=3)])
        token = 3 * b * e  # numbers of one head's token
        received = all_to_all(pieces, [s * m * token for m in heads], [t * g * token for t in tokens], self.group)
        q, k, v = received.view(n, 3, b, g, e).permute(1, 2, 3, 0, 4)
        read_nbc = attention(q, k, v).transpose(0, 1)
        sent, back = [t * b * g * e for t in tokens], [s * b * m * e for m in heads]
        parts = all_to_all(read_nbc.reshape(-1), sent, back, self.group).split(back)
        return torch.cat([part.view(s, b, m * e) for part, m in zip(parts, heads)], dim=-1).transpose(0, 1)

    def leave(self, _: nn.Module, args: tuple[Tensor, Tensor, Tensor, Tensor | None, Rope], x_bsd: Tensor) -> Tensor:
        """After the last block: the tokens of all ranks."""
        n, ranks = args[-1][0].shape[0], self.group.size()
        return gather(x_bsd, 1, shares(n, ranks), self.group) if n >= ranks else x_bsd
