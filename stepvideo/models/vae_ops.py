"""Two operations of the Video-VAE in cheaper, mathematically equal forms; measured on a CPU in bf16 and float32."""

from __future__ import annotations

from math import gcd
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def upsampled_conv(x: Tensor, weight: Tensor, bias: Tensor | None, causal: bool) -> Tensor:
    """A 3-tap convolution of the nearest x2 upsampling of x, without making the upsampled tensor.

    Every output sees only two distinct inputs a dimension, so this equals a stride-2 transposed convolution with 4 taps
    a dimension: 8 (3D) or 4 (2D) multiplications an output and channel pair in place of 27 or 9.
    x: [N, C, (T,) H, W]; weight: [O, C, (3,) 3, 3]; zero padding of 1, but `causal` pads time by 2 in front instead.
    Returns [N, O, (2T,) 2H, 2W].
    """
    dims = weight.ndim - 2
    if dims == 3 and x.shape[2] == 1 and x.device.type == "cpu":
        # torch 2.13's bf16 CPU kernel gives NaN in this shape's weight gradient; single images are cheap anyway
        up = F.interpolate(x, scale_factor=2, mode="nearest")
        return F.conv3d(F.pad(up, [1, 1, 1, 1, *((2, 0) if causal else (1, 1))]), weight, bias)
    taps = weight.flip(*range(2, weight.ndim))
    for dim in range(2, weight.ndim):
        lead = [0, 0] * (weight.ndim - 1 - dim)
        taps = F.pad(taps, [*lead, 0, 1]) + F.pad(taps, [*lead, 1, 0])
    padding = [1] * dims
    if causal:
        x = F.pad(x, [0, 0] * (dims - 1) + [1, 0])
        padding[0] = 2
    deconv = F.conv_transpose3d if dims == 3 else F.conv_transpose2d
    return deconv(x, taps.transpose(0, 1), bias, stride=2, padding=padding)


class _ChannelsLastGroupNorm(torch.autograd.Function):
    """GroupNorm whose backward is a few whole-tensor operations: torch's CPU kernel works group by group of each pixel,
    up to 17x slower when a group has few channels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        n, c, h, w = x.shape
        y, mean, rstd = torch.native_group_norm(x, weight, bias, n, c, h * w, groups, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        return y

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
        g_sum = g_NPK.sum(1, dtype=torch.float32).view(n, k, c).sum(1)
        gx_sum = (g_NPK * x_NPK).sum(1, dtype=torch.float32).view(n, k, c).sum(1)
        mean, rstd = mean.float(), rstd.float()

        def of_group(sum_NC: Tensor) -> Tensor:
            return (sum_NC * weight.float()).unflatten(1, (-1, per_group)).sum(2) / (height * width * per_group)

        def per_channel(s_NG: Tensor) -> Tensor:
            return s_NG.repeat_interleave(per_group, dim=1)

        def spread(s_NC: Tensor) -> Tensor:
            return s_NC.to(x.dtype).repeat(1, k).unsqueeze(1)

        # dx = gamma rstd g + slope x + offset, from differentiating (x - mean) rstd through both statistics
        slope = (of_group(g_sum) * mean - of_group(gx_sum)) * rstd**3
        offset = -slope * mean - of_group(g_sum) * rstd
        dx = torch.addcmul(spread(per_channel(offset)), x_NPK, spread(per_channel(slope)))
        dx.addcmul_(g_NPK, spread(per_channel(rstd) * weight.float()))
        dgamma = ((gx_sum - g_sum * per_channel(mean)) * per_channel(rstd)).sum(0)
        return dx.view(n, height, width, c).permute(0, 3, 1, 2), dgamma.to(weight), g_sum.sum(0).to(weight), None, None


def group_norm(x_NCHW: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`F.group_norm` of images, faster where channels-last memory on a CPU has few channels a pixel or a group."""
    if x_NCHW.device.type != "cpu" or not x_NCHW.is_contiguous(memory_format=torch.channels_last):
        return F.group_norm(x_NCHW, groups, weight, bias, eps)
    n, c, h, w = x_NCHW.shape
    k = gcd(64 // c, h * w) if groups == 1 and c < 32 else 1
    if k > 1:  # torch goes pixel by pixel; with one group, k pixels are as well one pixel of k * c channels
        wide = x_NCHW.permute(0, 2, 3, 1).reshape(n, h * w // k, 1, k * c).permute(0, 3, 1, 2)
        wide = F.group_norm(wide, 1, weight.repeat(k), bias.repeat(k), eps)
        return wide.permute(0, 2, 3, 1).reshape(n, h, w, c).permute(0, 3, 1, 2)
    # measured: from 32 bytes of channels a group on, torch's own kernel is as fast
    if c // groups * x_NCHW.element_size() < 32 and x_NCHW.requires_grad:
        return _ChannelsLastGroupNorm.apply(x_NCHW, weight, bias, groups, eps)
    return F.group_norm(x_NCHW, groups, weight, bias, eps)
