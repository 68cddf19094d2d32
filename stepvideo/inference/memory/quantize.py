"""Weight-only quantization of the DiT's blocks by torchao: half the memory of bf16, products still in bf16."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from stepvideo.errors import StepVideoError


def quantize_layers(
    layers: Iterable[nn.Module],
    kind: str,
    device: torch.device | str = "cpu",
    rest: torch.device | str | None = None,
) -> None:
    """The weights of the linear layers in `layers` become int8 or fp8 (e4m3), one layer after the other: what is not
    yet quantized stays where it is, for example memory-mapped in its file.

    Each output feature has a scale in fp32; norms and modulation tables keep their dtype.

    Args:
        kind: int8 | fp8.
        device: where each layer is quantized.
        rest: where it goes then; `device` by default.

    Raises:
        StepVideoError: torchao is missing.
    """
    quantize_, config = _torchao(kind)
    for layer in layers:
        layer.to(device)
        quantize_(layer, config)
        if rest is not None:
            layer.to(rest)


def _torchao(kind: str) -> tuple[Any, Any]:
    logging.getLogger("torchao").setLevel(logging.ERROR)  # of CUDA libraries that a CPU build cannot load
    try:
        from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_
    except ImportError as e:
        raise StepVideoError(f"memory.quantization={kind} needs torchao: pip install 'stepvideo[quant]' ({e})") from e
    configs = {"int8": Int8WeightOnlyConfig, "fp8": Float8WeightOnlyConfig}
    return quantize_, configs[kind]()
