"""The Video-VAE: 8x16x16 (dual path) or 4x8x8 (first training stage); report section 4.1, checkpoint keys as released.

Public tensors are [B, T, C, H, W] in [-1, 1]; inside they are [B, C, T, H, W] in channels_last_3d memory.
A video is cut into chunks of `frame_len` frames (17) that are coded independently: 17 frames <-> 3 latents (5 in the
4x8x8 form), so 204 frames are 36 latents, and the first latent of a chunk is the code of its first frame alone. With
`frame_len=0` the whole video is one chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepvideo.models.config import VAEConfig
from stepvideo.models.vae_blocks import (
    CausalConv3d,
    Downsample2D,
    Downsample3D,
    GroupNorm,
    MidBlock,
    Patchify,
    PixelShuffle3d,
    PixelUnshuffle3d,
    ResBlock,
    Unpatchify,
    Upsample2D,
    Upsample3D,
    group_mean,
    group_repeat,
)

DUAL_PATH_KEYS = ("encoder.conv_patchify.", "encoder.conv_out.", "decoder.conv_in.", "decoder.conv_unpatchify.")
MID_KEYS = ("encoder.mid.", "encoder.norm_out.", "decoder.mid.")


@dataclass
class DiagonalGaussian:
    """The posterior q(z|x); `moments` is [B, T', 2z, H', W'], mean channels first, then log variance."""

    moments: Tensor

    @property
    def mean(self) -> Tensor:
        return self.moments.chunk(2, dim=2)[0]

    @property
    def logvar(self) -> Tensor:
        return self.moments.chunk(2, dim=2)[1].clamp(-30.0, 20.0)

    def sample(self, generator: torch.Generator | None = None, eps: Tensor | None = None) -> Tensor:
        """mean + std * eps, with eps ~ N(0, 1) drawn from `generator` on its own device unless given."""
        mean = self.mean
        if eps is None:
            device = generator.device if generator is not None else mean.device
            eps = torch.randn(mean.shape, generator=generator, device=device, dtype=torch.float32)
        return mean + torch.exp(0.5 * self.logvar) * eps.to(mean)

    def kl(self) -> Tensor:
        """KL(q || N(0, 1)) in nats of every latent element, float32, [B, T', z, H', W']."""
        mean, logvar = self.mean.float(), self.logvar.float()
        return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar)


class EncoderLevel(nn.Module):
    """Residual blocks of one resolution and the downsampling after them."""

    def __init__(self, cfg: VAEConfig, level: int) -> None:
        super().__init__()
        width = cfg.enc_widths[level]
        widths = [[cfg.enc_ch, *cfg.enc_widths][level]] + [width] * cfg.num_res_blocks
        self.block = nn.ModuleList(
            ResBlock(a, b, cfg.num_groups, cfg.spatial_group_norm) for a, b in zip(widths, widths[1:], strict=False)
        )
        if level == 0:
            self.downsample: nn.Module = Downsample2D(width)
        elif level < 3:
            self.downsample = Downsample3D(width)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        for block in self.block:
            x_BCTHW = block(x_BCTHW)
        return self.downsample(x_BCTHW) if hasattr(self, "downsample") else x_BCTHW


class Encoder(nn.Module):
    """[B, 3, T, H, W] of one chunk -> moments [B, 2z, T', H', W']."""

    def __init__(self, cfg: VAEConfig) -> None:
        super().__init__()
        self.cfg = cfg
        top, moments = cfg.enc_widths[-1], 2 * cfg.z_channels
        self.conv_in = CausalConv3d(cfg.in_channels, cfg.enc_ch)
        self.down = nn.ModuleList(EncoderLevel(cfg, level) for level in range(4))
        self.mid = MidBlock(top, cfg.num_groups, cfg.spatial_group_norm)
        self.norm_out = GroupNorm(cfg.num_groups, top, cfg.spatial_group_norm)
        if cfg.dual_path:
            self.conv_patchify = Patchify(top, cfg.dual_path_width)
            self.unshuffle = PixelUnshuffle3d()
        self.conv_out = CausalConv3d(cfg.dual_path_width if cfg.dual_path else top, moments)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        h = self.conv_in(x_BCTHW)
        for level in self.down:
            h = level(h)
        h = F.silu(self.norm_out(self.mid(h)))
        if not self.cfg.dual_path:
            return self.conv_out(h)
        if not self.cfg.shortcut_path:
            return self.conv_out(self.conv_patchify(h))
        h = self.conv_patchify(h) + group_mean(self.unshuffle(h), self.cfg.dual_path_width)
        return self.conv_out(h) + group_mean(h, 2 * self.cfg.z_channels)


