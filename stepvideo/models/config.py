"""Typed configurations of the networks; torch-free, so that planning and `--help` stay fast.

Defaults are the released models; every field name that a released config.json has is kept.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from math import ceil, gcd
from typing import Any


def _positive(cfg: Any, name: str) -> None:
    value = getattr(cfg, name)
    if value <= 0:
        raise ValueError(f"{name}={value}: give a number above 0")


def _one_of(cfg: Any, name: str, *known: str) -> None:
    if getattr(cfg, name) not in known:
        raise ValueError(f"{name}={getattr(cfg, name)!r}: give one of {', '.join(known)}")


def variant(default: Any) -> Any:
    """A field that the released configs do not have: saved only when it is not at its default."""
    return field(default=default, metadata={"variant": True})


def saved(cfg: Any) -> dict[str, Any]:
    """What a config.json holds of a network's config: all fields but the variants at their defaults."""
    kept = [f.name for f in fields(cfg) if not f.metadata.get("variant") or getattr(cfg, f.name) != f.default]
    return {name: value for name, value in asdict(cfg).items() if name in kept}


@dataclass
class VAEConfig:
    """Video-VAE widths and form. Defaults are the released v2 (8x16x16, report section 4.1); `dual_path=False` is the
    first training stage's 4x8x8 form (section 4.1.4).

    Encoder level l has enc_ch * enc_ch_mult[l] channels, decoder level l dec_ch * dec_ch_mult[l]; the decoder has
    num_res_blocks + 1 blocks a level. `dual_path_ch` is the width between the two dual-path modules: 0 takes what the
    parameter-free shortcuts allow, at most 32 * z_channels (2048 as released).
    `spatial_group_norm=False` normalises over space and time together (the report's ablation).
    `shortcut_path=False` leaves those shortcuts out: the single-path form, 8x16x16 by the convolution path alone (Eq. 2
    without Eq. 3), of the same tensors. `frame_len=0` codes a clip of any length as one causal chunk: T frames are
    ceil(T/8) latents, the report's formula, where the release has 3 for each 17 frames.
    """

    in_channels: int = 3
    z_channels: int = 64
    enc_ch: int = 32
    enc_ch_mult: list[int] = field(default_factory=lambda: [4, 8, 16, 16])
    dec_ch: int = 128
    dec_ch_mult: list[int] = field(default_factory=lambda: [1, 2, 4, 4])
    num_res_blocks: int = 2
    num_groups: int = 32
    dual_path: bool = True
    dual_path_ch: int = 0
    spatial_group_norm: bool = True
    frame_len: int = 17  # frames of a chunk; 0: no chunks
    shortcut_path: bool = variant(True)

    def __post_init__(self) -> None:
        for name in ("in_channels", "z_channels", "enc_ch", "dec_ch", "num_res_blocks", "num_groups"):
            _positive(self, name)
        for name in ("enc_ch_mult", "dec_ch_mult"):
            mult = getattr(self, name)
            if len(mult) != 4 or min(mult) < 1:
                raise ValueError(f"{name}={list(mult)} must be four positive integers (three spatial halvings)")
        for width in sorted({self.enc_ch, *self.enc_widths, *self.dec_widths}):
            if width % self.num_groups:
                raise ValueError(
                    f"num_groups={self.num_groups} does not divide the width {width}; "
                    f"use a divisor of {gcd(self.enc_ch, *self.enc_widths, *self.dec_widths)}"
                )
        if self.frame_len < 0 or (self.frame_len and (self.frame_len - 1) % self.temporal_factor):
            raise ValueError(
                f"frame_len={self.frame_len} must be 1 plus a multiple of {self.temporal_factor} (17 as released), or "
                "0 for no chunks"
            )
        if self.dual_path:
            self._check_dual_path()
        elif not self.shortcut_path:
            raise ValueError("shortcut_path=False: the 4x8x8 form (dual_path=False) has no shortcut; leave it at True")

    def _check_dual_path(self) -> None:
        width, enc, dec = self.dual_path_width, 8 * self.enc_widths[-1], 8 * self.dec_widths[-1]
        if width % (2 * self.z_channels) or width % 8 or enc % width or dec % width:
            raise ValueError(
                f"dual_path_ch={width} must be a multiple of 8 and of 2 * z_channels = {2 * self.z_channels}, and "
                f"divide 8 * the last encoder width = {enc} and 8 * the last decoder width = {dec}; "
                "widen the last levels, lower z_channels, or set dual_path_ch"
            )

    @property
    def enc_widths(self) -> list[int]:
        return [self.enc_ch * m for m in self.enc_ch_mult]

    @property
    def dec_widths(self) -> list[int]:
        return [self.dec_ch * m for m in self.dec_ch_mult]

    @property
    def dual_path_width(self) -> int:
        return self.dual_path_ch or gcd(32 * self.z_channels, 8 * self.enc_widths[-1], 8 * self.dec_widths[-1])

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent along height and width."""
        return 16 if self.dual_path else 8

    @property
    def temporal_factor(self) -> int:
        """Frames per latent inside a chunk, after the first frame, which has a latent of its own."""
        return 8 if self.dual_path else 4

    @property
    def latent_len(self) -> int:
        """Latents per chunk of `frame_len` frames: 3 (8x16x16) or 5 (4x8x8) for 17 frames; 0: no chunks."""
        return (self.frame_len - 1) // self.temporal_factor + 1 if self.frame_len else 0

    def num_latents(self, frames: int) -> int:
        """Latents of a video: `latent_len` a whole chunk and ceil(r/8) (4x8x8: ceil(r/4)) for the r frames after them.

        n latents give 8n - 7 frames back, so a length loses nothing when r % 8 is 1, or r is 0.

        Raises:
            ValueError: a length whose last chunk cannot be coded: 8x16x16 needs an r % 8 of 1 to 4.
        """
        if not self._codable(frames):
            period = self.frame_len or self.temporal_factor
            bad = [r for r in range(period) if not self._codable(r + period)]
            near = [n for n in range(max(1, frames - 4), frames + 5) if self._codable(n)]
            chunks = f"in chunks of {self.frame_len}" if self.frame_len else "as one chunk"
            best = f"a multiple of {self.frame_len}" if self.frame_len else f"{self.temporal_factor}n + 1"
            raise ValueError(
                f"a video of {frames} frames cannot be coded {chunks}: frames % {period} must not be in {bad}; "
                f"nearest valid lengths: {near} ({best} wastes nothing)"
            )
        whole, rest = divmod(frames, self.frame_len) if self.frame_len else (0, frames)
        return whole * self.latent_len + ceil(rest / self.temporal_factor)

    def _codable(self, frames: int) -> bool:
        rest = frames % self.frame_len if self.frame_len else frames
        return frames > 0 and (rest == 0 or not self.dual_path or 1 <= rest % 8 <= 4)


@dataclass
class DiscriminatorConfig:
    """A 3D patch discriminator for the VAE's adversarial loss (report section 4.1.4); the report gives no sizes.

    Level l has ch * ch_mult[l] channels. Every level halves height and width, every level after the first also time.
    """

    in_channels: int = 3
    ch: int = 64
    ch_mult: list[int] = field(default_factory=lambda: [1, 2, 4])
    num_groups: int = 8

    def __post_init__(self) -> None:
        for name in ("in_channels", "ch", "num_groups"):
            _positive(self, name)
        if not self.ch_mult or min(self.ch_mult) < 1:
            raise ValueError(f"ch_mult={list(self.ch_mult)}: give one positive integer for each level")
        for width in self.widths:
            if width % self.num_groups:
                raise ValueError(f"num_groups={self.num_groups} does not divide the discriminator's width {width}")

    @property
    def widths(self) -> list[int]:
        return [self.ch * m for m in self.ch_mult]


@dataclass
class DiTConfig:
    """The released `StepVideoModel` (report §4.3, Table 1); the defaults are the 30B text-to-video model.

    Field names are those of the released `transformer/config.json`. `use_additional_conditions` selects the
    image-to-video form: the input is [noisy latent | condition latent] on channels, and a motion score joins the
    timestep embedding.

    The last three select what the report compares with (§10.1) or prints (Table 1) and did not release.
    `attention="spatial_temporal"`: even blocks attend within a frame, odd ones across frames; same parameters.
    `block="mmdit"`: text and video have weights of their own and meet in one attention; there is no cross-attention.
    """

    num_attention_heads: int = 48
    attention_head_dim: int = 128
    num_layers: int = 48
    in_channels: int = 64  # of the noisy latent; the image-to-video form adds as many of the condition
    out_channels: int = 64
    patch_size: int = 1  # spatial only
    norm_eps: float = 1e-6  # of the output norm, the caption norm and the QK norm; the block norms have 1e-5
    caption_channels: list[int] = field(default_factory=lambda: [6144, 1024])  # [Step-LLM] or [Step-LLM, CLIP]
    use_additional_conditions: bool = False
    attention: str = variant("full")  # full | spatial_temporal
    block: str = variant("cross")  # cross | mmdit
    block_norm: str = variant("layer_norm")  # layer_norm | rms_norm

    def __post_init__(self) -> None:
        for name in ("num_attention_heads", "num_layers", "in_channels", "out_channels", "patch_size"):
            _positive(self, name)
        if self.attention_head_dim <= 0 or self.attention_head_dim % 8:
            raise ValueError(
                f"attention_head_dim={self.attention_head_dim}: RoPE-3D splits it in d/2, d/4, d/4, each rotated by "
                "halves; use a multiple of 8"
            )
        if len(self.caption_channels) not in (1, 2) or min(self.caption_channels) <= 0:
            raise ValueError(
                f"caption_channels={self.caption_channels}: give [Step-LLM width] or [Step-LLM width, CLIP width]"
            )
        _one_of(self, "attention", "full", "spatial_temporal")
        _one_of(self, "block", "cross", "mmdit")
        _one_of(self, "block_norm", "layer_norm", "rms_norm")
        if self.attention == "spatial_temporal" and (self.num_layers % 2 or self.block == "mmdit"):
            raise ValueError(
                f"attention='spatial_temporal' alternates two kinds of cross blocks; num_layers={self.num_layers} and "
                f"block={self.block!r} do not fit: give an even number of layers and block='cross'"
            )

    @property
    def inner_dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def patch_channels(self) -> int:
        """Channels that enter the patch embedding."""
        return self.in_channels * (2 if self.use_additional_conditions else 1)

    @property
    def rope_split(self) -> list[int]:
        """Channels of one head rotated by (time, height, width); [64, 32, 32] at the released head dimension 128."""
        d = self.attention_head_dim
        return [d // 2, d // 4, d // 4]


@dataclass
class StepLLMConfig:
    """The released `Step1Model` text encoder (report §4.2); the defaults are the 19.6B release."""

    hidden_size: int = 6144
    num_layers: int = 48
    num_attention_heads: int = 48
    num_attention_groups: int = 8  # key/value heads
    ffn_hidden_size: int = 16896  # rounded up to a multiple of 256
    layernorm_epsilon: float = 1e-5
    padded_vocab_size: int = 65536

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_layers", "num_attention_heads", "num_attention_groups", "ffn_hidden_size"):
            _positive(self, name)
        _positive(self, "padded_vocab_size")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of num_attention_heads={self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_attention_groups:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} must be a multiple of "
                f"num_attention_groups={self.num_attention_groups}"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def ffn_dim(self) -> int:
        """Width of the SwiGLU, as the released code rounds it."""
        return -(-self.ffn_hidden_size // 256) * 256


@dataclass
class CLIPTextConfig:
    """A BERT encoder as in Hunyuan-CLIP (report §4.2); the defaults are the released text tower.

    Field names are those of a `BertConfig`. `projection_dim` 0 means no contrastive head.
    """

    vocab_size: int = 47020
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    projection_dim: int = 0

    def __post_init__(self) -> None:
        names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        for name in (*names, "max_position_embeddings", "type_vocab_size"):
            _positive(self, name)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of num_attention_heads={self.num_attention_heads}"
            )


@dataclass
class CLIPImageConfig:
    """A small convolutional image tower, trained against the text tower's head; the release has nothing like it."""

    in_channels: int = 3
    widths: list[int] = field(default_factory=lambda: [32, 64, 128, 128])  # one a stage; each halves the resolution
    blocks: int = 1  # residual blocks a stage
    frames: int = 1  # of a clip that are seen together; from two on, a text's motion words have something to match
    projection_dim: int = 64

    def __post_init__(self) -> None:
        for name in ("in_channels", "blocks", "frames", "projection_dim"):
            _positive(self, name)
        if not self.widths or any(w <= 0 or w % 8 for w in self.widths):
            raise ValueError(
                f"widths={self.widths}: give one multiple of 8 for each stage (GroupNorm uses groups of 8 channels)"
            )
