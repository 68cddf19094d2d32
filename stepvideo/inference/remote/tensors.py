"""Tensors in bodies, on both sides: safetensors, which holds numbers and runs no code."""

from __future__ import annotations

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from stepvideo.errors import StepVideoError

MEDIA_TYPE = "application/x-safetensors"


def pack(tensors: dict[str, Tensor]) -> bytes:
    return safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})


def unpack(data: bytes, *names: str) -> dict[str, Tensor]:
    """The tensors of a body.

    Args:
        names: those that must be there, and no others.

    Raises:
        StepVideoError: it is no safetensors, or holds something else.
    """
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as e:
        raise StepVideoError(f"the body ({len(data)} bytes) is not safetensors: {e}") from e
    if set(tensors) != set(names):
        raise StepVideoError(f"the body holds {sorted(tensors) or 'nothing'}; it must hold {', '.join(names)}")
    return tensors