class DecoderLevel(nn.Module):
    """Residual blocks of one resolution and the upsampling after them."""

    def __init__(self, cfg: VAEConfig, level: int) -> None:
        super().__init__()
        width = cfg.dec_widths[level]
        widths = [[*cfg.dec_widths, cfg.dec_widths[-1]][level + 1]] + [width] * (cfg.num_res_blocks + 1)
        self.block = nn.ModuleList(
            ResBlock(a, b, cfg.num_groups, cfg.spatial_group_norm) for a, b in zip(widths, widths[1:], strict=False)
        )
        if level == 1:
            self.upsample: nn.Module = Upsample2D(width)
        elif level > 1:
            self.upsample = Upsample3D(width, cfg.num_groups, cfg.spatial_group_norm)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        for block in self.block:
            x_BCTHW = block(x_BCTHW)
        return self.upsample(x_BCTHW) if hasattr(self, "upsample") else x_BCTHW


class Decoder(nn.Module):
    """[B, z, T', H', W'] of one chunk -> [B, 3, T, H, W], not clamped."""

    def __init__(self, cfg: VAEConfig) -> None:
        super().__init__()
        self.cfg = cfg
        top = cfg.dec_widths[-1]
        self.conv_in = CausalConv3d(cfg.z_channels, cfg.dual_path_width if cfg.dual_path else top)
        if cfg.dual_path:
            self.conv_unpatchify = Unpatchify(cfg.dual_path_width, top)
            self.shuffle = PixelShuffle3d()
        self.mid = MidBlock(top, cfg.num_groups, cfg.spatial_group_norm)
        self.up = nn.ModuleList(DecoderLevel(cfg, level) for level in range(4))
        self.norm_out = GroupNorm(cfg.num_groups, cfg.dec_widths[0], cfg.spatial_group_norm)
        conv_out = CausalConv3d(cfg.dec_widths[0], cfg.in_channels)
        # The released v2 file stores this one convolution without the `.conv` of CausalConv3d; v1 stores it with.
        self.conv_out = conv_out.conv if cfg.dual_path else conv_out
        # Two doublings turn n frames into 4n, of which the first 3 stand for time before the first frame. The
        # convolution sees 2 frames back, so dropping one frame before it and padding none drops them.
        self.surplus = 1

    def forward(self, z_BCTHW: Tensor) -> Tensor:
        h = self.conv_in(z_BCTHW)
        if self.cfg.dual_path and self.cfg.shortcut_path:
            h = h + group_repeat(z_BCTHW, self.cfg.dual_path_width)
            h = self.conv_unpatchify(h) + self.shuffle(group_repeat(h, 8 * self.cfg.dec_widths[-1]))
        elif self.cfg.dual_path:
            h = self.conv_unpatchify(h)
        h = self.mid(h)
        for level in reversed(self.up):
            h = level(h)
        h_BTHWC = self.norm_out(h).movedim(1, -1)[:, self.surplus :]  # the gradient of a slice has its form's layout
        h = F.silu(h_BTHWC.movedim(-1, 1))
        return (self.conv_out if self.cfg.dual_path else self.conv_out.conv)(h)


