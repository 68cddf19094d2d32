"""Layer-wise offload: the weights of a list of layers wait in host memory and visit the device one after the other.

While layer i computes, a side stream copies layers i+1 … i+prefetch; no more than prefetch + 1 are on the device. The
models know nothing of it: forward hooks swap the parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class LayerOffload:
    """Attaches itself to `layers`, which are called in their order, again and again; inference only.

    The weights are moved to host memory at once, pinned where the device is a CUDA one. The output is the same bit for
    bit.

    Args:
        layers: for example `dit.transformer_blocks`.
        device: where they compute.
        prefetch: layers copied ahead; 0 copies each when it is needed.

    Attributes:
        resident: numbers of the layers on the device, oldest first.
        peak: the most there have been at once.
        copies: layers copied so far.
    """

    def __init__(self, layers: Sequence[nn.Module], device: torch.device | str, prefetch: int = 1) -> None:
        self.device = torch.device(device)
        self.prefetch = min(prefetch, len(layers) - 1)
        self.resident: dict[int, torch.Event | None] = {}
        self.peak = self.copies = 0
        cuda = self.device.type == "cuda"
        self._side = torch.Stream(self.device) if cuda else None
        self._slots = [_slots(layer, Tensor.pin_memory if cuda else None) for layer in layers]
        self._handles: list[RemovableHandle] = []
        for i, layer in enumerate(layers):
            self._handles.append(layer.register_forward_pre_hook(self._before(i)))
            self._handles.append(layer.register_forward_hook(self._after(i), always_call=True))

    def release(self) -> None:
        """Takes what was copied ahead off the device."""
        for i in list(self.resident):
            self._evict(i)

    def remove(self) -> None:
        """Releases, and detaches the hooks; the weights stay in host memory."""
        self.release()
        for handle in self._handles:
            handle.remove()

    def _before(self, i: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            if self._side is not None:  # a freed layer's memory is written to only when its computation is done
                self._side.wait_stream(torch.accelerator.current_stream(self.device))
            wanted = [(i + ahead) % len(self._slots) for ahead in range(self.prefetch + 1)]
            for j in self.resident.keys() - set(wanted):  # left by a forward that failed
                self._evict(j)
            for j in wanted:
                self._copy(j)
            ready = self.resident[i]
            if ready is not None:
                torch.accelerator.current_stream(self.device).wait_event(ready)

        return hook

    def _after(self, i: int) -> Callable[..., None]:
        return lambda module, args, output: self._evict(i)

    def _copy(self, i: int) -> None:
        if i in self.resident:
            return
        with self._side or nullcontext():
            for module, name, host in self._slots[i]:
                copied = inside(host, lambda t: t.to(self.device, non_blocking=True, copy=True))
                module._parameters[name] = nn.Parameter(copied, requires_grad=False)
            self.resident[i] = self._side.record_event() if self._side is not None else None
        self.copies += 1
        self.peak = max(self.peak, len(self.resident))

    def _evict(self, i: int) -> None:
        if self.resident.pop(i, self) is not self:
            for module, name, host in self._slots[i]:
                module._parameters[name] = host


Slot = tuple[nn.Module, str, nn.Parameter]


def _slots(layer: nn.Module, pin: Callable[[Tensor], Tensor] | None) -> list[Slot]:
    """Where each parameter of a layer is kept, and the parameter in host memory, which is put there."""
    slots = []
    for module in layer.modules():
        for name, p in module._parameters.items():
            if p is not None:
                host = p.detach().to("cpu")
                kept = nn.Parameter(host if pin is None else inside(host, pin), requires_grad=False)
                module._parameters[name] = kept
                slots.append((module, name, kept))
    return slots


def inside(tensor: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """`change` applied to a tensor, or to the plain tensors inside a quantized or a divided one."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return change(tensor)
    names, context = tensor.__tensor_flatten__()  # type: ignore[attr-defined]
    parts = {name: getattr(tensor, name) for name in names}
    inner = {name: change(part) if isinstance(part, Tensor) else part for name, part in parts.items()}
    return type(tensor).__tensor_unflatten__(inner, context, tensor.size(), tensor.stride())  # type: ignore[attr-defined]


def offload_layers(
    model: nn.Module, layers: Sequence[nn.Module], device: torch.device | str, prefetch: int = 1
) -> LayerOffload:
    """`LayerOffload` of `layers`, and everything else of `model` on the device."""
    offload = LayerOffload(layers, device, prefetch)
    moved = {id(module) for layer in layers for module in layer.modules()}
    for module in model.modules():
        if id(module) not in moved:
            for name, p in module._parameters.items():
                if p is not None:
                    module._parameters[name] = nn.Parameter(p.detach().to(device), requires_grad=False)
            for name, b in module._buffers.items():
                module._buffers[name] = None if b is None else b.to(device)
    return offload
