"""Parameters and forward memory of the DiT in closed form; torch-free. Checked against the real module in tests.

Legend: n elements of one activation (batch · tokens · width), e bytes of an element.
"""

from __future__ import annotations

from dataclasses import dataclass

from stepvideo.emulator.flops import video_tokens
from stepvideo.emulator.ledger import Ledger
from stepvideo.models.config import DiTConfig

IN_PLACE_ELEMENTS = 2**26  # of stepvideo.models.qk_norm


@dataclass(frozen=True)
class DiTParameters:
    """Numbers of parameters: of one block, the matrices in it (what quantization shrinks), and all outside blocks."""

    block: int
    block_matrices: int
    matrix_rows: int  # output features of a block's matrices together: one quantization scale each
    largest_matrix: int
    outside: int
    layers: int
    missing: int = 0  # what the last block lacks

    @property
    def total(self) -> int:
        return self.layers * self.block + self.outside - self.missing


def dit_parameters(cfg: DiTConfig) -> DiTParameters:
    d, hd, p2 = cfg.inner_dim, cfg.attention_head_dim, cfg.patch_size**2
    embedders = 2 if cfg.use_additional_conditions else 1
    outside = 2 * d + (cfg.patch_channels * p2 + 1) * d + p2 * cfg.out_channels * (d + 1)
    outside += embedders * (257 * d + (d + 1) * d) + 6 * d * (d + 1)
    outside += (cfg.caption_channels[0] + 1) * d + (d + 1) * d
    if len(cfg.caption_channels) == 2:
        outside += (cfg.caption_channels[1] + 1) * d
    norm = d if cfg.block_norm == "rms_norm" else 2 * d
    around = 6 * d + 2 * norm + 2 * hd  # modulation, norms, the QK-norms of one attention
    if cfg.block == "mmdit":
        stream = 12 * d * d + around
        unread = 2 * d * d + 2 * d + norm + hd
        return DiTParameters(2 * stream, 24 * d * d, 18 * d, 4 * d * d, outside, cfg.num_layers, stream - unread)
    return DiTParameters(16 * d * d + around + 2 * hd, 16 * d * d, 13 * d, 4 * d * d, outside, cfg.num_layers)


def dit_forward(
    m: Ledger, cfg: DiTConfig, batch: int, latent: tuple[int, int, int], text: int, clip: int, e: int, matrix: int = 0
) -> None:
    """One evaluation of `DiT.forward` without its weights and inputs.

    Args:
        batch: samples of the call; guidance in one batch doubles it.
        latent: frames, height, width of the latent video.
        text, clip: tokens of Step-LLM and of CLIP.
        e: bytes of the weights' and activations' elements.
        matrix: bytes of a feed-forward matrix while it multiplies, if weights are kept in another form.
    """
    s, d, hd = video_tokens(cfg, *latent), cfg.inner_dim, cfg.attention_head_dim
    n, condition = batch * s * d, batch * (text + clip) * d
    points = batch * s * cfg.patch_size**2
    with m.hold(n * e, "patch embedding"):
        text_in = batch * text * cfg.caption_channels[0] * e
        m.touch(text_in + 3 * batch * text * d * e, "caption projection")
        with m.hold((condition + 8 * batch * d) * e, "text and modulation"):
            m.touch(s * hd * 36, "RoPE tables in fp64")
            with m.hold(s * hd * 8, "RoPE tables"):
                if cfg.block == "mmdit":
                    _joint_block(m, n, condition, cfg, e, matrix)
                else:
                    _block(m, n, batch, cfg, condition, e, matrix)
        with m.hold(n * e, "last norm"), m.hold(n * e, "last modulation"):
            m.touch(2 * points * cfg.out_channels * e, "output projection")


def _block(m: Ledger, n: int, batch: int, cfg: DiTConfig, condition: int, e: int, matrix: int) -> None:
    """The caller holds the block's input; the sum after each branch is a new tensor."""
    d = cfg.inner_dim
    m.add(6 * batch * d * e, "modulation")
    with m.hold(n * e, "norm1"):  # after modulation; the norm itself is freed
        m.touch(n * e, "norm1")
        with m.hold(3 * n * e, "self-attention q, k, v"):
            _qk_norm(m, 2 * n, cfg)
            with m.hold(n * e, "self-attention"):
                m.touch(n * e, "self-attention output")
        m.add(n * e, "self-attention output")
        m.add(n * e, "residual")
        m.free(n * e)
    with m.hold(n * e, "cross-attention q"), m.hold(2 * condition * e, "cross-attention k, v"):
        _qk_norm(m, max(n, condition), cfg, copies=2)
        with m.hold(n * e, "cross-attention"):
            m.touch(n * e, "cross-attention output")
    with m.hold(n * e, "cross-attention output"):
        m.touch(n * e, "residual")
    _feed_forward(m, n, e, matrix)
    m.free(n * e + 6 * batch * d * e)


def _joint_block(m: Ledger, n: int, condition: int, cfg: DiTConfig, e: int, matrix: int) -> None:
    """MMDiT: queries, keys and values of both streams live to the end of the block."""
    both = n + condition
    with m.hold(3 * both * e, "q, k, v"):
        _qk_norm(m, 2 * n, cfg)
        with m.hold(both * e, "attention"):
            m.touch(3 * both * e, "joined q, k, v")
            with m.hold(n * e, "residual"):
                _feed_forward(m, n, e, matrix)
            with m.hold(both * e, "residuals"):
                _feed_forward(m, condition, e, matrix)


def _feed_forward(m: Ledger, n: int, e: int, matrix: int) -> None:
    with m.hold(n * e, "norm2"):
        m.touch(n * e, "norm2")
        with m.hold(4 * n * e, "feed-forward hidden"):
            m.touch(matrix, "feed-forward matrix")
            m.touch(4 * n * e, "feed-forward GELU")
        with m.hold(4 * n * e, "feed-forward GELU"):
            m.touch(n * e + matrix, "feed-forward output")
        m.touch(2 * n * e, "residual")


def _qk_norm(m: Ledger, n: int, cfg: DiTConfig, copies: int = 4) -> None:
    """In place, a few heads at a time: fp32 copies of those, four with rotation and two without."""
    head = n // cfg.num_attention_heads
    heads = min(cfg.num_attention_heads, max(1, IN_PLACE_ELEMENTS // head))
    m.touch(4 * copies * heads * head, "QK-norm in fp32")