class VideoVAE(nn.Module):
    """The whole autoencoder. `load_state_dict(..., strict=True)` takes released files as they are."""

    def __init__(self, cfg: VAEConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.encoder = Encoder(cfg)
        self.decoder = Decoder(cfg)

    def num_latents(self, frames: int) -> int:
        """Latents of a video of `frames` frames (`VAEConfig.num_latents`)."""
        return self.cfg.num_latents(frames)

    def encode_moments(self, x_BTCHW: Tensor) -> Tensor:
        """[B, T, 3, H, W] in [-1, 1] -> posterior moments [B, T', 2z, H/f, W/f], f = cfg.spatial_factor."""
        self._check(x_BTCHW, self.cfg.in_channels, "x_BTCHW")
        self.num_latents(x_BTCHW.shape[1])
        f = self.cfg.spatial_factor
        if x_BTCHW.shape[3] % f or x_BTCHW.shape[4] % f:
            raise ValueError(f"height x width {tuple(x_BTCHW.shape[3:])} must be multiples of {f}: crop or resize")
        return self._chunked(self.encoder, x_BTCHW, self.cfg.frame_len)

    def encode(self, x_BTCHW: Tensor, generator: torch.Generator | None = None, sample: bool = True) -> Tensor:
        """[B, T, 3, H, W] -> latents [B, T', z, H/f, W/f]: a posterior sample (as released), or its mean."""
        posterior = DiagonalGaussian(self.encode_moments(x_BTCHW))
        return posterior.sample(generator) if sample else posterior.mean

    def decode(self, z_BTCHW: Tensor, boundary_mix: bool = True) -> Tensor:
        """Latents [B, T', z, H', W'] -> [B, T, 3, f*H', f*W'], unclamped; n latents of a chunk give 8n-7 frames (4n-3).

        `boundary_mix` blends the two frames at each chunk border as the released code does (asymmetrically).
        """
        self._check(z_BTCHW, self.cfg.z_channels, "z_BTCHW")
        video = self._chunked(self.decoder, z_BTCHW, self.cfg.latent_len)
        return mix_boundaries(video, self.cfg.frame_len) if boundary_mix else video

    def forward(self, x_BTCHW: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, DiagonalGaussian]:
        """Reconstruction of each chunk (no boundary mix) and the posterior: what training needs."""
        posterior = DiagonalGaussian(self.encode_moments(x_BTCHW))
        return self.decode(posterior.sample(generator), boundary_mix=False), posterior

    @staticmethod
    def _check(x: Tensor, channels: int, name: str) -> None:
        if x.ndim != 5 or x.shape[2] != channels:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; expected [batch, frames, {channels}, height, width]")

    @staticmethod
    def _chunked(net: nn.Module, x_BTCHW: Tensor, length: int) -> Tensor:
        x_BCTHW = x_BTCHW.transpose(1, 2)
        parts = x_BCTHW.split(length, dim=2) if length else [x_BCTHW]
        chunks = [net(c.contiguous(memory_format=torch.channels_last_3d)) for c in parts]
        return torch.cat(chunks, dim=2).transpose(1, 2) if len(chunks) > 1 else chunks[0].transpose(1, 2)


def mix_boundaries(x_BTCHW: Tensor, frame_len: int) -> Tensor:
    """Blends a chunk's last frame A with the next chunk's first B: B' = 0.6 B + 0.4 A, then A' = 0.6 A + 0.4 B'."""
    frames = x_BTCHW.shape[1]
    if not frame_len or frames <= frame_len:
        return x_BTCHW
    x = x_BTCHW.clone()
    first = torch.arange(frame_len, frames, frame_len, device=x.device)
    a, b = x_BTCHW[:, first - 1], x_BTCHW[:, first]
    mixed = 0.6 * b + 0.4 * a
    x[:, first] = mixed
    x[:, first - 1] = 0.6 * a + 0.4 * mixed
    return x


def load_stage1_backbone(vae: VideoVAE, stage1: dict[str, Tensor]) -> list[str]:
    """Copies a 4x8x8 VAE's weights into a dual-path VAE (section 4.1.4, second stage): every tensor with equal key and
    shape outside the dual-path modules. Returns the keys left at their fresh initialisation."""
    target = vae.state_dict()
    source = {k.replace("decoder.conv_out.conv.", "decoder.conv_out."): v for k, v in stage1.items()}
    taken = {
        k: source[k]
        for k, v in target.items()
        if not k.startswith(DUAL_PATH_KEYS) and k in source and source[k].shape == v.shape
    }
    if not taken:
        raise ValueError("no stage-1 tensor fits this VAE: its widths (enc_ch, dec_ch, *_ch_mult) must be the same")
    vae.load_state_dict(taken, strict=False)
    return [k for k in target if k not in taken]


def vae_parameter_groups(vae: VideoVAE) -> dict[str, list[nn.Parameter]]:
    """The parameters in the order in which stage 2 unfreezes them: dual-path modules, mid blocks, ResNet backbone."""
    groups: dict[str, list[nn.Parameter]] = {"dual_path": [], "mid": [], "backbone": []}
    for name, parameter in vae.named_parameters():
        dual = vae.cfg.dual_path and name.startswith(DUAL_PATH_KEYS)
        groups["dual_path" if dual else "mid" if name.startswith(MID_KEYS) else "backbone"].append(parameter)
    return groups
