"""Timestep modulation that saves little for the backward (report §6.2.3, "DiT").

The modulating vectors belong to a sample, not to a token: they are repeated over the tokens in the forward alone. A
LayerNorm and the modulation after it are one autograd node, which saves what enters the norm and not what leaves it.

Legend: b batch, s tokens, d inner width, n modulating vectors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def modulation(table_nd: Tensor, time_bnd: Tensor) -> tuple[Tensor, ...]:
    """The n modulating vectors of a block (AdaLN-single), each [b, 1, d]."""
    return (table_nd + time_bnd).unsqueeze(2).unbind(1)


def modulate(x_bsd: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x · (1 + scale) + shift."""
    return torch.addcmul(shift, x_bsd, 1 + scale)


def norm_modulate(norm: nn.Module, x_bsd: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(x) · (1 + scale) + shift for vectors [b, 1, d].

    With gradients and a LayerNorm it is computed in fp32 (fp64 stays), and given in the dtype of autocast where that is
    on, else in the common one of the arguments.
    """
    if torch.is_grad_enabled() and isinstance(norm, nn.LayerNorm):
        return _NormModulate.apply(x_bsd, norm.weight, norm.bias, norm.eps, shift, scale)
    return modulate(norm(x_bsd), shift, scale)


def gated_sum(x_bsd: Tensor, gate: Tensor, branch_bsd: Tensor) -> Tensor:
    """x + gate · branch for a vector [b, 1, d]; gate and branch are saved as they are.

    Accelerators' autocast would have `addcmul` save a widened branch.
    """
    if torch.is_grad_enabled() and x_bsd.device.type != "cpu":
        return _GatedSum.apply(x_bsd, gate, branch_bsd)
    return torch.addcmul(x_bsd, gate, branch_bsd)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


class _NormModulate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, shift: Tensor, scale: Tensor
    ) -> Tensor:
        ctx.shape = x.shape[-1:]
        w, b = (None if p is None else _wide(p) for p in (weight, bias))
        y, mean, rstd = torch.native_layer_norm(_wide(x), ctx.shape, w, b, eps)
        ctx.save_for_backward(x, mean, rstd, weight, bias, scale)
        ctx.shift_dtype = shift.dtype
        out = modulate(y, _wide(shift), _wide(scale))
        kind = x.device.type
        on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        return out.to(torch.get_autocast_dtype(kind) if on else torch.promote_types(x.dtype, shift.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, weight, bias, scale = ctx.saved_tensors
        grad, x_wide, factor = _wide(grad), _wide(x), 1 + _wide(scale)
        by_norm = (x_wide - mean).mul_(rstd).mul_(grad).sum(1, keepdim=True)  # of the norm's weight times the factor
        plain = grad.sum(1, keepdim=True)
        into = grad * (factor if weight is None else factor * weight)
        grad_x = torch.ops.aten.native_layer_norm_backward(
            into, x_wide, x.shape[-1:], mean, rstd, None, None, [True, False, False]
        )[0]
        grad_scale = by_norm if weight is None else by_norm * weight
        if bias is not None:
            grad_scale = grad_scale + plain * bias
        return (
            grad_x.to(x.dtype),
            None if weight is None else (by_norm * factor).sum((0, 1)).to(weight.dtype),
            None if bias is None else (plain * factor).sum((0, 1)).to(bias.dtype),
            None,
            plain.to(ctx.shift_dtype),
            grad_scale.to(scale.dtype),
        )


class _GatedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, branch: Tensor) -> Tensor:
        ctx.save_for_backward(gate, branch)
        ctx.dtype = x.dtype
        return torch.addcmul(x, gate, branch)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gate, branch = ctx.saved_tensors
        grad_gate = (grad * branch).sum(1, keepdim=True)
        return grad.to(ctx.dtype), grad_gate.to(gate.dtype), (grad * gate).to(branch.dtype)
