"""What a micro-batch costs, from its shapes: samples, tokens and operations. Torch-free.

Legend: B samples, f latent frames, z channels, h w latent sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from stepvideo.data.source import Batch
from stepvideo.emulator.flops import flops, video_tokens
from stepvideo.models.config import DiTConfig

TRAINED = 3  # forward, and twice as much backward; what is recomputed is not credited


@dataclass(frozen=True)
class Cost:
    samples: float = 0
    tokens: float = 0  # of video
    flops: float = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.samples + other.samples, self.tokens + other.tokens, self.flops + other.flops)


CostOf = Callable[[Batch], Cost]


def dit_cost(cfg: DiTConfig, passes: float = TRAINED, latents: str = "x1") -> CostOf:
    """Cost of a micro-batch with `latents` [B, f, z, h, w] and the DiT's text arguments.

    Args:
        passes: forwards that a sample costs: 3 when trained, 4 with a fixed reference beside it. A batch of pairs has
            two samples a row: twice as many.
    """

    def cost(batch: Batch) -> Cost:
        b, f, _, h, w = batch[latents].shape
        clip = batch["encoder_hidden_states_2"].shape[1] if len(cfg.caption_channels) == 2 else 0
        text = batch["encoder_hidden_states"].shape[1] + clip
        return Cost(b, b * video_tokens(cfg, f, h, w), b * passes * flops(cfg, f, h, w, text, clip))

    return cost


def samples_only(batch: Batch) -> Cost:
    """Where no operations are counted."""
    return Cost(len(batch["ids"]))


def total(cost: CostOf, micro: Iterable[Batch]) -> Cost:
    """Of what counts: a micro-batch of share 0 only keeps the ranks in step."""
    return sum((cost(part) for part in micro if part["share"]), Cost())
