"""Weight-only quantization of the DiT's blocks by torchao: half the memory of bf16, products still in bf16."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import nn

from stepvideo.errors import StepVideoError
from stepvideo.models.checkpoints import NETWORKS
from stepvideo.models.dit import DiT
from stepvideo.models.weights import fill

BLOCKS = "transformer_blocks"


def quantizer(kind: str) -> Callable[[nn.Module], None]:
    """What turns the weights of a module's linear layers into int8 or fp8 (e4m3), where they are.

    Each output feature has a scale in fp32; norms and modulation tables keep their dtype.

    Raises:
        StepVideoError: torchao is missing.
    """
    logging.getLogger("torchao").setLevel(logging.ERROR)  # of CUDA libraries that a CPU build cannot load
    try:
        from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_
    except ImportError as e:
        raise StepVideoError(f"memory.quantization={kind} needs torchao: pip install 'stepvideo[quant]' ({e})") from e
    configs = {"int8": Int8WeightOnlyConfig, "fp8": Float8WeightOnlyConfig}
    return partial(quantize_, config=configs[kind]())


def load_quantized_dit(
    root: Path,
    device: torch.device | str,
    kind: str,
    work: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> DiT:
    """`load_dit` with quantized blocks. They are read and quantized one after the other, so that the whole model is
    nowhere in its own dtype.

    Args:
        device: where the model is kept.
        kind: int8 | fp8.
        work: where each block is quantized; `device` by default.
        dtype: what weights are converted to before.

    Raises:
        ArtifactError: on a missing or damaged file, or tensors that do not fit the config.
        StepVideoError: torchao is missing.
    """
    quantize, network = quantizer(kind), NETWORKS["dit"]
    cfg = network.config(root)
    found, _ = network.held(root, cfg)
    folder = Path(root) / network.folder
    dit = cast(DiT, network.on_meta(cfg))
    blocks, dit.transformer_blocks = dit.transformer_blocks, nn.ModuleList()
    prefixes = [f"{BLOCKS}.{i}." for i in range(len(blocks))]
    fill(dit, {k: e for k, e in found.items() if not k.startswith(tuple(prefixes))}, folder, device, dtype)
    for prefix, block in zip(prefixes, blocks):
        own = {k.removeprefix(prefix): e for k, e in found.items() if k.startswith(prefix)}
        fill(block, own, folder / prefix.rstrip("."), work or device, dtype)
        quantize(block.requires_grad_(False))
        block.to(device)
    dit.transformer_blocks = blocks
    return dit.requires_grad_(False).eval()
