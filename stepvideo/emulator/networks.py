"""Networks as workloads: our video DiT, and decoders of language models, which most measured step times are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepvideo.emulator.dit_memory import dit_parameters
from stepvideo.emulator.flops import video_tokens
from stepvideo.emulator.workload import Attention, Bucket, Gemm, Layer, Network, Pointwise, Workload
from stepvideo.errors import ConfigError
from stepvideo.models.config import DiTConfig, VAEConfig

ADAMW = 80  # bytes of a parameter: torch's AdamW (foreach) passes over fp32 numbers twenty times


@dataclass(frozen=True)
class Size:
    """Samples of a stream: frames, height and width in pixels (1 frame: images), the share of micro-batches that are
    of them, and how many stand for one sample of the plan's `micro_batch`."""

    frames: int
    height: int
    width: int
    share: float = 1.0
    samples: float = 1.0


def dit_workload(
    cfg: DiTConfig, stream: Sequence[Size], text: int = 256, clip: int = 0, vae: VAEConfig | None = None
) -> Workload:
    """Training of a DiT on a stream of sizes with prompts of `text` tokens, of which `clip` come from CLIP.

    Raises:
        ConfigError: an empty stream, a share that is not positive, a size that the VAE or the patches cannot divide.
    """
    vae = vae or VAEConfig()
    if not stream:
        raise ConfigError("the stream is empty: give at least one size")
    return dit_training(cfg, [_bucket(cfg, vae, size, text, clip) for size in stream])


def dit_training(cfg: DiTConfig, buckets: Sequence[Bucket], element: int = 2) -> Workload:
    """As our trainer does it; `element` bytes of weights and activations while it computes."""
    return Workload(dit_network(cfg), tuple(buckets), element=element, optimizer=ADAMW)


def dit_network(cfg: DiTConfig) -> Network:
    p, d, heads = dit_parameters(cfg), cfg.inner_dim, cfg.num_attention_heads
    return Network("DiT", cfg.num_layers, d, heads, heads, 4 * d, p.block, p.outside)


def dit_bucket(
    cfg: DiTConfig, name: str, latent: tuple[int, int, int], text: int, clip: int, share: float, samples: float
) -> Bucket:
    """Samples of latent frames, height and width, with prompts as of `dit_workload`."""
    s = video_tokens(cfg, *latent)
    layer = _joint_block(cfg, s, text) if cfg.block == "mmdit" else _cross_block(cfg, s, latent[0], text)
    return Bucket(name, s, layer, _ends(cfg, s, text, clip), share, samples)


