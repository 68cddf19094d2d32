"""Operations of the Video-VAE in cheaper, mathematically equal forms that keep channels-last memory.

Legend: n images, c channels, g groups of channels, p pixels of an image, k pixels taken together.
"""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Total = Callable[[Tensor], Tensor]


def upsampled_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, causal: bool, time_border: bool = False, row_border: bool = False
) -> Tensor:
    """A 3-tap convolution of the nearest x2 upsampling of x, without making the upsampled tensor.

    Every output sees only two distinct inputs a dimension, so this equals a stride-2 transposed convolution with 4 taps
    a dimension: 8 (3D) or 4 (2D) multiplications an output and channel pair in place of 27 or 9.
    x: [N, C, (T,) H, W]; weight: [O, C, (3,) 3, 3]; zero padding of 1, but `causal` pads time by 2 in front instead.
    With `time_border` x brings the frame before its first one, with `row_border` the rows above and below, in place of
    that padding. Returns [N, O, (2T,) 2H, 2W], borders not counted.
    """
    dims = weight.ndim - 2
    if causal and not time_border:
        x = F.pad(x, [0, 0] * (dims - 1) + [1, 0])
    if dims == 3 and x.shape[2] == 2 and x.device.type == "cpu":
        # torch 2.13's bf16 CPU kernel gives NaN in this shape's weight gradient; single images are cheap anyway
        up = F.interpolate(x, scale_factor=2, mode="nearest")
        lead = [0, 0] if causal else [1, 1]
        out = F.conv3d(F.pad(up, [1, 1, 1, 1, *lead]), weight, bias)
        return out[:, :, :, 2:-2] if row_border else out
    taps = weight.flip(*range(2, weight.ndim))
    for dim in range(2, weight.ndim):
        lead = [0, 0] * (weight.ndim - 1 - dim)
        taps = F.pad(taps, [*lead, 0, 1]) + F.pad(taps, [*lead, 1, 0])
    padding = [2 if causal else 1] * (dims - 2) + [3 if row_border else 1, 1]
    deconv = F.conv_transpose3d if dims == 3 else F.conv_transpose2d
    return deconv(x, taps.transpose(0, 1), bias, stride=2, padding=padding)


class _Upsampled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        if x.device.type == "cpu":
            return F.interpolate(x, scale_factor=2.0)
        b, c, t, h, w = x.shape
        repeated = x.movedim(1, -1)[:, :, None, :, None, :, None].expand(b, t, 2, h, 2, w, 2, c)
        return repeated.reshape(b, 2 * t, 2 * h, 2 * w, c).movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        g = grad.movedim(1, -1)
        g = g[:, ::2] + g[:, 1::2]
        g = g[:, :, ::2] + g[:, :, 1::2]
        return (g[:, :, :, ::2] + g[:, :, :, 1::2]).movedim(-1, 1)


def upsampled(x_BCTHW: Tensor) -> Tensor:
    """Nearest x2 in time, height and width; torch's own leaves channels-last memory, on a CPU in the backward only."""
    return _Upsampled.apply(x_BCTHW)


def _exact(x: Tensor) -> torch.dtype:
    """What sums over x are taken in."""
    return torch.promote_types(x.dtype, torch.float32)


