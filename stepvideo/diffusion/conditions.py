"""What a video is generated from, beside noise: features of texts, and the first frame in image-to-video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from stepvideo.diffusion.image_condition import condition_latents
from stepvideo.errors import StepVideoError

Conditions = dict[str, Tensor]  # the text arguments of DiT.forward, [n, …]
LLM, CLIP, MASK = "encoder_hidden_states", "encoder_hidden_states_2", "encoder_attention_mask"
_BATCH = 64  # texts encoded together


class Encoders(Protocol):
    """`TextEncoders`, here, in another process or on another machine."""

    def encode(self, prompts: Sequence[str]) -> Conditions: ...


@torch.no_grad()
def encode_texts(encoders: Encoders, texts: Sequence[str]) -> Conditions:
    """Features of both encoders, [n, …]; Step-LLM positions that no text uses are cut off (they are masked).

    Raises:
        StepVideoError: a text holds a token outside a vocabulary; names both.
    """
    parts = [encoders.encode(list(texts[i : i + _BATCH])) for i in range(0, len(texts), _BATCH)]
    joined = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
    clip = joined[CLIP].shape[1]
    used = int(joined[MASK][:, clip:].sum(1).max())  # padding is on the right
    return joined | {LLM: joined[LLM][:, :used], MASK: joined[MASK][:, : clip + used]}


def of_streams(conditions: Conditions, caption_channels: Sequence[int]) -> Conditions:
    """What a DiT with these `caption_channels` takes of both encoders' features: one stream leaves CLIP out."""
    if len(caption_channels) == 2:
        return conditions
    return {LLM: conditions[LLM], MASK: conditions[MASK][:, conditions[CLIP].shape[1] :]}


@dataclass(frozen=True)
class TextFeatures:
    """Texts and what the encoders make of them: row i of every tensor belongs to text i."""

    texts: Sequence[str]
    conditions: Conditions

    def rows(self, texts: Sequence[str], device: torch.device) -> Conditions:
        """The features of these texts, [len(texts), …].

        Raises:
            StepVideoError: names a text that was not encoded.
        """
        self.check(texts)
        number = {t: i for i, t in enumerate(self.texts)}
        pick = [number[t] for t in texts]
        return {k: v[pick].to(device) for k, v in self.conditions.items()}

    def check(self, texts: Sequence[str]) -> None:
        """Raises StepVideoError that names a text which was not encoded."""
        known = set(self.texts)
        if missing := [t for t in texts if t not in known]:
            raise StepVideoError(
                f"there are no text features of {missing[0]!r}; encode it too (negative prompts count)"
            )


@dataclass(frozen=True)
class FirstFrame:
    """What image-to-video is conditioned on: normalised latents of each sample's image [n, z, h, w], and how much it is
    to move."""

    latents: Tensor
    motion_score: float = 5.0

    def arguments(self, rows: slice, frames: int, device: torch.device) -> dict[str, Any]:
        first = self.latents[rows].to(device)
        return {"condition_hidden_states": condition_latents(first, frames), "motion_score": self.motion_score}
