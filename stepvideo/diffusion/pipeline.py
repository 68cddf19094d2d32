"""Prompts → latents → frames: the whole model, as the stages, the evaluation and `generate` use it.

Legend: n samples, f latent frames, z latent channels, h and w latent sides; T frames, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stepvideo.diffusion.component import Component
from stepvideo.diffusion.conditions import Conditions, FirstFrame, TextFeatures, encode_texts, of_streams
from stepvideo.diffusion.guidance import VelocityFn, evaluations, sample
from stepvideo.diffusion.image_condition import cover_crop
from stepvideo.diffusion.latent_stats import LatentStats
from stepvideo.diffusion.noise import generator, noise
from stepvideo.diffusion.pixels import to_float, to_uint8
from stepvideo.diffusion.sampling import Sampling, default_sampling
from stepvideo.diffusion.schedule import sigmas
from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.models import checkpoints
from stepvideo.models.config import DiTConfig, VAEConfig
from stepvideo.models.dit import DiT
from stepvideo.models.text_encoders import TextEncoders, load_text_encoders
from stepvideo.models.video_vae import DiagonalGaussian, VideoVAE


@dataclass
class Samples:
    """Latents [n, f, z, h, w] as the DiT sees them (normalised), fp32 on the CPU; what each cost."""

    latents: Tensor
    sampling: Sampling
    nfe: int  # network evaluations a sample: two a guided step, one at scale 1


@dataclass
class Pipeline:
    """The networks with their text encoders, latent statistics and sampling defaults."""

    dit: Component[DiTConfig, DiT]
    vae: Component[VAEConfig, VideoVAE]
    text: Component[list[int], TextEncoders]  # configured by its feature widths: Step-LLM, CLIP
    stats: LatentStats
    defaults: Sampling = field(default_factory=Sampling)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "bf16"  # bf16 | fp32; bf16 falls back to fp32 where the processor lacks it
    velocity: Callable[[DiT], VelocityFn] = field(default=lambda dit: dit)  # parallel plans wrap the network
    decoder: Callable[[VideoVAE, Tensor], Tensor] = VideoVAE.decode  # whole, in tiles, or over ranks
    batched_guidance: bool = True  # with and without the prompt in one call, or one after the other

    @classmethod
    def load(cls, transformer: Path, vae: Path, text: Path, device: str = "auto", precision: str = "bf16") -> Pipeline:
        """Read the networks from artifact directories in the released layout (they may be one and the same).

        Args:
            transformer: holds `transformer/`, and optionally `transformer/latent_stats.json` and `sampling.json`.
            vae: holds `vae/`.
            text: holds `step_llm/` and `hunyuan_clip/`, and optionally `text_lengths.json`.
            device: auto (CUDA where there is one) | cpu | cuda | …

        Raises:
            ArtifactError: names the file that is missing or damaged, or the two models that do not fit each other.
        """
        pipe = cls.prepare(transformer, vae, text, device, precision)
        for component in (pipe.dit, pipe.vae, pipe.text):
            _ = component.module
        return pipe

    @classmethod
    def prepare(
        cls,
        transformer: Path,
        vae: Path | Component[VAEConfig, VideoVAE],
        text: Path | Component[list[int], TextEncoders],
        device: str,
        precision: str,
    ) -> Pipeline:
        """`load`, but each network's weights are read when it is first used; the VAE and the text encoders may be
        anything that answers as they do."""
        if precision not in ("bf16", "fp32"):
            raise StepVideoError(f"precision={precision!r}: choose bf16 or fp32")
        where = best_device(device)
        precision = precision if supports_bf16(where) else "fp32"
        dtype = torch.float32 if precision == "fp32" else None
        dit_cfg = checkpoints.dit_config(transformer)

        def read_dit(on: torch.device) -> DiT:
            return checkpoints.load_dit(transformer, on, dtype).requires_grad_(False)

        pipe = cls(
            Component(dit_cfg, read_dit, where, origin=transformer),
            vae if isinstance(vae, Component) else vae_component(vae, where, dtype),
            text if isinstance(text, Component) else text_component(text, where),
            LatentStats.read(transformer, dit_cfg.in_channels),
            default_sampling(transformer),
            where,
            precision,
        )
        pipe._check_fit()
        return pipe

    def _check_fit(self) -> None:
        dit, vae, widths = self.dit.cfg, self.vae.cfg, self.text.cfg
        if dit.in_channels != vae.z_channels:
            raise ArtifactError(
                f"the transformer in {self.dit.origin} works on {dit.in_channels} latent channels, the VAE in "
                f"{self.vae.origin} has {vae.z_channels}; give the VAE that it was trained with"
            )
        if list(dit.caption_channels) != widths[: len(dit.caption_channels)]:
            raise ArtifactError(
                f"the transformer in {self.dit.origin} reads text features of widths {list(dit.caption_channels)}, the "
                f"encoders in {self.text.origin} give {widths}; give the encoders that it was trained with"
            )

    def latent_shape(self, sampling: Sampling) -> tuple[int, int, int, int]:
        """(f, z, h, w) of a video of this size.

        Raises:
            StepVideoError: the VAE cannot code that length or size; names the nearest that it can.
        """
        cfg, unit = self.vae.cfg, self.size_unit
        for name in ("height", "width"):
            side = getattr(sampling, name)
            if side % unit:
                near = [max(unit, side // unit * unit), (side // unit + 1) * unit]
                raise StepVideoError(f"{name}={side} must be a multiple of {unit}; nearest: {near[0]} or {near[1]}")
        try:
            f = cfg.num_latents(sampling.frames)
        except ValueError as e:
            raise StepVideoError(f"frames={sampling.frames}: {e}") from e
        return f, cfg.z_channels, sampling.height // cfg.spatial_factor, sampling.width // cfg.spatial_factor

    @property
    def size_unit(self) -> int:
        """Height and width are multiples of so many pixels."""
        return self.vae.cfg.spatial_factor * self.dit.cfg.patch_size

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        """Text arguments of the DiT, [n, …]; Step-LLM positions that no prompt uses are cut off (they are masked).

        Raises:
            StepVideoError: a prompt holds a token outside a vocabulary; names both.
        """
        with self.text.use() as text:
            return of_streams(encode_texts(text, prompts), self.dit.cfg.caption_channels)

    def noise(self, sampling: Sampling, seed: int, indices: Sequence[int]) -> Tensor:
        """Initial noise [n, f, z, h, w], fp32 on the CPU: sample i's depends on (seed, i) and the size alone."""
        return noise(self.latent_shape(sampling), seed, indices)

    @torch.no_grad()
    def encode_image(self, image_hwc: np.ndarray, sampling: Sampling, seed: int) -> Tensor:
        """The first frame's latent [z, h, w] of a picture uint8 [H, W, 3] of any size, normalised.

        Resized to cover the video and cropped to it; a sample of the posterior, as released, but one that the seed
        decides.
        """
        x = to_float(torch.from_numpy(image_hwc)[None, None])[0]
        x = cover_crop(x, sampling.height, sampling.width)[:, None]
        with self.vae.use() as vae, self._autocast(vae):
            moments = vae.encode_moments(x.to(self.device, _dtype(vae))).float().cpu()
        z = DiagonalGaussian(moments).sample(generator(seed, -1))
        return self.stats.normalise(z)[0, 0]

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        *,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        noise: Tensor | None = None,
        batch_size: int = 32,
        negative: str = "",
        features: TextFeatures | None = None,
        image: FirstFrame | None = None,
        on_step: Callable[[int, int], None] | None = None,
        settings: Sampling | None = None,
        **overrides: Any,
    ) -> Samples:
        """One sample a prompt.

        Args:
            seed, indices: prompt k starts from noise number `indices[k]` (default k) of the seed; the batch size does
                not change it.
            noise: [n, f, z, h, w] instead of it.
            negative: guides away; the empty caption is what training drops captions to.
            features: of all prompts and the negative one; the text encoders are not used then.
            image: for an image-to-video model, and only for one.
            on_step: called with (steps done, steps in all) after every step of every batch.
            settings: instead of the model's defaults.
            overrides: fields of `Sampling` (frames, height, width, steps, cfg, time_shift, cfg_schedule); what is not
                given, 0 or None takes the model's default.

        Raises:
            StepVideoError: a size that the VAE cannot code, an unknown token, an impossible value.
        """
        sampling = (settings or self.defaults).with_(overrides)
        self.check_image(image is not None)
        times = sigmas(sampling.steps, sampling.time_shift)
        guidance = sampling.guidance
        nfe = evaluations(guidance, times)
        shape = [len(prompts), *self.latent_shape(sampling)]
        if noise is None:
            noise = self.noise(sampling, seed, range(len(prompts)) if indices is None else indices)
        elif list(noise.shape) != shape:
            raise StepVideoError(f"noise is {list(noise.shape)}; {len(prompts)} samples of this size take {shape}")
        if features is None:
            texts = list(dict.fromkeys([*prompts, negative]))
            features = TextFeatures(texts, self.encode_prompts(texts))
        latents = []
        starts = range(0, len(prompts), batch_size)
        with self.dit.use() as dit, self._autocast(dit):
            velocity = self.velocity(dit)
            for i, start in enumerate(starts):
                rows = slice(start, start + batch_size)
                texts = list(prompts[rows])
                more = image.arguments(rows, shape[1], self.device) if image else {}
                cond = features.rows(texts, self.device) | more
                uncond = features.rows([negative] * len(texts), self.device) | more if nfe > sampling.steps else None

                def count(step: int, _x: Tensor, before: int = i * sampling.steps) -> None:
                    if on_step is not None:
                        on_step(before + step + 1, len(starts) * sampling.steps)

                done = sample(
                    velocity,
                    noise[rows].to(self.device),
                    times,
                    cond,
                    uncond,
                    guidance,
                    batched=self.batched_guidance,
                    on_step=count,
                )
                latents.append(done.latents.cpu())
        return Samples(torch.cat(latents), sampling, nfe)

    def check_image(self, given: bool) -> None:
        """Raises StepVideoError when there is an image where none belongs, or none where one does."""
        if given != self.dit.cfg.use_additional_conditions:
            state = "a text-to-video model: give no image" if given else "an image-to-video model: give an image"
            raise StepVideoError(f"this is {state}, or choose another model")

    @torch.no_grad()
    def decode(self, latents_nfzhw: Tensor, batch_size: int = 8) -> np.ndarray:
        """Normalised latents to frames uint8 [n, T, H, W, 3]."""
        videos = []
        with self.vae.use() as vae, self._autocast(vae):
            for part in latents_nfzhw.split(batch_size):
                z = self.stats.denormalise(part.to(self.device))
                videos.append(to_uint8(self.decoder(vae, z.to(_dtype(vae)))))
        return np.concatenate(videos)

    @torch.no_grad()
    def reconstruct(self, video_nthwc: np.ndarray, batch_size: int = 8) -> np.ndarray:
        """uint8 [n, T, H, W, 3] through the VAE (posterior mean) and back: what the best model could show."""
        out = []
        with self.vae.use() as vae, self._autocast(vae):
            for i in range(0, len(video_nthwc), batch_size):
                x = to_float(torch.from_numpy(video_nthwc[i : i + batch_size]).to(self.device)).to(_dtype(vae))
                out.append(to_uint8(self.decoder(vae, vae.encode(x, sample=False).to(_dtype(vae)))))
        return np.concatenate(out)

    def _autocast(self, network: nn.Module) -> AbstractContextManager[Any]:
        """bf16 arithmetic on fp32 weights; weights saved in bf16 compute in it anyway."""
        wanted = self.precision == "bf16" and _dtype(network) == torch.float32
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=wanted)


