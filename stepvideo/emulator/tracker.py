"""The bytes of tensors that are alive while real module code runs, on any device, the meta device included.

On the meta device a forward at the released sizes takes neither memory nor time and runs the code path of an
accelerator: this is the truth that `memory` is checked against where there is no GPU. It does not see the workspaces
inside kernels nor what a caching allocator keeps.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts every storage that an operation returns until it is freed.

    Args:
        held: tensors that exist already and are to be counted (a model's parameters); others count once an operation
            returns a view of them.
        device: only storages on this type of device count; None counts all.

    Attributes:
        now, peak: bytes.
        where: the operation at the peak.
    """

    def __init__(self, held: Iterable[Tensor] = (), device: str | None = None) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.where = ""
        self._device, self._seen = device, set[int]()
        for tensor in (t for h in held for t in plain_tensors(h)):
            self._count(tensor, "held")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            for tensor in plain_tensors(leaf):
                self._count(tensor, str(func))
        return out

    def _count(self, tensor: Tensor, where: str) -> None:
        if self._device not in (None, tensor.device.type):
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        weakref.finalize(storage, self._release, key, size)
        self.now += size
        if self.now > self.peak:
            self.peak, self.where = self.now, where

    def _release(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def saved_bytes(call: Callable[[], Any]) -> int:
    """Bytes of the storages that autograd keeps for the backward of `call`, parameters included, each counted once."""
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor  # alive, so that no address is given twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def plain_tensors(x: Any) -> Iterator[Tensor]:
    """The tensors that hold the numbers of `x`: itself, or what is inside a quantized one; none if it is no tensor."""
    if hasattr(x, "__tensor_flatten__"):
        for name in x.__tensor_flatten__()[0]:
            yield from plain_tensors(getattr(x, name))
    elif isinstance(x, Tensor):
        yield x


class FusedKernels(TorchFunctionMode):
    """On the meta device: attention and RMSNorm allocate their output alone, as the fused CUDA kernels do.

    There is no meta kernel of either; torch would decompose them into operations that hold all attention logits.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (F.scaled_dot_product_attention, F.rms_norm) and args[0].is_meta:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


def fused_attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, enable_gqa: bool = False
) -> Tensor:
    """cuDNN's attention by name, in place of `scaled_dot_product_attention` where torch would not choose it: on the
    meta device. For the backward it keeps what all fused kernels keep."""
    assert not enable_gqa, "grouped queries are not the DiT's"
    return torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, attn_mask, True)[0]
