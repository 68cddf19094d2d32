"""What travels from producers to training: the samples of one pack of a step, as tensors and their description.

Legend: n samples of a bucket, b all samples, f latent frames, z latent channels, h w latent sides, L CLIP tokens,
D D' feature widths.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stepvideo.data.feed import Unit
from stepvideo.errors import StepVideoError


class Sample(NamedTuple):
    """row: of its set, which may be that of a clip that stands in for one that `failed` (clip id, reason).
    moments [f, 2z, h, w], llm [tokens, D], clip [L, D'], all bfloat16 as they are cached."""

    kind: str
    bucket: str
    row: int
    failed: list[tuple[str, str]]
    moments: Tensor
    llm: Tensor
    clip: Tensor


def packed(unit: Unit, plan: str, samples: Mapping[int, Sample]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors "KIND/BUCKET" [n, f, 2z, h, w], "llm" [all tokens, D], "clip" [b, L, D'], and what says whose they are.

    Args:
        plan: digest of the plan that the samples are from.
        samples: by their index in the global batch.
    """
    groups: dict[str, list[Tensor]] = {}
    for s in samples.values():
        groups.setdefault(f"{s.kind}/{s.bucket}", []).append(s.moments)
    tensors = {name: torch.stack(moments) for name, moments in groups.items()}
    tensors["llm"] = torch.cat([s.llm for s in samples.values()])
    tensors["clip"] = torch.stack([s.clip for s in samples.values()])
    said = [[i, s.kind, s.bucket, s.row, len(s.llm), s.failed] for i, s in samples.items()]
    return tensors, {"step": unit[0], "pack": unit[1], "plan": plan, "samples": said}


def unpacked(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> dict[int, Sample]:
    """Samples by their index in the global batch.

    Raises:
        StepVideoError: tensors and description do not fit each other.
    """
    try:
        found, taken, first = {}, dict.fromkeys(tensors, 0), 0
        for place, (i, kind, bucket, row, tokens, failed) in enumerate(meta["samples"]):
            name = f"{kind}/{bucket}"
            moments, llm = tensors[name][taken[name]], tensors["llm"][first : first + tokens]
            bad = [(str(clip), str(reason)) for clip, reason in failed]
            found[int(i)] = Sample(kind, bucket, int(row), bad, moments, llm, tensors["clip"][place])
            taken[name], first = taken[name] + 1, first + tokens
        return found
    except (KeyError, IndexError, TypeError, ValueError) as e:
        raise StepVideoError(f"a producer sent what is no pack of samples ({type(e).__name__}: {e})") from e