def _moments(x_NPGc: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [n, g] over pixels and a group's channels, in float32 also of half-precision numbers."""
    if x_NPGc.dtype == _exact(x_NPGc):
        var, mean = torch.var_mean(x_NPGc, (1, 3), correction=0)
        return mean, var
    count = x_NPGc.shape[1] * x_NPGc.shape[3]
    mean = x_NPGc.sum((1, 3), dtype=torch.float32) / count
    square = torch.linalg.vector_norm(x_NPGc, dim=(1, 3), dtype=torch.float32).square() / count
    return mean, (square - mean.square()).clamp_min(0)


def _over_ranks(mean: Tensor, var: Tensor, count: int, total: Total) -> tuple[Tensor, Tensor, float]:
    """Mean, variance and count of the whole of which every rank holds a part; float64, as squares of means cancel."""
    own_mean, own_square = mean.double(), var.double() + mean.double().square()
    one, sums, squares = total(torch.stack([torch.ones_like(own_mean), own_mean, own_square]) * count)
    whole = sums / one
    return whole.to(mean), (squares / one - whole.square()).clamp_min(0).to(var), float(one.flatten()[0])


class _ChannelsLastGroupNorm(torch.autograd.Function):
    """GroupNorm in a few whole-tensor operations on channels-last memory.

    torch's own kernels leave that layout on CUDA, and their backward on a CPU works group by group of each pixel, up to
    17x slower when a group has few channels. `total` sums over the ranks that hold parts of these images.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, total: Total | None
    ) -> Tensor:
        n, c, h, w = x.shape
        ctx.total, ctx.count = total, float(h * w * (c // groups))
        if total is None and x.device.type == "cpu":
            y, mean, rstd = torch.native_group_norm(x, weight, bias, n, c, h * w, groups, eps)
            ctx.save_for_backward(x, weight, mean, rstd)
            return y
        x_NPC = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
        mean, var = _moments(x_NPC.unflatten(2, (groups, -1)))
        if total is not None:
            mean, var, ctx.count = _over_ranks(mean, var, h * w * (c // groups), total)
        rstd = torch.rsqrt(var + eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        scale_NC = rstd.repeat_interleave(c // groups, dim=1) * weight.to(rstd)
        shift_NC = bias.to(rstd) - mean.repeat_interleave(c // groups, dim=1) * scale_NC
        y_NPC = torch.empty_like(x_NPC)
        torch.addcmul(shift_NC[:, None], x_NPC, scale_NC[:, None], out=y_NPC)
        return y_NPC.view(n, h, w, c).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        n, c, height, width = x.shape
        per_group = c // mean.shape[1]
        # Few channels make short inner loops: k neighbouring pixels are handled as k * c channels.
        k = next(k for k in (8, 4, 2, 1) if k == 1 or (k * c <= 128 and width % k == 0))
        x_NPK = x.permute(0, 2, 3, 1).reshape(n, -1, k * c)
        g_NPK = grad.permute(0, 2, 3, 1).reshape(n, -1, k * c)
        exact = _exact(x)
        g_sum = g_NPK.sum(1, dtype=exact).view(n, k, c).sum(1)
        gx_sum = (g_NPK * x_NPK).sum(1, dtype=exact).view(n, k, c).sum(1)
        mean, rstd, gamma = mean.to(exact), rstd.to(exact), weight.to(exact)
        all_g, all_gx = torch.stack([g_sum, gx_sum]) if ctx.total is None else ctx.total(torch.stack([g_sum, gx_sum]))

        def of_group(sum_NC: Tensor) -> Tensor:
            return (sum_NC * gamma).unflatten(1, (-1, per_group)).sum(2) / ctx.count

        def per_channel(s_NG: Tensor) -> Tensor:
            return s_NG.repeat_interleave(per_group, dim=1)

        def spread(s_NC: Tensor) -> Tensor:
            return s_NC.to(x.dtype).repeat(1, k).unsqueeze(1)

        # dx = gamma rstd g + slope x + offset, from differentiating (x - mean) rstd through both statistics
        slope = (of_group(all_g) * mean - of_group(all_gx)) * rstd**3
        offset = -slope * mean - of_group(all_g) * rstd
        dx = torch.addcmul(spread(per_channel(offset)), x_NPK, spread(per_channel(slope)))
        dx.addcmul_(g_NPK, spread(per_channel(rstd) * gamma))
        dgamma = ((gx_sum - g_sum * per_channel(mean)) * per_channel(rstd)).sum(0)
        dx = dx.view(n, height, width, c).permute(0, 3, 1, 2)
        return dx, dgamma.to(weight), g_sum.sum(0).to(weight), None, None, None


def group_norm(
    x_NCHW: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, total: Total | None = None
) -> Tensor:
    """`F.group_norm` of images that keeps channels-last memory on every device.

    `total` sums a tensor over the ranks that hold parts of these images; None: they are whole.
    """
    if not x_NCHW.is_contiguous(memory_format=torch.channels_last) and total is None:
        return F.group_norm(x_NCHW, groups, weight, bias, eps)
    if x_NCHW.device.type != "cpu" or total is not None:
        return _ChannelsLastGroupNorm.apply(x_NCHW, weight, bias, groups, eps, total)
    n, c, h, w = x_NCHW.shape
    k = gcd(64 // c, h * w) if groups == 1 and c < 32 else 1
    if k > 1:  # torch goes pixel by pixel; with one group, k pixels are as well one pixel of k * c channels
        wide = x_NCHW.permute(0, 2, 3, 1).reshape(n, h * w // k, 1, k * c).permute(0, 3, 1, 2)
        wide = F.group_norm(wide, 1, weight.repeat(k), bias.repeat(k), eps)
        return wide.permute(0, 2, 3, 1).reshape(n, h, w, c).permute(0, 3, 1, 2)
    # measured: from 32 bytes of channels a group on, torch's own kernel is as fast
    if c // groups * x_NCHW.element_size() < 32 and x_NCHW.requires_grad:
        return _ChannelsLastGroupNorm.apply(x_NCHW, weight, bias, groups, eps, None)
    return F.group_norm(x_NCHW, groups, weight, bias, eps)
