"""The bytes of an item on their way out: of CPU tensors where they lie, of GPU tensors as their copies arrive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from stepvideo.pipes.buffers import Pool
from stepvideo.pipes.errors import PipeError
from stepvideo.pipes.wire import TensorSpec, spans


class Payload(Protocol):
    def frames(self) -> Iterator[memoryview]:
        """The bytes of all tensors, in order, in frames; again from the start for every consumer that they go to."""
        ...


def specify(tensors: dict[str, Tensor]) -> tuple[TensorSpec, ...]:
    """Raises PipeError for what is no dense tensor."""
    for name, t in tensors.items():
        if not isinstance(t, Tensor) or t.layout != torch.strided:
            raise PipeError(
                f"{name!r} is {type(t).__name__}, no dense tensor; give dict[str, Tensor], the rest as meta"
            )
    return tuple(TensorSpec(n, str(t.dtype).removeprefix("torch."), tuple(t.shape)) for n, t in tensors.items())


def raw(t: Tensor) -> Tensor:
    """The bytes of a tensor, in its memory if that is contiguous."""
    return t.detach().contiguous().reshape(-1).view(torch.uint8)


class HostPayload:
    """CPU tensors."""

    def __init__(self, tensors: dict[str, Tensor], frame_bytes: int) -> None:
        self._views = [raw(t).numpy().data for t in tensors.values() if t.numel()]
        self._frame_bytes = frame_bytes

    def frames(self) -> Iterator[memoryview]:
        for view in self._views:
            for start, stop in spans(len(view), self._frame_bytes):
                yield view[start:stop]


class Copies(Protocol):
    def start(self, destination: Tensor, source: Tensor) -> Callable[[], object]:
        """Begin a copy in order with the others; returns what waits for it."""
        ...


class CudaCopies:
    """Copies to page-locked memory on a stream of their own, each with an event behind it."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    def start(self, destination: Tensor, source: Tensor) -> Callable[[], object]:
        self._stream.wait_stream(torch.cuda.current_stream(source.device))
        source.record_stream(self._stream)
        done = torch.cuda.Event()
        with torch.cuda.stream(self._stream):
            destination.copy_(source, non_blocking=True)
            done.record()
        return done.synchronize


class StagedPayload:
    """Tensors that are copied to host memory frame by frame: while a frame is sent, the next ones are on their way.

    The host memory is the item's until its last consumer has acknowledged it, so a repeat needs no GPU, and the GPU's
    memory is free once it is copied.
    """

    def __init__(self, tensors: dict[str, Tensor], frame_bytes: int, pool: Pool, copies: Copies) -> None:
        self._frames: list[tuple[memoryview, Callable[[], object]]] = []
        for t in tensors.values():
            source = raw(t)
            lease = pool.take(source.numel())
            view, destination = lease.data, torch.from_numpy(lease)
            for start, stop in spans(len(view), frame_bytes):
                self._frames.append((view[start:stop], copies.start(destination[start:stop], source[start:stop])))

    def frames(self) -> Iterator[memoryview]:
        for view, wait in self._frames:
            wait()
            yield view


class Loader:
    """Makes payloads; host memory for those of a GPU comes from a pool of page-locked memory."""

    def __init__(self, frame_bytes: int, window_bytes: int) -> None:
        self._frame_bytes, self._window_bytes = frame_bytes, window_bytes
        self._staging: dict[torch.device, tuple[Pool, Copies]] = {}

    def load(self, tensors: dict[str, Tensor]) -> Payload:
        """Raises PipeError for tensors of several devices, or of one that is neither CPU nor CUDA."""
        devices = {t.device for t in tensors.values()} or {torch.device("cpu")}
        if devices == {torch.device("cpu")}:
            return HostPayload(tensors, self._frame_bytes)
        if len(devices) > 1 or next(iter(devices)).type != "cuda":
            raise PipeError(f"an item's tensors are on {sorted(map(str, devices))}; give one device, CPU or CUDA")
        device = devices.pop()
        if device not in self._staging:
            self._staging[device] = Pool(self._window_bytes, pin=True), CudaCopies(device)
        return StagedPayload(tensors, self._frame_bytes, *self._staging[device])
