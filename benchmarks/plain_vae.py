"""The released Video-VAE written the way one writes it first, for `model_speed.py` to compare with: contiguous
[B, C, T, H, W] tensors, torch's own operations, no path for a particular device, size or dtype.

Same parameter names, so same weights.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from stepvideo.models.config import VAEConfig


class PlainConv(nn.Module):
    def __init__(self, a: int, b: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.time = kernel - 1
        self.conv = nn.Conv3d(a, b, kernel, stride, padding=(0, kernel // 2, kernel // 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 0, 0, 0, self.time, 0)))


class PlainGroupNorm(nn.GroupNorm):
    """Over each frame alone."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, t, h, w = x.shape
        frames = x.transpose(1, 2).reshape(b * t, c, h, w)
        return super().forward(frames).view(b, t, c, h, w).transpose(1, 2).contiguous()


class PlainRes(nn.Module):
    def __init__(self, a: int, b: int, groups: int) -> None:
        super().__init__()
        self.norm1 = PlainGroupNorm(groups, a)
        self.conv1 = PlainConv(a, b)
        self.norm2 = PlainGroupNorm(groups, b)
        self.conv2 = PlainConv(b, b)
        if a != b:
            self.nin_shortcut = PlainConv(a, b, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + h


class PlainAttention(nn.Module):
    def __init__(self, c: int, groups: int) -> None:
        super().__init__()
        self.norm = PlainGroupNorm(groups, c)
        self.q, self.k, self.v, self.proj_out = (PlainConv(c, c, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (m(h).flatten(2).transpose(1, 2)[:, None] for m in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)[:, 0]
        return x + self.proj_out(h.transpose(1, 2).reshape(x.shape))


class PlainMid(nn.Module):
    def __init__(self, c: int, groups: int) -> None:
        super().__init__()
        self.block_1 = PlainRes(c, c, groups)
        self.attn_1 = PlainAttention(c, groups)
        self.block_2 = PlainRes(c, c, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class PlainDown2D(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        b, c, t, h, w = x.shape
        y = self.conv(F.pad(x.transpose(1, 2).reshape(b * t, c, h, w), (0, 1, 0, 1)))
        return y.view(b, t, c, h // 2, w // 2).transpose(1, 2)


class PlainDown3D(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv = PlainConv(c, c, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class PlainUp2D(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, t, h, w = x.shape
        y = F.interpolate(x.transpose(1, 2).reshape(b * t, c, h, w), scale_factor=2.0, mode="nearest")
        return self.conv(y).view(b, t, c, 2 * h, 2 * w).transpose(1, 2)


class PlainUpRes(nn.Module):
    def __init__(self, c: int, groups: int) -> None:
        super().__init__()
        self.conv1 = PlainConv(c, c)
        self.norm1 = PlainGroupNorm(groups, c)
        self.conv2 = PlainConv(c, c)
        self.norm2 = PlainGroupNorm(groups, c)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm2(self.conv2(F.silu(self.norm1(self.conv1(x)))))
        return F.silu(h + x) + x


class PlainUp3D(nn.Module):
    def __init__(self, c: int, groups: int) -> None:
        super().__init__()
        self.conv3d = PlainUpRes(c, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3d(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def unshuffle(x: Tensor) -> Tensor:
    x = F.pad(x, (0, 0, 0, 0, 1, 0))
    b, c, t, h, w = x.shape
    x = x.view(b, c, t // 2, 2, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(b, c * 8, t // 2, h // 2, w // 2)


def shuffle(x: Tensor) -> Tensor:
    b, c, t, h, w = x.shape
    x = x.view(b, c // 8, 2, 2, 2, t, h, w).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(b, c // 8, t * 2, h * 2, w * 2)[:, :, 1:]


class PlainPatch(nn.Module):
    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.conv = PlainConv(a, b)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class PlainLevel(nn.Module):
    def __init__(self, widths: list[int], groups: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(PlainRes(a, b, groups) for a, b in zip(widths, widths[1:], strict=False))


class PlainEncoder(nn.Module):
    def __init__(self, cfg: VAEConfig) -> None:
        super().__init__()
        self.cfg, groups = cfg, cfg.num_groups
        widths = [cfg.enc_ch, *cfg.enc_widths]
        self.conv_in = PlainConv(cfg.in_channels, cfg.enc_ch)
        self.down = nn.ModuleList()
        for a, b in zip(widths, widths[1:], strict=False):
            self.down.append(PlainLevel([a] + [b] * cfg.num_res_blocks, groups))
        self.down[0].downsample = PlainDown2D(widths[1])
        self.down[1].downsample = PlainDown3D(widths[2])
        self.down[2].downsample = PlainDown3D(widths[3])
        self.mid = PlainMid(widths[-1], groups)
        self.norm_out = PlainGroupNorm(groups, widths[-1])
        self.conv_patchify = PlainPatch(widths[-1], cfg.dual_path_width // 8)
        self.conv_out = PlainConv(cfg.dual_path_width, 2 * cfg.z_channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            for block in level.block:
                h = block(h)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
        h = F.silu(self.norm_out(self.mid(h)))
        short = unshuffle(h).unflatten(1, (self.cfg.dual_path_width, -1)).mean(2)
        h = unshuffle(self.conv_patchify(h)) + short
        return self.conv_out(h) + h.unflatten(1, (2 * self.cfg.z_channels, -1)).mean(2)


class PlainDecoder(nn.Module):
    def __init__(self, cfg: VAEConfig) -> None:
        super().__init__()
        self.cfg, groups = cfg, cfg.num_groups
        widths = [*cfg.dec_widths, cfg.dec_widths[-1]]
        self.conv_in = PlainConv(cfg.z_channels, cfg.dual_path_width)
        self.conv_unpatchify = PlainPatch(cfg.dual_path_width, 8 * widths[-1])
        self.mid = PlainMid(widths[-1], groups)
        self.up = nn.ModuleList()
        for b, a in zip(widths, widths[1:], strict=False):
            self.up.append(PlainLevel([a] + [b] * (cfg.num_res_blocks + 1), groups))
        self.up[1].upsample = PlainUp2D(widths[1])
        self.up[2].upsample = PlainUp3D(widths[2], groups)
        self.up[3].upsample = PlainUp3D(widths[3], groups)
        self.norm_out = PlainGroupNorm(groups, widths[0])
        self.conv_out = nn.Conv3d(widths[0], cfg.in_channels, 3, padding=(0, 1, 1))

    def forward(self, z: Tensor) -> Tensor:
        cfg = self.cfg
        h = self.conv_in(z) + z.repeat_interleave(cfg.dual_path_width // cfg.z_channels, dim=1)
        short = h.repeat_interleave(8 * cfg.dec_widths[-1] // cfg.dual_path_width, dim=1)
        h = self.mid(shuffle(self.conv_unpatchify(h)) + shuffle(short))
        for level in reversed(self.up):
            for block in level.block:
                h = block(h)
            if hasattr(level, "upsample"):
                h = level.upsample(h)
        h = F.silu(self.norm_out(h))
        return self.conv_out(F.pad(h, (0, 0, 0, 0, 2, 0)))[:, :, 3:]


class PlainVAE(nn.Module):
    """Encoder and decoder of one chunk, [B, T, C, H, W] in and out as in `VideoVAE`."""

    def __init__(self, cfg: VAEConfig) -> None:
        super().__init__()
        self.encoder = PlainEncoder(cfg)
        self.decoder = PlainDecoder(cfg)

    def encode_moments(self, x: Tensor) -> Tensor:
        return self.encoder(x.transpose(1, 2).contiguous()).transpose(1, 2)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z.transpose(1, 2).contiguous()).transpose(1, 2)
