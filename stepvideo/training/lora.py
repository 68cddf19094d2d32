"""Low-rank adapters (LoRA) on the DiT, by peft: put on before a network is divided over ranks, merged at hand-over.

An adapted layer computes W·x + (alpha / rank) · B·A·x. B is zero at first, so that training starts from the network
itself. `lora_files.py` reads and writes what peft does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from stepvideo.errors import ConfigError
from stepvideo.models.dit import DiT
from stepvideo.training.lora_config import LoRAConfig
from stepvideo.training.lora_files import write

NAME = "default"  # peft's name of the only adapter, part of parameters' names


def apply(net: nn.Module, cfg: LoRAConfig, seed: int, tensor: int = 1) -> None:
    """Put adapters on the layers that `cfg.targets` names, in place; nothing else learns from here on. The same seed
    gives the same adapters. Without a rank nothing happens.

    `net.given` has the names of what does not learn: checkpoints and averages need not hold it.

    Args:
        tensor: degree of tensor parallelism, which knows no adapters.

    Raises:
        ConfigError: a target that is no linear layer of this network, or tensor parallelism.
    """
    if not cfg.rank:
        return
    if tensor > 1:
        raise ConfigError(
            f"lora.rank={cfg.rank} with parallel.tensor={tensor}: adapters are not divided over tensor ranks; use "
            "parallel.zero and parallel.ulysses, which hold their own with frozen weights"
        )
    _check(net, cfg.targets)
    import peft

    given = frozenset(net.state_dict())
    net.requires_grad_(False)
    options = peft.LoraConfig(
        r=cfg.rank,
        lora_alpha=cfg.alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=cfg.dropout,
        target_modules=list(cfg.targets),
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(options, net, NAME)
    renamed = {k.replace(".base_layer.", "."): k for k in net.state_dict()}
    net.given = frozenset(renamed[k] for k in given)  # type: ignore[assignment]


def _check(net: nn.Module, targets: Sequence[str]) -> None:
    names = [name for name, m in net.named_modules() if isinstance(m, nn.Linear)]
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in names):
            known = dict.fromkeys(name.split(".", 2)[2] for name in names if name.startswith("transformer_blocks."))
            raise ConfigError(
                f"lora.targets: {target!r} is no linear layer of this network; blocks have {', '.join(known)}"
            )


def layers(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The adapted layers by name."""
    for name, module in net.named_modules():
        if hasattr(module, "lora_A"):
            yield name, module


@contextmanager
def adapters_off(net: nn.Module) -> Iterator[None]:
    """Within it the network computes as it did before it got adapters: the reference of DPO. Without gradients."""
    found = [module for _, module in layers(net)]
    for module in found:
        module._disable_adapters = True  # `enable_adapters` would also change requires_grad, which FSDP holds on to
    try:
        with torch.no_grad():
            yield
    finally:
        for module in found:
            module._disable_adapters = False


def adapters(net: nn.Module) -> dict[str, Tensor]:
    """The adapters' weights: layer.lora_A [rank, in] and layer.lora_B [out, rank] by the layers' names."""
    found = {}
    for name, module in layers(net):
        for part in ("lora_A", "lora_B"):
            found[f"{name}.{part}"] = getattr(module, part)[NAME].weight.detach()
    return found


@torch.no_grad()
def merge(net: nn.Module) -> None:
    """Add the adapters to the weights and take them off, in place: names are the network's own again."""
    for name, module in list(layers(net)):
        module.merge()
        net.set_submodule(name, module.get_base_layer())
    if hasattr(net, "given"):
        del net.given


def hand_over(net: DiT, cfg: LoRAConfig, out: Path) -> DiT:
    """A trained whole network as others load it: `out/lora` gets the adapters, in peft's format, the network itself
    has them merged. Without a rank nothing happens.
    """
    if cfg.rank:
        write(adapters(net), cfg, out / "lora")
        merge(net)
    return net
