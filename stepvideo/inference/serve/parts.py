"""The text encoders and the VAE as services of their own, as the released design has them.

Legend: B videos, T frames, H W pixels; f latent frames, z latent channels, h w latent sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepvideo.diffusion.component import Component
from stepvideo.diffusion.pipeline import best_device, supports_bf16, text_component, vae_component
from stepvideo.inference.serve.errors import Refused
from stepvideo.inference.serve.limits import Limits
from stepvideo.models.config import VAEConfig
from stepvideo.models.text_encoders import TextEncoders
from stepvideo.models.video_vae import VideoVAE


@dataclass
class TextPart:
    component: Component[list[int], TextEncoders]

    @classmethod
    def open(cls, root: Path, device: str) -> TextPart:
        """The encoders in `root`, read at the first request. Raises ArtifactError."""
        return cls(text_component(root, best_device(device)))

    def describe(self) -> dict[str, Any]:
        return {"widths": list(self.component.cfg), "device": str(self.component.device)}

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str], allow_unk: bool | None) -> dict[str, Tensor]:
        with self.component.use() as text:
            return text.encode(prompts, allow_unk)


@dataclass
class VAEPart:
    component: Component[VAEConfig, VideoVAE]
    limits: Limits

    @classmethod
    def open(cls, root: Path, device: str, precision: str, limits: Limits) -> VAEPart:
        """The VAE in `root`, read at the first request. Raises ArtifactError."""
        where = best_device(device)
        dtype = None if precision == "bf16" and supports_bf16(where) else torch.float32
        return cls(vae_component(root, where, dtype), limits)

    def describe(self) -> dict[str, Any]:
        return {"config": asdict(self.component.cfg), "device": str(self.component.device)}

    def encode_moments(self, video_BTCHW: Tensor) -> Tensor:
        """[B, T, 3, H, W] in [-1, 1] → [B, f, 2z, h, w]."""
        b, t, _, h, w = self._shape("video", video_BTCHW, self.component.cfg.in_channels)
        self._check_size(b * t * h * w)
        return self._run(lambda vae, x: vae.encode_moments(x), video_BTCHW)

    def decode(self, latents_BfzHW: Tensor, boundary_mix: bool) -> Tensor:
        """[B, f, z, h, w] → [B, T, 3, H, W], unclamped."""
        cfg = self.component.cfg
        b, f, _, h, w = self._shape("latents", latents_BfzHW, cfg.z_channels)
        self._check_size(b * num_frames(cfg, f) * h * w * cfg.spatial_factor**2)
        return self._run(lambda vae, z: vae.decode(z, boundary_mix), latents_BfzHW)

    @torch.inference_mode()
    def _run(self, code: Callable[[VideoVAE, Tensor], Tensor], x: Tensor) -> Tensor:
        with self.component.use() as vae:
            own = next(vae.parameters())
            try:
                return code(vae, x.to(own.device, own.dtype))
            except ValueError as e:  # a length or size that cannot be coded
                raise Refused(str(e)) from e

    @staticmethod
    def _shape(name: str, x: Tensor, channels: int) -> tuple[int, int, int, int, int]:
        if not x.is_floating_point() or x.ndim != 5 or x.shape[2] != channels or 0 in x.shape:
            raise Refused(
                f"{name} is {x.dtype} {list(x.shape)}; expected floats [batch, frames, {channels}, height, width]"
            )
        b, t, c, h, w = x.shape
        return b, t, c, h, w

    def _check_size(self, pixels: int) -> None:
        most = self.limits.max_pixels * self.limits.max_videos
        if pixels > most:
            raise Refused(f"{pixels} pixels of video in one request; this server codes at most {most}")


def num_frames(cfg: VAEConfig, latents: int) -> int:
    """Frames that so many latents decode to."""
    whole, rest = divmod(latents, cfg.latent_len) if cfg.frame_len else (0, latents)
    return whole * cfg.frame_len + max(0, (rest - 1) * cfg.temporal_factor + 1)
