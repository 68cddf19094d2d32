"""Small networks on CLIP's embeddings, read from a file beside the CLIP that they were trained with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stepvideo.curation.backends.clip_model import ReleasedTowers, local, released
from stepvideo.errors import ArtifactError

Tensors = dict[str, np.ndarray]
Layer = tuple[np.ndarray, np.ndarray]  # weight [out, in], bias [out]


def places(weights: str, what: str, clip: str = "") -> tuple[Path, Path]:
    """The head's file, and the folder `clip`, else the folder that the file lies in. Raises Absent."""
    path = local(weights, what)
    return path, local(clip, "a CLIP's folder") if clip else path.parent


def with_clip(weights: str, clip: str, what: str) -> tuple[ReleasedTowers, Tensors, Path]:
    """The CLIP beside the head or in the folder `clip`; the head's tensors; its file.

    Raises:
        Absent: either is missing.
        ArtifactError: either is damaged.
    """
    path, folder = places(weights, what, clip)
    return released(folder), tensors(path), path


def tensors(path: Path) -> Tensors:
    """The tensors of a safetensors file or a torch state dict, in float32."""
    from torch import float32

    from stepvideo.models.tensor_files import entries, read

    return {name: tensor.numpy() for name, tensor in read(entries(path), dtype=float32)}


def layers(state: Tensors, names: Sequence[str], path: Path, width: int) -> list[Layer]:
    """The named linear layers; each must fit the one before, the first the CLIP's embedding, and the last give one
    value.

    Raises:
        ArtifactError: one is missing or does not fit.
    """
    found = []
    for name in names:
        weight, bias = state.get(f"{name}weight"), state.get(f"{name}bias")
        if weight is None or bias is None or weight.ndim != 2 or weight.shape != (len(bias), width):
            shape = None if weight is None else list(weight.shape)
            raise ArtifactError(
                f"{path}: {name}weight is {shape}, which does not take vectors of {width}; give the head that was "
                "trained with this CLIP"
            )
        found.append((weight, bias))
        width = len(bias)
    if width != 1:
        raise ArtifactError(f"{path}: the last layer gives {width} values, not one score; give another head")
    return found