def vae_component(root: Path, device: torch.device, dtype: torch.dtype | None) -> Component[VAEConfig, VideoVAE]:
    """The VAE in `root`, in its saved dtype or `dtype`."""

    def read(on: torch.device) -> VideoVAE:
        return checkpoints.load_vae(root, on, dtype).requires_grad_(False)

    return Component(checkpoints.vae_config(root), read, device, origin=root)


def text_component(root: Path, device: torch.device) -> Component[list[int], TextEncoders]:
    """The text encoders in `root`, in their saved dtypes."""
    widths = [checkpoints.step_llm_config(root).hidden_size, checkpoints.clip_text_config(root).hidden_size]
    return Component(widths, partial(load_text_encoders, root), device, origin=root)


def best_device(wanted: str) -> torch.device:
    """`auto` is CUDA where there is one.

    Raises:
        StepVideoError: no device of that name, or not in this machine.
    """
    count = torch.cuda.device_count()
    try:
        device = torch.device(("cuda" if count else "cpu") if wanted == "auto" else wanted)
    except RuntimeError:
        raise StepVideoError(f"device={wanted!r}: choose auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= count:
        raise StepVideoError(f"device={wanted!r}: torch sees {count} CUDA devices here; choose another, or auto")
    return device


def supports_bf16(device: torch.device) -> bool:
    """True where bf16 arithmetic is native: emulated on an older processor, it is slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _dtype(network: nn.Module) -> torch.dtype:
    return next(network.parameters()).dtype
