"""Layers of the Video-VAE (report section 4.1; the released code's forms where the report leaves them open).

Activations are [B, C, T, H, W] in channels_last_3d memory from the first layer to the last, on every device: there a
frame is a channels-last image, so frames, tokens and groups of channels are views, not copies. Attribute names give the
released checkpoint keys. What a layer reads beyond its own position is zeros outside the clip; the attributes that say
so (`time_pad`, `row_pad`, …) are where `parallel/vae_conv.py` puts the neighbouring ranks' values instead.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from stepvideo.models.vae_ops import Total, group_norm, upsampled, upsampled_conv


def frames_BTCHW(x_BCTHW: Tensor) -> Tensor:
    """[B, C, T, H, W] -> [B*T, C, H, W]; a view when x is channels_last_3d."""
    return x_BCTHW.transpose(1, 2).flatten(0, 1)


def unframes_BCTHW(x_FCHW: Tensor, batch: int) -> Tensor:
    """Inverse of `frames_BTCHW`."""
    return x_FCHW.unflatten(0, (batch, -1)).transpose(1, 2)


class CausalConv3d(nn.Module):
    """3D convolution with all temporal padding in front, as zeros: frame t sees no later frame (Eq. 1)."""

    def __init__(self, in_ch: int, out_ch: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_ch, out_ch, kernel, stride, padding=(0, kernel // 2, kernel // 2))
        self.time_pad = kernel - 1

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        if self.time_pad:
            x_BCTHW = F.pad(x_BCTHW, (0, 0, 0, 0, self.time_pad, 0))
        return self.conv(x_BCTHW)


class GroupNorm(nn.GroupNorm):
    """GroupNorm over each frame alone (`per_frame`, section 4.1.3: less flicker at chunk borders) or space and time."""

    total: Total | None = None  # sums over the ranks that hold parts of what is normalised together

    def __init__(self, num_groups: int, channels: int, per_frame: bool) -> None:
        super().__init__(num_groups, channels, eps=1e-5)
        self.per_frame = per_frame

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        if self.per_frame:
            return unframes_BCTHW(self._normalized(frames_BTCHW(x_BCTHW)), x_BCTHW.shape[0])
        return self._normalized(x_BCTHW.flatten(2, 3)).unflatten(2, x_BCTHW.shape[2:4])

    def _normalized(self, x_NCHW: Tensor) -> Tensor:
        return group_norm(x_NCHW, self.num_groups, self.weight, self.bias, self.eps, self.total)


class ResBlock(nn.Module):
    """GN-SiLU-conv twice plus the input; a 1x1x1 convolution carries the input across a change of width."""

    def __init__(self, in_ch: int, out_ch: int, num_groups: int, per_frame: bool) -> None:
        super().__init__()
        self.norm1 = GroupNorm(num_groups, in_ch, per_frame)
        self.conv1 = CausalConv3d(in_ch, out_ch)
        self.norm2 = GroupNorm(num_groups, out_ch, per_frame)
        self.conv2 = CausalConv3d(out_ch, out_ch)
        self.nin_shortcut = CausalConv3d(in_ch, out_ch, kernel=1) if in_ch != out_ch else nn.Identity()

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x_BCTHW)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.nin_shortcut(x_BCTHW) + h


class AttnBlock(nn.Module):
    """Single-head attention over all T*H*W tokens, causal in raster order (t, then h, then w) as released."""

    def __init__(self, channels: int, num_groups: int, per_frame: bool) -> None:
        super().__init__()
        self.norm = GroupNorm(num_groups, channels, per_frame)
        self.q = CausalConv3d(channels, channels, kernel=1)
        self.k = CausalConv3d(channels, channels, kernel=1)
        self.v = CausalConv3d(channels, channels, kernel=1)
        self.proj_out = CausalConv3d(channels, channels, kernel=1)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        h = self.norm(x_BCTHW)
        return x_BCTHW + self.proj_out(self.attend(self.q(h), self.k(h), self.v(h)))

    def attend(self, q_BCTHW: Tensor, k_BCTHW: Tensor, v_BCTHW: Tensor) -> Tensor:
        # tokens of one head: [B, 1, T*H*W, C]
        q, k, v = (x.flatten(2).transpose(1, 2).unsqueeze(1) for x in (q_BCTHW, k_BCTHW, v_BCTHW))
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return h.squeeze(1).transpose(1, 2).unflatten(2, q_BCTHW.shape[2:])


class MidBlock(nn.Module):
    """ResBlock, attention, ResBlock at the lowest resolution of the backbone."""

    def __init__(self, channels: int, num_groups: int, per_frame: bool) -> None:
        super().__init__()
        self.block_1 = ResBlock(channels, channels, num_groups, per_frame)
        self.attn_1 = AttnBlock(channels, num_groups, per_frame)
        self.block_2 = ResBlock(channels, channels, num_groups, per_frame)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x_BCTHW)))


class Downsample2D(nn.Module):
    """Halves height and width of every frame; one zero row and column at the bottom and right."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)
        self.row_pad = 1

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        h = self.conv(F.pad(frames_BTCHW(x_BCTHW), (0, 1, 0, self.row_pad)))
        return unframes_BCTHW(h, x_BCTHW.shape[0])


