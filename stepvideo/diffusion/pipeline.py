"""Prompts → latents → frames: the whole model, as the stages, the evaluation and `generate` use it.

Legend: n samples, f latent frames, z latent channels, h and w latent sides; T frames, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepvideo import storage
from stepvideo.diffusion.guidance import evaluations, sample
from stepvideo.diffusion.sampling import Sampling
from stepvideo.diffusion.schedule import sigmas
from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.models.checkpoints import load_dit, load_vae
from stepvideo.models.dit import DiT
from stepvideo.models.text_encoders import TextEncoders, load_text_encoders
from stepvideo.models.video_vae import VideoVAE

STATS_FILE = "transformer/latent_stats.json"
LENGTHS_FILE = "text_lengths.json"
RELEASED_LENGTHS = {"llm_length": 320, "clip_length": 77}
_ENCODE_BATCH = 64

Conditions = dict[str, Tensor]  # the text arguments of DiT.forward, [n, …]


@dataclass(frozen=True)
class LatentStats:
    """Mean and standard deviation of each latent channel [z]: the DiT sees (latent − mean) / std."""

    mean_z: Tensor
    std_z: Tensor

    @classmethod
    def read(cls, root: Path, channels: int) -> LatentStats:
        """From `root/transformer/latent_stats.json`; without it the identity, which is what the release does.

        Raises:
            ArtifactError: the file does not hold one finite mean and one positive std a channel.
        """
        path = Path(root) / STATS_FILE
        if not path.exists():
            return cls(torch.zeros(channels), torch.ones(channels))
        data = storage.read_json(path)
        try:
            stats = cls(*(torch.tensor(data[k], dtype=torch.float32) for k in ("mean", "std")))
        except (KeyError, TypeError, ValueError) as e:
            raise ArtifactError(f"{path} must hold lists mean and std: {e}") from e
        both = torch.stack([stats.mean_z, stats.std_z]) if stats.mean_z.shape == stats.std_z.shape else torch.empty(0)
        if both.shape != (2, channels) or not both.isfinite().all() or (stats.std_z <= 0).any():
            raise ArtifactError(f"{path} must hold a finite mean and a positive std for each of {channels} channels")
        return stats

    def normalise(self, x_nfzhw: Tensor) -> Tensor:
        return (x_nfzhw - _channels(self.mean_z, x_nfzhw)) / _channels(self.std_z, x_nfzhw)

    def denormalise(self, x_nfzhw: Tensor) -> Tensor:
        return x_nfzhw * _channels(self.std_z, x_nfzhw) + _channels(self.mean_z, x_nfzhw)


def _channels(v_z: Tensor, like: Tensor) -> Tensor:
    return v_z.to(like)[:, None, None]


@dataclass
class Samples:
    """Latents [n, f, z, h, w] as the DiT sees them (normalised), fp32 on the CPU; what each cost."""

    latents: Tensor
    sampling: Sampling
    nfe: int  # network evaluations a sample: two a guided step, one at scale 1


@dataclass
class Pipeline:
    """The networks with their text encoders, latent statistics and sampling defaults."""

    dit: DiT
    vae: VideoVAE
    text: TextEncoders
    stats: LatentStats
    defaults: Sampling = field(default_factory=Sampling)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "bf16"  # bf16 | fp32; bf16 falls back to fp32 where the processor lacks it

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
        if precision not in ("bf16", "fp32"):
            raise StepVideoError(f"precision={precision!r}: choose bf16 or fp32")
        where = (
            torch.device("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else torch.device(device)
        )
        dit = load_dit(transformer, where).requires_grad_(False)
        decoder = load_vae(vae, where).requires_grad_(False)
        lengths = {**RELEASED_LENGTHS, **_read_optional(Path(text) / LENGTHS_FILE)}
        encoders = load_text_encoders(text, where, lengths["llm_length"], lengths["clip_length"])
        if dit.cfg.in_channels != decoder.cfg.z_channels:
            raise ArtifactError(
                f"the transformer in {transformer} works on {dit.cfg.in_channels} latent channels, the VAE in {vae} "
                f"has {decoder.cfg.z_channels}; give the VAE that it was trained with"
            )
        widths = [encoders.step_llm.cfg.hidden_size, encoders.clip_text.cfg.hidden_size]
        if list(dit.cfg.caption_channels) != widths[: len(dit.cfg.caption_channels)]:
            raise ArtifactError(
                f"the transformer in {transformer} reads text features of widths {list(dit.cfg.caption_channels)}, the "
                f"encoders in {text} give {widths}; give the encoders that it was trained with"
            )
        if dit.cfg.use_additional_conditions:
            raise ArtifactError(
                f"the transformer in {transformer} is an image-to-video model; give a text-to-video one"
            )
        stats = LatentStats.read(transformer, dit.cfg.in_channels)
        return cls(dit, decoder, encoders, stats, Sampling.read(transformer), where, precision)

    def latent_shape(self, sampling: Sampling) -> tuple[int, int, int, int]:
        """(f, z, h, w) of a video of this size.

        Raises:
            StepVideoError: the VAE cannot code that length or size; names the nearest that it can.
        """
        factor, patch = self.vae.cfg.spatial_factor, self.dit.cfg.patch_size
        for name in ("height", "width"):
            side, unit = getattr(sampling, name), factor * patch
            if side % unit:
                near = [max(unit, side // unit * unit), (side // unit + 1) * unit]
                raise StepVideoError(f"{name}={side} must be a multiple of {unit}; nearest: {near[0]} or {near[1]}")
        try:
            f = self.vae.num_latents(sampling.frames)
        except ValueError as e:
            raise StepVideoError(f"frames={sampling.frames}: {e}") from e
        return f, self.vae.cfg.z_channels, sampling.height // factor, sampling.width // factor

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        """Text arguments of the DiT, [n, …]; Step-LLM positions that no prompt uses are cut off (they are masked).

        Raises:
            StepVideoError: a prompt holds a token outside a vocabulary; names both.
        """
        batches = [list(prompts[i : i + _ENCODE_BATCH]) for i in range(0, len(prompts), _ENCODE_BATCH)]
        parts = [self.text.encode(batch) for batch in batches]
        joined = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
        mask = joined["encoder_attention_mask"]
        clip = joined["encoder_hidden_states_2"].shape[1]
        used = int(mask[:, clip:].sum(1).max())  # padding is on the right
        joined["encoder_hidden_states"] = joined["encoder_hidden_states"][:, :used]
        joined["encoder_attention_mask"] = mask[:, : clip + used]
        if len(self.dit.cfg.caption_channels) == 1:
            return {
                "encoder_hidden_states": joined["encoder_hidden_states"],
                "encoder_attention_mask": joined["encoder_attention_mask"][:, clip:],
            }
        return joined

    def noise(self, sampling: Sampling, seed: int, indices: Sequence[int]) -> Tensor:
        """Initial noise [n, f, z, h, w], fp32 on the CPU: sample i's depends on (seed, i) and the size alone."""
        shape = self.latent_shape(sampling)
        return torch.stack([torch.randn(shape, generator=_generator(seed, i)) for i in indices])

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
        **overrides: Any,
    ) -> Samples:
        """One sample a prompt.

        Args:
            seed, indices: prompt k starts from noise number `indices[k]` (default k) of the seed; the batch size does
                not change it.
            noise: [n, f, z, h, w] instead of it.
            negative: guides away; the empty caption is what training drops captions to.
            overrides: fields of `Sampling` (frames, height, width, steps, cfg, time_shift, cfg_schedule); what is not
                given, 0 or None takes the model's default.

        Raises:
            StepVideoError: a size that the VAE cannot code, an unknown token, an impossible value.
        """
        sampling = self.defaults.with_(overrides)
        times = sigmas(sampling.steps, sampling.time_shift)
        guidance = sampling.guidance
        nfe = evaluations(guidance, times)
        if noise is None:
            noise = self.noise(sampling, seed, range(len(prompts)) if indices is None else indices)
        elif tuple(noise.shape) != (len(prompts), *self.latent_shape(sampling)):
            raise StepVideoError(
                f"noise is {list(noise.shape)}; {len(prompts)} samples of this size take "
                f"{[len(prompts), *self.latent_shape(sampling)]}"
            )
        texts = list(dict.fromkeys([*prompts, negative]))
        encoded = self.encode_prompts(texts)
        number = {t: i for i, t in enumerate(texts)}
        rows = torch.tensor([number[p] for p in prompts], device=self.device)
        guided = nfe > sampling.steps
        latents = []
        for i in range(0, len(prompts), batch_size):
            pick = rows[i : i + batch_size]
            cond = {k: v[pick] for k, v in encoded.items()}
            uncond = {k: v[number[negative]].expand(len(pick), *v.shape[1:]) for k, v in encoded.items()}
            start = noise[i : i + batch_size].to(self.device)
            with self._autocast():
                done = sample(self.dit, start, times, cond, uncond if guided else None, guidance)
            latents.append(done.latents.cpu())
        return Samples(torch.cat(latents), sampling, nfe)

    @torch.no_grad()
    def decode(self, latents_nfzhw: Tensor, batch_size: int = 8) -> np.ndarray:
        """Normalised latents to frames uint8 [n, T, H, W, 3]."""
        videos = []
        for part in latents_nfzhw.split(batch_size):
            z = self.stats.denormalise(part.to(self.device))
            with self._autocast():
                video = self.vae.decode(z)
            videos.append(_to_uint8(video))
        return np.concatenate(videos)

    @torch.no_grad()
    def reconstruct(self, video_nthwc: np.ndarray, batch_size: int = 8) -> np.ndarray:
        """uint8 [n, T, H, W, 3] through the VAE (posterior mean) and back: what the best model could show."""
        out = []
        for i in range(0, len(video_nthwc), batch_size):
            x = torch.from_numpy(video_nthwc[i : i + batch_size]).to(self.device)
            x = x.permute(0, 1, 4, 2, 3).float() / 127.5 - 1
            with self._autocast():
                out.append(_to_uint8(self.vae.decode(self.vae.encode(x, sample=False).float())))
        return np.concatenate(out)

    def _autocast(self) -> AbstractContextManager[Any]:
        wanted = self.precision == "bf16" and supports_bf16(self.device)
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=wanted)


def supports_bf16(device: torch.device) -> bool:
    """True where bf16 arithmetic is native: emulated on an older processor, it is slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _generator(seed: int, index: int) -> torch.Generator:
    state = np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def _read_optional(path: Path) -> dict[str, Any]:
    return storage.read_json(path) if path.exists() else {}


def _to_uint8(video_nthwc: Tensor) -> np.ndarray:
    """[n, T, 3, H, W] in [−1, 1] to uint8 [n, T, H, W, 3], rounded."""
    x = video_nthwc.float().clamp(-1, 1).add(1).mul(127.5).round()
    return x.to(torch.uint8).permute(0, 1, 3, 4, 2).contiguous().cpu().numpy()
