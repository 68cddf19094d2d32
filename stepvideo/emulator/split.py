"""How many GPUs encode beside those that train (report §6.1): the fewest that keep up, by throughput and by the pipe.

A training step eats so many clips and prompts; an encoding GPU makes so many latents. Where a throughput was not
measured it is the operations of the encoders over an assumed share of the peak, and is labelled so.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from math import ceil
from typing import Any

from stepvideo.emulator.hardware import GPU
from stepvideo.emulator.ledger import Ledger
from stepvideo.emulator.vae_memory import vae_encode_chunk
from stepvideo.errors import ConfigError
from stepvideo.models.config import StepLLMConfig, VAEConfig

LATENT_BYTES = 2 * 2  # mean and log-variance in bf16, as they are cached
MARGIN = 0.2


@dataclass(frozen=True)
class Stream:
    """Samples of one size (pixels; 1 frame: images) that training takes a second, all its GPUs together."""

    samples_per_s: float
    frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        for f in fields(self):
            if not getattr(self, f.name) > 0:
                raise ConfigError(f"{f.name}={getattr(self, f.name):g}: give more than 0")


@dataclass(frozen=True)
class Demand:
    """What `gpus` that train take; a sample's prompt has `tokens` tokens, whose embeddings are sent with it."""

    gpus: int
    streams: tuple[Stream, ...]
    tokens: int = 256
    text_channels: int = 6144

    def __post_init__(self) -> None:
        if self.gpus < 1 or not self.streams:
            raise ConfigError(f"gpus={self.gpus} with {len(self.streams)} sizes: give at least one of each")

    @property
    def samples_per_s(self) -> float:
        return sum(s.samples_per_s for s in self.streams)


@dataclass(frozen=True)
class Encoding:
    """How fast one encoding GPU is. measured: samples a second, 0 where that is not known; then the efficiencies are
    assumed shares of the peak. pipe_gbs: bytes a second from one encoding GPU to training, in 1e9."""

    gpu: GPU
    measured: float = 0.0
    vae_efficiency: float = 0.25
    text_efficiency: float = 0.40
    pipe_gbs: float = 1.0
    margin: float = MARGIN

    def __post_init__(self) -> None:
        for name in ("vae_efficiency", "text_efficiency"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name):g}: give a share of the peak, above 0 and up to 1")
        if self.measured < 0 or self.pipe_gbs <= 0 or self.margin < 0:
            raise ConfigError(
                f"measured={self.measured:g}, pipe_gbs={self.pipe_gbs:g}, margin={self.margin:g}: a rate is 0 "
                "(unknown) or more, a pipe more than 0, a margin 0 or more"
            )


@dataclass(frozen=True)
class Split:
    """encoders: GPUs; share: of the training ones. limit: what sets their number, "compute" or "pipe".

    vae_tflop, text_tflop: of a sample. per_gpu: samples a second that one encoding GPU can make and send.
    """

    encoders: int
    share: float
    limit: str
    basis: str
    vae_tflop: float
    text_tflop: float
    per_gpu: float
    sample_bytes: int
    stream_gbs: float  # of all samples, into training

    def row(self) -> dict[str, Any]:
        return asdict(self)


def split(demand: Demand, encoding: Encoding, vae: VAEConfig | None = None, llm: StepLLMConfig | None = None) -> Split:
    """The fewest GPUs n with n · rate >= (1 + margin) · demand.

    Raises:
        ConfigError: a clip that the VAE cannot encode.
    """
    vae, llm, d, e = vae or VAEConfig(), llm or StepLLMConfig(), demand, encoding
    encoded, sample = 0.0, d.tokens * d.text_channels * 2.0
    for stream in d.streams:
        share = stream.samples_per_s / d.samples_per_s
        operations, size = _of_sample(vae, stream)
        encoded, sample = encoded + share * operations, sample + share * size
    operations = encoded, text_flops(llm, d.tokens)
    peak = e.gpu.peak()
    computed = e.measured or 1 / (
        operations[0] / (peak * e.vae_efficiency) + operations[1] / (peak * e.text_efficiency)
    )
    sent = e.pipe_gbs * 1e9 / sample
    rate = min(computed, sent)
    encoders = ceil((1 + e.margin) * d.samples_per_s / rate)
    basis = "measured" if e.measured else f"assumed: VAE {e.vae_efficiency:.0%}, text {e.text_efficiency:.0%} of peak"
    return Split(
        encoders=encoders,
        share=encoders / d.gpus,
        limit="compute" if computed <= sent else "pipe",
        basis=basis,
        vae_tflop=operations[0] / 1e12,
        text_tflop=operations[1] / 1e12,
        per_gpu=rate,
        sample_bytes=round(sample),
        stream_gbs=d.samples_per_s * sample / 1e9,
    )


def _of_sample(vae: VAEConfig, s: Stream) -> tuple[float, int]:
    """Operations of encoding one, and bytes of its latents."""
    try:
        operations, latents = encode_flops(vae, s.frames, s.height, s.width), vae.num_latents(s.frames)
    except ValueError as e:
        raise ConfigError(f"{s.frames}x{s.height}x{s.width}: {e}") from e
    cells = latents * (s.height // vae.spatial_factor) * (s.width // vae.spatial_factor)
    return operations, cells * vae.z_channels * LATENT_BYTES


def text_flops(cfg: StepLLMConfig, tokens: int) -> float:
    """Forward operations of Step-LLM on one prompt, causal attention counted whole."""
    d, kv = cfg.hidden_size, 2 * cfg.num_attention_groups * cfg.head_dim
    layer = 2 * tokens * (d * (d + kv) + d * d + 3 * d * cfg.ffn_dim) + 4 * tokens**2 * d
    return float(cfg.num_layers * layer)


def encode_flops(cfg: VAEConfig, frames: int, height: int, width: int) -> float:
    """Forward operations of the encoder on one clip, chunk by chunk.

    Raises:
        ValueError: a size that is no multiple of the VAE's factor.
    """
    if height % cfg.spatial_factor or width % cfg.spatial_factor:
        raise ValueError(f"height and width must be multiples of {cfg.spatial_factor}")
    whole, rest = divmod(frames, cfg.frame_len) if cfg.frame_len else (0, frames)
    total = 0
    for times, length in ((whole, cfg.frame_len), (1, rest)):
        if times and length:
            m = Ledger()
            vae_encode_chunk(m, cfg, 1, (length, height, width), 2)
            total += times * m.flops
    return float(total)