class Downsample3D(nn.Module):
    """Halves height, width and time (T -> ceil(T/2)), causally."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, channels, stride=2)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.conv(x_BCTHW)


class UpsampledConv2d(nn.Conv2d):
    """A 3x3 convolution of every frame's nearest x2 upsampling: [B, C, T, H, W] -> [B, C, T, 2H, 2W]."""

    row_border = False  # whether the input brings the rows above and below it

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        h = upsampled_conv(frames_BTCHW(x_BCTHW), self.weight, self.bias, causal=False, row_border=self.row_border)
        return unframes_BCTHW(h, x_BCTHW.shape[0])


class UpsampledCausalConv3d(CausalConv3d):
    """The causal convolution of the nearest x2 upsampling: [B, C, T, H, W] -> [B, C, 2T, 2H, 2W]."""

    time_border = row_border = False  # whether the input brings the frame before it, the rows above and below it

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        weight, bias = self.conv.weight, self.conv.bias
        return upsampled_conv(x_BCTHW, weight, bias, True, self.time_border, self.row_border)


class Upsample2D(nn.Module):
    """Nearest x2 in height and width, then a 3x3 convolution per frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = UpsampledConv2d(channels)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.conv(x_BCTHW)


class UpsampleRes(nn.Module):
    """The residual unit of a 3D upsampling, u = nearest x2 of x: SiLU(u + GN-conv-SiLU-GN-conv(u)) + u.

    The second addition of u is the released form.
    """

    def __init__(self, channels: int, num_groups: int, per_frame: bool) -> None:
        super().__init__()
        self.conv1 = UpsampledCausalConv3d(channels, channels)
        self.norm1 = GroupNorm(num_groups, channels, per_frame)
        self.conv2 = CausalConv3d(channels, channels)
        self.norm2 = GroupNorm(num_groups, channels, per_frame)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        h = self.norm2(self.conv2(F.silu(self.norm1(self.conv1(x_BCTHW)))))
        u = upsampled(x_BCTHW)
        return F.silu(h + u) + u


class Upsample3D(nn.Module):
    """Doubles time, height and width. The caller drops the surplus leading frames."""

    def __init__(self, channels: int, num_groups: int, per_frame: bool) -> None:
        super().__init__()
        self.conv3d = UpsampleRes(channels, num_groups, per_frame)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.conv3d(x_BCTHW)


def pixel_unshuffle_3d(x_BCTHW: Tensor, factor: int = 2, time_pad: int | None = None) -> Tensor:
    """[B, C, T, H, W] -> [B, C*f^3, ceil(T/f), H/f, W/f], channels c, ft, fh, fw (Eq. 2).

    `time_pad` zero frames in front, by default f-1.
    """
    f = factor
    x = F.pad(x_BCTHW, (0, 0, 0, 0, f - 1 if time_pad is None else time_pad, 0)).movedim(1, -1)
    _, t, h, w, _ = x.shape
    if t % f or h % f or w % f:
        raise ValueError(f"pixel_unshuffle_3d: {x_BCTHW.shape[2]} frames of {h}x{w}; give 1 + {f}n frames, sides {f}m")
    x = x.unflatten(3, (-1, f)).unflatten(2, (-1, f)).unflatten(1, (-1, f))  # B T ft H fh W fw C
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(4).movedim(-1, 1)


def pixel_shuffle_3d(x_BCTHW: Tensor, factor: int = 2, drop: int | None = None) -> Tensor:
    """[B, C*f^3, T, H, W] -> [B, C, f*T - drop, f*H, f*W], the inverse of `pixel_unshuffle_3d`.

    `drop` leading frames are left out, by default f-1.
    """
    f = factor
    x = x_BCTHW.movedim(1, -1).unflatten(4, (-1, f, f, f)).permute(0, 1, 5, 2, 6, 3, 7, 4)  # B T ft H fh W fw C
    b, t, _, h, _, w, _, c = x.shape
    return x.reshape(b, t * f, h * f, w * f, c)[:, f - 1 if drop is None else drop :].movedim(-1, 1)


class PixelUnshuffle3d(nn.Module):
    """`pixel_unshuffle_3d` by 2."""

    def __init__(self) -> None:
        super().__init__()
        self.time_pad = 1

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return pixel_unshuffle_3d(x_BCTHW, time_pad=self.time_pad)


class PixelShuffle3d(nn.Module):
    """`pixel_shuffle_3d` by 2."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = 1

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return pixel_shuffle_3d(x_BCTHW, drop=self.drop)


def group_mean(x_BCTHW: Tensor, out_ch: int) -> Tensor:
    """Averages groups of consecutive channels down to out_ch (Eq. 3)."""
    return x_BCTHW.movedim(1, -1).unflatten(-1, (out_ch, -1)).mean(-1).movedim(-1, 1)


def group_repeat(x_BCTHW: Tensor, out_ch: int) -> Tensor:
    """Repeats every channel consecutively up to out_ch (section 4.1.3)."""
    return x_BCTHW.movedim(1, -1).repeat_interleave(out_ch // x_BCTHW.shape[1], dim=-1).movedim(-1, 1)


class Patchify(nn.Module):
    """Convolution path of a dual-path encoder module: causal convolution, then pixel unshuffle."""

    def __init__(self, in_ch: int, out_ch: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(in_ch, out_ch // 8)
        self.unshuffle = PixelUnshuffle3d()

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.unshuffle(self.conv(x_BCTHW))


class Unpatchify(nn.Module):
    """Convolution path of a dual-path decoder module: causal convolution, then pixel shuffle."""

    def __init__(self, in_ch: int, out_ch: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(in_ch, out_ch * 8)
        self.shuffle = PixelShuffle3d()

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.shuffle(self.conv(x_BCTHW))
