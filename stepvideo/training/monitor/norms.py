"""Norms of gradients and sizes of activations by group of blocks, on every k-th step.

Hooks are attached for that one step: in all others nothing runs that would not run without this file, and nothing keeps
the host from queueing work ahead of the device. Values stay on the device until the step is over.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stepvideo.data.source import Batch
from stepvideo.parallel.gradients import local, total_norm
from stepvideo.training.module import StageModule

GROUPS = 8  # of the blocks of a list; more are put together, neighbours with neighbours


class Norms(Callback):
    """Logs grad_norm/GROUP (before clipping) and activation_rms/GROUP for steps whose number is a multiple of `every`.

    A group is some neighbouring blocks, "transformer_blocks.0-5", or what lies outside of them, "proj_out". Activations
    are the blocks' outputs: the root of the mean square over all elements, samples and ranks.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.hooks: list[RemovableHandle] = []
        self.squares: dict[str, list[Tensor]] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        assert isinstance(pl_module, StageModule)
        self._detach()  # a step that a rollback ended
        if (batch["step"] + 1) % self.every == 0:
            self.squares = defaultdict(list)
            for group, block in grouped_blocks(pl_module.net):
                self.hooks.append(block.register_forward_hook(_Keep(self.squares[group])))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, StageModule)
        module = pl_module
        if module.done % self.every:
            return
        self._detach()
        # gradients were scaled to at most optim.clip
        scale = max(1.0, (outputs.get("grad_norm", 0.0) + 1e-6) / module.optim.clip)
        values = {f"grad_norm/{g}": float(n) * scale for g, n in gradient_norms(module.net).items()}
        for group, squares in self.squares.items():
            if squares:
                mean = module.parallel.mean(torch.stack(squares).mean())
                values[f"activation_rms/{group}"] = float(mean.sqrt())
        if module.ctx.rank == 0:
            module.ctx.sink.metrics(module.done, values)

    def _detach(self) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks = []


class _Keep:
    """Keeps the mean square of a block's output; what recomputation in the backward pass repeats changes no mean."""

    def __init__(self, squares: list[Tensor]) -> None:
        self.squares = squares

    def __call__(self, block: nn.Module, args: Any, out: Any) -> None:
        out = out[0] if isinstance(out, tuple) else out
        self.squares.append(local(out.detach()).float().square().mean())


@torch.no_grad()
def gradient_norms(net: nn.Module) -> dict[str, Tensor]:
    """L2 norm over all ranks of the gradients of each group. All ranks call it together."""
    grads: dict[str, list[Tensor]] = defaultdict(list)
    names = group_names(net)
    for name, p in net.named_parameters():
        if p.grad is not None:
            grads[names[name]].append(p.grad)
    return {group: total_norm(found) for group, found in grads.items()}


def grouped_blocks(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """(group, block) of the outermost lists of modules; none in a network without such lists."""
    found = []
    for name, module in net.named_modules():
        if isinstance(module, nn.ModuleList) and not re.search(r"\.\d+(\.|$)", name):
            found += [(_group(name, i, len(module)), block) for i, block in enumerate(module)]
    return found


def group_names(net: nn.Module) -> dict[str, str]:
    """The group of every parameter, by name."""
    lengths = {name: len(m) for name, m in net.named_modules() if isinstance(m, nn.ModuleList)}
    groups = {}
    for name, _ in net.named_parameters():
        found = re.match(r"(.*?)\.(\d+)\.", name)
        if found and found[1] in lengths:
            groups[name] = _group(found[1], int(found[2]), lengths[found[1]])
        else:
            groups[name] = name.split(".")[0]
    return groups


def _group(name: str, i: int, count: int) -> str:
    size = -(-count // GROUPS)
    first, last = i // size * size, min(i // size * size + size, count) - 1
    return f"{name}.{first}" if first == last else f"{name}.{first}-{last}"
