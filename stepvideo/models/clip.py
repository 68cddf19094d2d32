"""CLIP: the bidirectional text encoder (report §4.2, Hunyuan-CLIP = BERT) and a small image tower to train it against.

Legend: b batch, l text tokens, n heads, c channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepvideo.models.attention import attention, key_bias
from stepvideo.models.config import CLIPImageConfig, CLIPTextConfig


class Embeddings(nn.Module):
    """Word + position + token type 0, then LayerNorm."""

    def __init__(self, cfg: CLIPTextConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(cfg.vocab_size, cfg.hidden_size)
        self.position_embeddings = nn.Embedding(cfg.max_position_embeddings, cfg.hidden_size)
        self.token_type_embeddings = nn.Embedding(cfg.type_vocab_size, cfg.hidden_size)
        self.LayerNorm = nn.LayerNorm(cfg.hidden_size, eps=cfg.layer_norm_eps)

    def forward(self, ids_bl: Tensor) -> Tensor:
        positions = self.position_embeddings.weight[: ids_bl.shape[1]]
        return self.LayerNorm(self.word_embeddings(ids_bl) + positions + self.token_type_embeddings.weight[0])


class Projections(nn.Module):
    """The three input matrices of an attention, under BERT's names."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)


class Output(nn.Module):
    """Linear, add the residual, LayerNorm."""

    def __init__(self, dim_in: int, dim: int, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(dim_in, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=eps)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x) + residual)


class Layer(nn.Module):
    """A post-norm BERT layer."""

    def __init__(self, cfg: CLIPTextConfig) -> None:
        super().__init__()
        d, eps = cfg.hidden_size, cfg.layer_norm_eps
        self.heads = cfg.num_attention_heads
        self.attention = nn.ModuleDict({"self": Projections(d), "output": Output(d, d, eps)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(d, cfg.intermediate_size)})
        self.output = Output(cfg.intermediate_size, d, eps)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        p = self.attention["self"]
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (p.query, p.key, p.value))
        x = self.attention["output"](attention(q, k, v, bias), x)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class Layers(nn.Module):
    """BERT's `encoder`."""

    def __init__(self, cfg: CLIPTextConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(cfg) for _ in range(cfg.num_hidden_layers))

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        for layer in self.layer:
            x = layer(x, bias)
        return x


class Bert(nn.Module):
    """Token ids [b, l] → last hidden state [b, l, hidden]."""

    def __init__(self, cfg: CLIPTextConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(cfg)
        self.encoder = Layers(cfg)

    def forward(self, ids_bl: Tensor, mask_bl: Tensor | None) -> Tensor:
        return self.encoder(self.embeddings(ids_bl), key_bias(mask_bl))


class CLIPTextEncoder(nn.Module):
    """BERT under `bert.*`, and, when `projection_dim` > 0, the contrastive head (`text_projection`, `logit_scale`)."""

    def __init__(self, cfg: CLIPTextConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.bert = Bert(cfg)
        if cfg.projection_dim:
            self.text_projection = nn.Parameter(torch.empty(cfg.hidden_size, cfg.projection_dim))
            self.logit_scale = nn.Parameter(torch.empty(()))
            self._init_head(None)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Last hidden state [b, l, hidden]; `attention_mask` [b, l] is 1 on real tokens."""
        return self.bert(input_ids, attention_mask)

    def embed(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Unit vectors [b, projection_dim] of whole texts, from their [CLS] token."""
        return F.normalize(self(input_ids, attention_mask)[:, 0] @ self.text_projection, dim=-1)

    @torch.no_grad()
    def _init_head(self, generator: torch.Generator | None) -> None:
        self.text_projection.normal_(0.0, self.cfg.hidden_size**-0.5, generator=generator)
        self.logit_scale.fill_(math.log(1 / 0.07))

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """BERT's normal(0, 0.02) for embeddings, fan-in scaled for matrices, zero biases, unit norms."""
        for name, p in self.bert.named_parameters():
            if p.ndim == 1:
                p.fill_(1.0 if name.endswith("LayerNorm.weight") else 0.0)
            else:
                p.normal_(0.0, 0.02 if "embeddings" in name else p.shape[1] ** -0.5, generator=generator)
        if self.cfg.projection_dim:
            self._init_head(generator)


class ConvBlock(nn.Module):
    """GroupNorm, SiLU, 3×3 convolution, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(channels // 8, channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(F.silu(self.norm(x)))


class CLIPImageEncoder(nn.Module):
    """Clips [b, frames, 3, h, w] in [−1, 1] → unit vectors beside those of the text.

    Each frame passes the stages alone (they serve as perceptual features); one convolution then compares the frames'
    last maps, so that texts can be told apart by motion too.
    """

    def __init__(self, cfg: CLIPImageConfig) -> None:
        super().__init__()
        self.cfg = cfg
        widths = [cfg.in_channels, *cfg.widths]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), *(ConvBlock(b) for _ in range(cfg.blocks)))
            for a, b in zip(widths, widths[1:])
        )
        if cfg.frames > 1:
            self.motion = nn.Conv2d(cfg.frames * widths[-1], widths[-1], 3, padding=1)
        self.norm = nn.GroupNorm(widths[-1] // 8, widths[-1])
        self.visual_projection = nn.Linear(2 * widths[-1], cfg.projection_dim, bias=False)

    def features(self, x: Tensor) -> list[Tensor]:
        """Frames [b, 3, h, w] → one map a stage: [b, widths[i], h / 2^(i+1), w / 2^(i+1)]."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Unit vectors [b, projection_dim]; mean and maximum over space, so that small objects count.

        Raises:
            ValueError: another number of frames than the configuration has.
        """
        if x.ndim != 5 or x.shape[1] != self.cfg.frames:
            raise ValueError(f"clips {list(x.shape)}: expected [b, {self.cfg.frames}, {self.cfg.in_channels}, h, w]")
        maps = self.features(x.flatten(0, 1))[-1].unflatten(0, x.shape[:2]).flatten(1, 2)
        if self.cfg.frames > 1:
            maps = self.motion(maps)
        top = F.silu(self.norm(maps)).flatten(2)
        return F.normalize(self.visual_projection(torch.cat([top.mean(-1), top.amax(-1)], dim=-1)), dim=-1)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Fan-in scaled normals, zero biases, unit norms."""
        for name, p in self.named_parameters():
            if p.ndim == 1:
                p.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
            else:
                p.normal_(0.0, p.shape[1:].numel() ** -0.5, generator=generator)


def contrastive_loss(image_be: Tensor, text_be: Tensor, logit_scale: Tensor, same_text: Tensor | None = None) -> Tensor:
    """Symmetric cross-entropy over all pairs of a batch of unit vectors (CLIP).

    Args:
        logit_scale: log of the inverse temperature, held at ln 100 or below.
        same_text: [b, b] bool, True where two samples have equal captions: those pairs are no negatives.
    """
    logits = logit_scale.clamp(max=math.log(100)).exp() * image_be.float() @ text_be.float().T
    if same_text is not None:
        others = same_text & ~torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(others, float("-inf"))
    target = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def perceptual_distance(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Mean over maps of the squared difference of channel-normalised features, per sample [b] (LPIPS without its
    weights)."""
    return torch.stack(
        [(F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(1).flatten(1).mean(1) for x, y in zip(a, b)]
    ).mean(0)
