"""Cross-attention of a generation, measured while it runs: hooks compute the weights anew from what a layer is given.

The forward itself is untouched and its fused kernels stay. What is kept does not grow with the number of queries: of
every step and layer one number a token, and maps of words averaged over layers and heads for each third of the steps.

Legend: b batch, h heads, e head width, s video tokens, l text tokens, w words and groups, n steps, k layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from stepvideo.diffusion.guidance import VelocityFn
from stepvideo.diffusion.pipeline import Pipeline, Samples
from stepvideo.diffusion.sampling import Sampling
from stepvideo.errors import StepVideoError
from stepvideo.models.dit import DiT
from stepvideo.models.dit_blocks import QK_EPS, CrossAttention
from stepvideo.models.qk_norm import qk_norm

PHASES = 3  # maps are kept for so many parts of the sampling: early, middle, late
CHUNK = 2**24  # logits held at a time


@dataclass
class Attention:
    """Weights of the first sample, with its prompt; means over heads and video tokens unless said otherwise.

    Attributes:
        times: [n] of the steps; 0 is noise, 1 is data.
        shares: [n, k, l], each [n, k] sums to 1.
        entropy: [n, k] in nats; mean of the entropies of every head's and video token's weights.
        maps: [phases, f, h, w', w]: words' weights at each place of the latent video, mean over steps, layers, heads.
    """

    times: Tensor
    shares: Tensor
    entropy: Tensor
    maps: Tensor


def weights(attn: CrossAttention, x_bsd: Tensor, text_bld: Tensor, bias: Tensor | None) -> Iterator[Tensor]:
    """The softmax weights [h, part of s, l] of sample 0, a part of the queries at a time.

    Queries, keys and norms are the layer's own; logits and softmax are in fp32.
    """
    q = attn.wq(x_bsd[:1]).unflatten(-1, (1, -1, attn.head_dim)).permute(2, 0, 3, 1, 4)
    kv = attn.wkv(text_bld[:1]).unflatten(-1, (-1, 2, attn.head_dim)).permute(3, 0, 2, 1, 4)
    q = qk_norm(q, attn.q_norm.weight[None], QK_EPS)[0, 0]
    k = qk_norm(kv[:1], attn.k_norm.weight[None], QK_EPS)[0, 0].float()
    part = max(1, CHUNK // (k.shape[0] * k.shape[1]))
    with torch.autocast(q.device.type, enabled=False):
        for some in q.split(part, dim=1):
            logits = some.float() @ k.transpose(1, 2) * attn.head_dim**-0.5
            if bias is not None:
                allowed = bias[0].expand_as(logits)
                logits = logits.masked_fill(~allowed, float("-inf")) if bias.dtype == torch.bool else logits + allowed
            yield logits.softmax(-1)


class Recorder:
    """Collects over a generation. Evaluations without the prompt are not counted.

    Args:
        merge: [l, w] of `words.merge`; tokens beyond its rows are padding that is masked.
        steps: of the sampling.
    """

    def __init__(self, merge_lw: Tensor, steps: int) -> None:
        self.merge, self.steps = merge_lw, steps
        self.times: list[float] = []
        self.layers = 0
        self.listening = False
        self.shares: dict[tuple[int, int], Tensor] = {}
        self.entropy: dict[tuple[int, int], float] = {}
        self.maps: list[Tensor | None] = [None] * PHASES
        self.added = [0] * PHASES

    def watch(self, velocity: VelocityFn) -> VelocityFn:
        """The velocity; of several evaluations of one step, the first has the prompt, as its first samples."""

        def call(**arguments: Any) -> Tensor:
            t = float(arguments["timestep"][0])
            self.listening = not self.times or t != self.times[-1]
            if self.listening:
                self.times.append(t)
            return velocity(**arguments)

        return call

    @contextmanager
    def hooked(self, dit: DiT) -> Iterator[None]:
        """Hooks on every cross-attention for the time of a `with`.

        Raises:
            StepVideoError: the DiT has none (MMDiT).
        """
        layers = [m for m in dit.modules() if isinstance(m, CrossAttention)]
        if not layers:
            raise StepVideoError("this DiT has no cross-attention (MMDiT: video and text share one attention)")
        self.layers = len(layers)
        handles = [m.register_forward_pre_hook(self._hook(i)) for i, m in enumerate(layers)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, layer: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            if self.listening:
                assert isinstance(module, CrossAttention)
                self._add(layer, module, *args)

        return hook

    @torch.no_grad()
    def _add(self, layer: int, attn: CrossAttention, x: Tensor, text: Tensor, bias: Tensor | None) -> None:
        step, length = len(self.times) - 1, text.shape[1]
        phase = min(PHASES - 1, step * PHASES // self.steps)
        merge = self.merge[:length].to(x.device)
        known = len(merge)
        total, entropy, maps = torch.zeros(length, device=x.device), 0.0, []
        for p in weights(attn, x, text, bias):
            entropy += float(torch.special.entr(p).sum() / (p.shape[0] * x.shape[1]))
            mean = p.mean(0)
            total += mean.sum(0)
            maps.append((mean[:, :known] @ merge).cpu())
        self.shares[step, layer] = (total / x.shape[1])[:known].cpu()
        self.entropy[step, layer] = entropy
        held = self.maps[phase]
        self.maps[phase] = torch.cat(maps) if held is None else held.add_(torch.cat(maps))
        self.added[phase] += 1

    def result(self, grid: tuple[int, int, int]) -> Attention:
        """What was collected; `grid` is the video tokens' (f, h, w)."""
        n, k = len(self.times), self.layers
        maps = [m / c for m, c in zip(self.maps, self.added) if m is not None]
        return Attention(
            torch.tensor(self.times),
            torch.stack([torch.stack([self.shares[i, j] for j in range(k)]) for i in range(n)]),
            torch.tensor([[self.entropy[i, j] for j in range(k)] for i in range(n)]),
            torch.stack(maps).unflatten(1, grid),
        )


def record(
    engine: Pipeline, prompt: str, merge_lw: Tensor, settings: Sampling, **options: Any
) -> tuple[Attention, Samples]:
    """Generate one video and watch its cross-attention; the video is the one that `engine.sample` gives without it.

    Args:
        merge_lw: of `words.merge`, for this prompt.
        options: more of `Pipeline.sample`.

    Raises:
        StepVideoError: a DiT without cross-attention, or what `Pipeline.sample` raises.
    """
    recorder = Recorder(merge_lw, settings.steps)
    inner = engine.velocity
    watched = replace(engine, velocity=lambda dit: recorder.watch(inner(dit)))
    f, _, h, w = engine.latent_shape(settings)
    with engine.dit.use() as dit, recorder.hooked(dit):
        done = watched.sample([prompt], batch_size=1, settings=settings, **options)
    patch = engine.dit.cfg.patch_size
    return recorder.result((f, h // patch, w // patch)), done