def _bucket(cfg: DiTConfig, vae: VAEConfig, size: Size, text: int, clip: int) -> Bucket:
    unit, name = vae.spatial_factor * cfg.patch_size, f"{size.frames}x{size.height}x{size.width}"
    if size.share <= 0 or size.samples <= 0:
        raise ConfigError(f"stream {name}: share={size.share} and samples={size.samples} must be above 0")
    if size.height % unit or size.width % unit or min(size.height, size.width) < unit:
        raise ConfigError(f"stream {name}: height and width must be multiples of {unit} pixels")
    try:
        latents = vae.num_latents(size.frames)
    except ValueError as e:
        raise ConfigError(f"stream {name}: {e}") from e
    latent = (latents, size.height // vae.spatial_factor, size.width // vae.spatial_factor)
    return dit_bucket(cfg, name, latent, text, clip, size.share, size.samples)


def _cross_block(cfg: DiTConfig, s: int, frames: int, t: int) -> Layer:
    """Self-attention, cross-attention to the prompt and feed-forward (report §4.3), as `flops.block_flops` counts."""
    d, h, hd = cfg.inner_dim, cfg.num_attention_heads, cfg.attention_head_dim
    seen = 1.0 if cfg.attention == "full" else (1 / frames + frames / s) / 2
    return Layer(
        gemms=(
            Gemm("self q, k, v", s, d, 3 * d),
            Gemm("self output", s, d, d, "inputs"),
            Gemm("cross q", s, d, d),
            Gemm("cross k, v", t, d, 2 * d, text=True),
            Gemm("cross output", s, d, d, "inputs"),
            Gemm("feed-forward up", s, d, 4 * d),
            Gemm("feed-forward down", s, 4 * d, d, "inputs"),
        ),
        attentions=(
            Attention("self", s, s, h, h, hd, seen),
            Attention("cross", s, t, h, h, hd, text=True),
        ),
        pointwise=(
            Pointwise("norms, modulation, residuals", 17 * s * d, 7),
            Pointwise("QK-norm and RoPE", 10 * s * d, 5, wide=True),
            Pointwise("QK-norm of the prompt", 2 * t * d, 1, wide=True, text=True),
            Pointwise("GELU", 8 * s * d, 1, wide=True),
        ),
        exchanges=3,
        exchanged=s * d,
    )


def _joint_block(cfg: DiTConfig, s: int, t: int) -> Layer:
    """MMDiT: both streams meet in one attention. The mean of all layers, of which the last gives text no output."""
    d, h, hd = cfg.inner_dim, cfg.num_attention_heads, cfg.attention_head_dim
    out = t * (cfg.num_layers - 1) / cfg.num_layers
    gemms = []
    for name, tokens, outputs in (("video", s, s), ("text", t, out)):
        gemms += [
            Gemm(f"{name} q", outputs, d, d, text=name == "text"),
            Gemm(f"{name} k, v", tokens, d, 2 * d, text=name == "text"),
            Gemm(f"{name} output", outputs, d, d, "inputs", text=name == "text"),
            Gemm(f"{name} feed-forward up", outputs, d, 4 * d, text=name == "text"),
            Gemm(f"{name} feed-forward down", outputs, 4 * d, d, "inputs", text=name == "text"),
        ]
    both = s + t
    return Layer(
        gemms=tuple(gemms),
        attentions=(Attention("joint", s + out, both, h, h, hd),),
        pointwise=(
            Pointwise("norms, modulation, residuals", 14 * both * d, 12),
            Pointwise("QK-norm and RoPE", 8 * both * d, 8, wide=True),
            Pointwise("GELU", 8 * both * d, 2, wide=True),
        ),
        exchanges=2,
        exchanged=both * d,
    )


def _ends(cfg: DiTConfig, s: int, text: int, clip: int) -> Layer:
    """Embedders and output layer, as `flops.flops` counts."""
    d, p2 = cfg.inner_dim, cfg.patch_size**2
    embedders = 2 if cfg.use_additional_conditions else 1
    return Layer(
        gemms=(
            Gemm("patch embedding", s, cfg.patch_channels * p2, d, "none"),
            Gemm("output", s, d, cfg.out_channels * p2, "none"),
            Gemm("caption", text - clip, cfg.caption_channels[0], d, "none", text=True),
            Gemm("caption, second", text - clip, d, d, "none", text=True),
            Gemm("CLIP caption", clip, cfg.caption_channels[-1], d, "none", text=True),
            Gemm("timestep", embedders, 256, d, "none", text=True),
            Gemm("timestep, second", embedders, d, d, "none", text=True),
            Gemm("modulation", 1, d, 6 * d, "none", text=True),
        ),
        pointwise=(Pointwise("last norm and modulation", 4 * s * d, 3),),
    )


@dataclass(frozen=True)
class Decoder:
    """A decoder-only language model. `gated`: the feed-forward has a gate (SwiGLU).

    fused: FlashAttention, and one kernel for the loss; otherwise scores are written to memory, and the loss is computed
    from fp32 copies of all logits on every tensor rank.
    """

    layers: int
    hidden: int
    heads: int
    sequence: int
    vocabulary: int
    kv_heads: int = 0  # 0: as many as heads
    ffn: int = 0  # 0: four times hidden
    gated: bool = False
    fused: bool = True


def decoder_workload(m: Decoder, gradient: int = 4) -> Workload:
    """Training on sequences of one length, causal; the vocabulary's head is the last stage's.

    Raises:
        ConfigError: heads that do not divide the width, or heads of keys and values that do not divide heads.
    """
    kv, ffn = m.kv_heads or m.heads, m.ffn or 4 * m.hidden
    if m.hidden % m.heads or m.heads % kv:
        raise ConfigError(
            f"heads={m.heads} must divide hidden={m.hidden} and be a multiple of kv_heads={kv}; change one of them"
        )
    d, s, hd, up = m.hidden, m.sequence, m.hidden // m.heads, 2 if m.gated else 1
    layer = Layer(
        gemms=(
            Gemm("q, k, v", s, d, (m.heads + 2 * kv) * hd),
            Gemm("output", s, d, d, "inputs"),
            Gemm("feed-forward up", s, d, up * ffn),
            Gemm("feed-forward down", s, ffn, d, "inputs"),
        ),
        attentions=(Attention("self", s, s, m.heads, kv, hd, 0.5 if m.fused else 1.0, fused=m.fused),),
        pointwise=(
            Pointwise("norms, dropout, residuals", 11 * s * d, 4),
            Pointwise("heads", 4 * s * (d + kv * hd), 4, wide=True),
            Pointwise("activation", (1 + up) * s * ffn, 1, wide=True),
        ),
        exchanges=2,
        exchanged=s * d,
        regathers=2,
    )
    ends = Layer(
        gemms=(Gemm("vocabulary", s, d, m.vocabulary),),
        pointwise=(Pointwise("loss", 2 * s * m.vocabulary, 6, wide=m.fused),),
        exchanges=1,
        exchanged=s * d,
        regathers=1,
    )
    weights = d * (m.heads + 2 * kv) * hd + d * d + (up + 1) * d * ffn + 4 * d
    network = Network("decoder", m.layers, d, m.heads, kv, ffn, weights, m.vocabulary * d * (2 if m.gated else 1))
    return Workload(network, (Bucket(f"{s} tokens", s, layer, ends),), gradient=gradient)
