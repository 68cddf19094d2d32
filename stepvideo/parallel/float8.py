"""fp8 products in the blocks by torchao: weights, activations and gradients are scaled to fp8, each tensor by itself
and anew each time, and multiplied; everything else is as in bf16-mixed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from stepvideo.errors import ConfigError

CAPABILITY = (8, 9)  # Ada; Hopper is 9.0
MULTIPLE = 16  # the hardware's products take sides that are multiples of it


def convert(blocks: Sequence[nn.Module], device: torch.device, tensor: int, emulate: bool) -> None:
    """Replace the linear layers that hold parameters of the blocks by fp8 ones of the same names, in place.

    Args:
        tensor: ranks that will divide either side of a layer.
        emulate: compute the same values in fp32, anywhere.

    Raises:
        ConfigError: hardware without fp8 products, torchao is missing, or no layer whose sides fit.
    """
    if not emulate and (device.type != "cuda" or torch.cuda.get_device_capability(device) < CAPABILITY):
        raise ConfigError(
            f"precision=fp8 needs a CUDA device of compute capability {CAPABILITY[0]}.{CAPABILITY[1]} or more (Ada, "
            f"Hopper), not {device}; use bf16-mixed"
        )
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError as e:
        raise ConfigError("precision=fp8 needs torchao; install the extra: pip install 'stepvideo[quant]'") from e

    def fits(layer: nn.Module, _: str) -> bool:
        sides = (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else (1,)
        return not any(side % (MULTIPLE * tensor) for side in sides)

    for block in blocks:
        if not any(fits(layer, "") for layer in block.modules()):
            raise ConfigError(
                f"precision=fp8: no layer of {type(block).__name__} has sides that are multiples of {MULTIPLE} on each "
                f"of {tensor} tensor ranks; use bf16-mixed"
            )
        convert_to_float8_training(block, module_filter_fn=fits, config=Float8LinearConfig(emulate=emulate))
