"""Adapters on disk as peft writes and reads them, and models with adapters merged, tensor by tensor.

adapter_config.json
adapter_model.safetensors     base_model.model.LAYER.lora_A.weight [rank, in], ….lora_B.weight [out, rank]
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stepvideo import storage
from stepvideo.errors import ArtifactError
from stepvideo.models.checkpoints import NETWORKS
from stepvideo.models.dit import DiT
from stepvideo.models.tensor_files import Entry, entries, read
from stepvideo.models.weights import Value, save_tensors
from stepvideo.training.lora_config import LoRAConfig

CONFIG, STEM = "adapter_config.json", "adapter_model"
_PREFIX = "base_model.model."
_SIDE = (".lora_A.weight", ".lora_B.weight")
_PLAIN = {
    "peft_type": "LORA",
    "bias": "none",
    **dict.fromkeys(("fan_in_fan_out", "use_dora", "lora_bias", "use_qalora"), False),
    **dict.fromkeys(
        ("modules_to_save", "layer_replication", "trainable_token_indices", "target_parameters", "use_bdlora"), None
    ),
    **dict.fromkeys(("rank_pattern", "alpha_pattern"), {}),
}
"""What an adapter that is nothing but a product of two matrices says."""


def write(tensors: Mapping[str, Tensor], cfg: LoRAConfig, folder: Path) -> None:
    """Write adapters; equal ones give equal bytes.

    Args:
        tensors: layer.lora_A and layer.lora_B by the layers' names.
    """
    save_tensors({f"{_PREFIX}{name}.weight": t for name, t in tensors.items()}, folder, STEM)
    said = {"r": cfg.rank, "lora_alpha": cfg.alpha, "lora_dropout": cfg.dropout, "target_modules": sorted(cfg.targets)}
    more = {"base_model_name_or_path": None, "task_type": None, "inference_mode": True, "use_rslora": False}
    storage.write_json(folder / CONFIG, _PLAIN | said | more)


@dataclass(frozen=True)
class Adapter:
    """Adapters in files: what B·A counts, and where A and B of each layer lie."""

    scale: float
    layers: dict[str, tuple[Entry, Entry]]


def find(folder: Path) -> Adapter:
    """What lies in a folder that peft, or `write`, made.

    Raises:
        ArtifactError: no adapter, a damaged one, or of a kind that is more than a product of two matrices.
    """
    said = storage.read_json(folder / CONFIG)
    try:
        rank, alpha = int(said["r"]), float(said["lora_alpha"])
        odd = [k for k, plain in _PLAIN.items() if (said.get(k, plain) or plain) != plain]
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise ArtifactError(f"{folder / CONFIG} is no LoRA's: {e!r}") from e
    if odd or rank < 1:
        name = odd[0] if odd else "r"
        raise ArtifactError(f"{folder / CONFIG}: {name}={said.get(name)!r} cannot be merged here; merge it with peft")
    found = entries(folder / f"{STEM}.safetensors")
    layers = {}
    for name in found:
        layer = next((name.removesuffix(side) for side in _SIDE if name.endswith(side)), "")
        pair = tuple(found.get(f"{layer}{side}") for side in _SIDE)
        if not layer.startswith(_PREFIX) or None in pair:
            raise ArtifactError(f"{folder / STEM}.safetensors holds {name}, which is no half of a pair lora_A, lora_B")
        a, b = pair
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != rank or b.shape[1] != rank:  # type: ignore[union-attr]
            raise ArtifactError(f"{folder / STEM}.safetensors: {layer} is {a.shape} and {b.shape}, the rank is {rank}")  # type: ignore[union-attr]
        layers[layer.removeprefix(_PREFIX)] = (a, b)
    return Adapter(alpha / (math.sqrt(rank) if said.get("use_rslora") else rank), layers)


def merged(base: Path, folder: Path) -> tuple[DiT, Value]:
    """A model with adapters merged as a network on the meta device, and what reads its tensors one at a time.

    Weights keep their dtype; products are taken in float32.

    Raises:
        ArtifactError: a damaged file, or adapters of other layers than the model has.
    """
    model, found = NETWORKS["dit"].opened(base)
    assert isinstance(model, DiT)
    adapter = find(folder)
    for layer, (a, b) in adapter.layers.items():
        weight = found.get(f"{layer}.weight")
        if weight is None:
            raise ArtifactError(f"{folder} adapts {layer}, which {base} lacks; give the model it was trained on")
        if weight.shape != (b.shape[0], a.shape[1]):
            made = [b.shape[0], a.shape[1]]
            raise ArtifactError(f"{folder} makes {layer} {made}, in {base} it is {list(weight.shape)}")

    def value(name: str, _like: Tensor) -> Tensor:
        ((_, weight),) = read({name: found[name]})
        pair = adapter.layers.get(name.removesuffix(".weight"))
        if pair is None or not name.endswith(".weight"):
            return weight
        a, b = (t for half in pair for _, t in read({"": half}, dtype=torch.float32))
        return (weight.float() + adapter.scale * (b @ a)).to(weight.dtype)

    return model, value
