"""Parameters and forward memory of the text encoders in closed form; torch-free. Checked against the real modules."""

from __future__ import annotations

from stepvideo.emulator.ledger import Ledger
from stepvideo.models.config import CLIPTextConfig, StepLLMConfig


def step_llm_parameters(cfg: StepLLMConfig) -> int:
    d, kv = cfg.hidden_size, 2 * cfg.num_attention_groups * cfg.head_dim
    layer = d * (d + kv) + d * d + 3 * d * cfg.ffn_dim + 2 * d
    return cfg.num_layers * layer + cfg.padded_vocab_size * d


def clip_parameters(cfg: CLIPTextConfig) -> int:
    """Without a contrastive head."""
    d, f = cfg.hidden_size, cfg.intermediate_size
    layer = 4 * d * (d + 1) + d * f + f + f * d + d + 4 * d
    embeddings = cfg.vocab_size + cfg.max_position_embeddings + cfg.type_vocab_size + 2
    return cfg.num_hidden_layers * layer + embeddings * d


def step_llm_forward(m: Ledger, cfg: StepLLMConfig, batch: int, length: int, e: int) -> None:
    """Token ids [batch, length] to hidden states; the position bias stays cached."""
    n, f = batch * length * cfg.hidden_size, batch * length * cfg.ffn_dim
    logits = cfg.num_attention_heads * length * length
    with m.hold(2 * n * e, "embeddings and layer input"):
        m.touch(logits * (8 + e), "position bias in fp32")
        with m.hold(logits * e, "position bias"):
            m.touch(8 * n, "norm in fp32")
            with m.hold(n * e, "attention norm"):
                m.touch(6 * n * e, "attention")
            with m.hold(2 * n * e, "residual, feed-forward norm"):
                m.touch(4 * f * e, "SwiGLU")


def clip_forward(m: Ledger, cfg: CLIPTextConfig, batch: int, length: int, e: int) -> None:
    """Token ids [batch, length] to hidden states."""
    n, f = batch * length * cfg.hidden_size, batch * length * cfg.intermediate_size
    with m.hold(2 * n * e, "embeddings and layer input"), m.hold(3 * n * e, "q, k, v"):
        m.touch(3 * n * e, "attention")
        with m.hold(n * e, "attention output"):
            m.touch(2 * f * e, "feed-forward")
