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


@dataclass(frozen=True)
class DiTCost:
    """Cost of a micro-batch with `latents` [B, f, z, h, w] and the DiT's text arguments.

    passes: forwards that a sample costs: 3 when trained, 4 with a fixed reference beside it. A batch of pairs has two
    samples a row: twice as many.
    """

    cfg: DiTConfig
    passes: float = TRAINED
    latents: str = "x1"

    def shape(self, batch: Batch) -> tuple[int, int, int, int, int, int]:
        """Samples; latent frames, height and width; tokens of a prompt, and of them CLIP's."""
        b, f, _, h, w = batch[self.latents].shape
        clip = batch["encoder_hidden_states_2"].shape[1] if len(self.cfg.caption_channels) == 2 else 0
        return b, f, h, w, batch["encoder_hidden_states"].shape[1] + clip, clip

    def __call__(self, batch: Batch) -> Cost:
        b, f, h, w, text, clip = self.shape(batch)
        tokens = b * video_tokens(self.cfg, f, h, w)
        return Cost(b, tokens, b * self.passes * flops(self.cfg, f, h, w, text, clip))


def samples_only(batch: Batch) -> Cost:
    """Where no operations are counted."""
    return Cost(len(batch["ids"]))


def of_each(cost: CostOf, micro: Iterable[Batch]) -> list[Cost]:
    """Of every micro-batch; those of share 0 only keep the ranks in step, and cost nothing that counts."""
    return [cost(part) if part["share"] else Cost() for part in micro]
