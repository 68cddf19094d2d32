"""Step-LLM: the causal text encoder (report §4.2) with the released parameter names.

Its position signal is an ALiBi with the square root of the distance. Right padding needs no mask: no token sees a
later one.

Legend: b batch, s tokens, n heads, g key/value groups, d head dimension.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepvideo.models.attention import attention
from stepvideo.models.config import StepLLMConfig
from stepvideo.models.layers import RMSNorm


def alibi_slopes(heads: int) -> list[float]:
    """ALiBi slopes for any number of heads (Press et al., 2022): 2^(-8k/m), then every other one of the series for
    2m."""
    m = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * k / m) for k in range(1, m + 1)]
    return slopes + [2 ** (-4 * j / m) for j in range(1, 2 * (heads - m), 2)]


@lru_cache(maxsize=16)
def sqrt_alibi(heads: int, length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[heads, length, length]: −slope·sqrt(i − j) for j <= i, −inf for the future."""
    with torch.inference_mode(False):  # a bias made in inference mode could not be used in training later
        i = torch.arange(length, dtype=torch.float32, device=device)
        distance = (i[:, None] - i).clamp_min(0).sqrt()
        slopes = torch.tensor(alibi_slopes(heads), dtype=torch.float32, device=device)
        future = torch.ones(length, length, dtype=torch.bool, device=device).triu(1)
        return (-slopes[:, None, None] * distance).masked_fill(future, float("-inf")).to(dtype)


class GroupedAttention(nn.Module):
    """Causal attention with grouped keys and values; the fused projection is [all q | (k | v) of each group]."""

    def __init__(self, cfg: StepLLMConfig) -> None:
        super().__init__()
        self.heads, self.groups, self.head_dim = cfg.num_attention_heads, cfg.num_attention_groups, cfg.head_dim
        self.wqkv = nn.Linear(cfg.hidden_size, cfg.hidden_size + 2 * self.groups * self.head_dim, bias=False)
        self.wo = nn.Linear(cfg.hidden_size, cfg.hidden_size, bias=False)

    def forward(self, x_bsh: Tensor) -> Tensor:
        q, kv = self.wqkv(x_bsh).split([self.heads * self.head_dim, 2 * self.groups * self.head_dim], dim=-1)
        k, v = kv.unflatten(-1, (self.groups, 2, -1)).permute(3, 0, 2, 1, 4)
        q = q.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        bias = sqrt_alibi(self.heads, x_bsh.shape[1], x_bsh.device, q.dtype)
        return self.wo(attention(q, k, v, bias))


class SwiGLU(nn.Module):
    """silu(gate)·up, gate and up fused in `w1`."""

    def __init__(self, cfg: StepLLMConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(cfg.hidden_size, 2 * cfg.ffn_dim, bias=False)
        self.w2 = nn.Linear(cfg.ffn_dim, cfg.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.w1(x).chunk(2, dim=-1)
        return self.w2(F.silu(gate) * up)


class Layer(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, cfg: StepLLMConfig) -> None:
        super().__init__()
        self.attention = GroupedAttention(cfg)
        self.feed_forward = SwiGLU(cfg)
        self.attention_norm = RMSNorm(cfg.hidden_size, cfg.layernorm_epsilon)
        self.ffn_norm = RMSNorm(cfg.hidden_size, cfg.layernorm_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.ffn_norm(x))


class Layers(nn.Module):
    """The released `transformer`."""

    def __init__(self, cfg: StepLLMConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(cfg) for _ in range(cfg.num_layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class StepLLM(nn.Module):
    """Token ids [b, s] → hidden states [b, s, hidden] of the last layer; no final norm, no output head, as released."""

    def __init__(self, cfg: StepLLMConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.tok_embeddings = nn.ModuleDict({"word_embeddings": nn.Embedding(cfg.padded_vocab_size, cfg.hidden_size)})
        self.transformer = Layers(cfg)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.transformer(self.tok_embeddings["word_embeddings"](input_ids))

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Fan-in scaled normals; the last matrix of each branch is smaller by 1/sqrt(2·layers); embeddings have unit
        length."""
        for name, p in self.named_parameters():
            if p.ndim == 1:
                p.fill_(1.0)
            else:
                depth = 2 * self.cfg.num_layers if name.endswith(("wo.weight", "w2.weight")) else 1
                p.normal_(0.0, (p.shape[1] * depth) ** -0.5, generator=generator)


def lm_logits(model: StepLLM, hidden: Tensor) -> Tensor:
    """Next-token logits [b, s, vocab] from the hidden states, for training only.

    The embeddings serve as output matrix and the norm before them has no parameter, so that the checkpoint keeps the
    released key list.
    """
    normed = F.rms_norm(hidden.float(), hidden.shape[-1:], eps=model.cfg.layernorm_epsilon)
    return F.linear(normed, model.tok_embeddings["word_embeddings"].weight)


def next_token_loss(model: StepLLM, input_ids: Tensor, mask: Tensor) -> Tensor:
    """Mean cross-entropy of token i + 1 given tokens 0…i; `mask` [b, s] is 1 on real tokens (BOS and EOS included)."""
    logits = lm_logits(model, model(input_ids)[:, :-1])
    loss = F.cross_entropy(logits.float().flatten(0, 1), input_ids[:, 1:].flatten(), reduction="none")
    weight = mask[:, 1:].flatten().to(loss.dtype)
    return (loss * weight).sum() / weight.sum()
