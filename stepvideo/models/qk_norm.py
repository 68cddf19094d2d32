"""QK-norm and RoPE-3D in one step (report §4.3): RMSNorm over each head, its weight, then the rotation, all in fp32.

On a CPU, small networks spend more time between the matrix products than in them; there the step is one autograd node
with a backward by hand. Elsewhere it is written plainly, for the compiler to fuse.

Legend: n kinds stacked (query and key), b batch, h heads, s tokens, d head dimension.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from stepvideo.models.rope import swap_halves

Rope = tuple[Tensor, Tensor]
Split = tuple[int, int, int]
IN_PLACE_ELEMENTS = 2**26  # 256 MiB in fp32: enough to keep an accelerator busy


def qk_norm(
    x_nbhsd: Tensor, weight_nd: Tensor, eps: float, rope: Rope | None = None, split: Split = (0, 0, 0)
) -> Tensor:
    """x / rms(x) · weight, rotated by the tables (cos, sin) [s, d] if given; fp32, same shape, contiguous.

    Without gradients on an accelerator, `x` itself is overwritten and returned, in its own dtype.
    `split` gives the bands of the rotation (see `rope_tables`).
    """
    weight = weight_nd.float()[:, None, None, None, :]
    if x_nbhsd.device.type == "cpu":
        return _QKNorm.apply(x_nbhsd, weight, eps, rope, split)
    if not torch.is_grad_enabled():
        return qk_norm_(x_nbhsd, weight, eps, rope, split)
    return plain_qk_norm(x_nbhsd, weight, eps, rope, split)


def plain_qk_norm(x: Tensor, weight: Tensor, eps: float, rope: Rope | None, split: Split) -> Tensor:
    """The definition; `weight` broadcasts against `x`."""
    y = F.rms_norm(x.float(), x.shape[-1:], eps=eps) * weight
    return y if rope is None else torch.addcmul(y * rope[0], swap_halves(y, split), rope[1])


def qk_norm_(x: Tensor, weight: Tensor, eps: float, rope: Rope | None, split: Split) -> Tensor:
    """`plain_qk_norm` written into `x`, a few heads at a time: at the released size the fp32 copies of all heads would
    take more memory than the rest of a block."""
    heads = max(1, IN_PLACE_ELEMENTS // max(1, x[:, :, 0].numel()))
    for part in x.split(heads, dim=2):
        part.copy_(plain_qk_norm(part, weight, eps, rope, split))
    return x


class _QKNorm(torch.autograd.Function):
    """Works in place where it can: at these sizes a fresh tensor costs more than the arithmetic on it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, rope: Rope | None, split: Split) -> Tensor:
        own = not x.is_contiguous() or x.dtype != torch.float32
        x32 = x.contiguous().float()
        norm = torch.linalg.vector_norm(x32, dim=-1, keepdim=True)
        inv_rms = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        normed = x32.mul_(inv_rms) if own else x32 * inv_rms
        ctx.save_for_backward(normed, inv_rms, weight, *(rope or ()))
        ctx.split, ctx.dtype = split, x.dtype
        if rope is None:
            return normed * weight
        cos, sin = rope[0] * weight, rope[1] * swap_halves(weight, split)
        return swap_halves(normed, split).mul_(sin).addcmul_(normed, cos)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        normed, inv_rms, weight, *rope = ctx.saved_tensors
        if rope:  # the transposed rotation
            grad = swap_halves(grad * rope[1], ctx.split).addcmul_(grad, rope[0])
        product = grad * normed
        grad_weight = product.flatten(1, 3).sum(1).view_as(weight)
        projection = product.mul_(weight).mean(-1, keepdim=True)
        grad_x = grad.mul_(weight) if rope else grad * weight
        grad_x.addcmul_(normed, projection, value=-1).mul_(inv_rms)
        return grad_x.to(ctx.dtype), grad_weight, None, None, None
