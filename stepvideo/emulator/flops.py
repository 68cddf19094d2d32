"""Arithmetic cost of the DiT in closed form; torch-free. A multiply-add counts as two operations."""

from __future__ import annotations

from stepvideo.models.config import DiTConfig


def video_tokens(cfg: DiTConfig, frames: int, height: int, width: int) -> int:
    """Tokens of a latent video of `frames` × `height` × `width` latent positions."""
    return frames * (height // cfg.patch_size) * (width // cfg.patch_size)


def block_flops(cfg: DiTConfig, frames: int, height: int, width: int, text_len: int) -> int:
    """Forward operations of all blocks for one sample: matrix products and full attention (report, Table 3).

    Per layer, with S video tokens, T text tokens, width d:
    28·S·d² (self q, k, v, o; cross q, o; feed-forward) + 4·T·d² (cross k, v) + 4·S²·d + 4·S·T·d (the two attentions).
    Spatial-temporal attention over F frames: S² becomes the mean of S·S/F and S·F. MMDiT: 24·(S + T)·d² + 4·(S + T)²·d,
    but the last layer's text has keys and values only.
    """
    s, t, d, layers = video_tokens(cfg, frames, height, width), text_len, cfg.inner_dim, cfg.num_layers
    if cfg.block == "mmdit":
        return layers * (24 * (s + t) * d * d + 4 * (s + t) ** 2 * d) - 20 * t * d * d - 4 * t * (s + t) * d
    seen = layers * s if cfg.attention == "full" else layers // 2 * (s // frames + frames)
    return layers * (28 * s * d * d + 4 * t * d * d + 4 * s * t * d) + 4 * seen * s * d


def flops(cfg: DiTConfig, frames: int, height: int, width: int, text_len: int, clip_len: int = 0) -> int:
    """Forward operations of the whole network for one sample; training costs three times as much (`training_flops`).

    Args:
        frames, height, width: latent size.
        text_len: all text tokens, of which `clip_len` come from CLIP (only when `caption_channels` has two entries).
    """
    s, d, p2 = video_tokens(cfg, frames, height, width), cfg.inner_dim, cfg.patch_size**2
    ends = 2 * s * d * p2 * (cfg.patch_channels + cfg.out_channels)
    text = 2 * (text_len - clip_len) * (cfg.caption_channels[0] * d + d * d)
    text += 2 * clip_len * cfg.caption_channels[-1] * d
    embedders = 2 if cfg.use_additional_conditions else 1
    time = 2 * (embedders * (256 * d + d * d) + 6 * d * d)
    return block_flops(cfg, frames, height, width, text_len) + ends + text + time


def training_flops(cfg: DiTConfig, frames: int, height: int, width: int, text_len: int, clip_len: int = 0) -> int:
    """Forward and backward operations of the whole network for one sample, without recomputation: what MFU counts.

    Three times the forward, less the gradients of the network's inputs, which nobody asks for. Arguments as of `flops`.
    """
    s, d = video_tokens(cfg, frames, height, width), cfg.inner_dim
    inputs = s * cfg.patch_size**2 * cfg.patch_channels + (text_len - clip_len) * cfg.caption_channels[0]
    inputs += clip_len * cfg.caption_channels[-1] + 256 * (2 if cfg.use_additional_conditions else 1)
    return 3 * flops(cfg, frames, height, width, text_len, clip_len) - 2 * inputs * d
