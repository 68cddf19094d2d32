"""A forward pass as a list of what is allocated and freed, in bytes; torch-free.

The walks of `dit_memory`, `text_memory` and `vae_memory` follow the modules of `stepvideo.models` line by line, without
gradients, as they run on an accelerator: a module's input lives until the module returns, because its caller holds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Ledger:
    """Bytes alive now and at the worst moment, what was allocated last then; parameters and operations on the way."""

    now: int = 0
    peak: int = 0
    where: str = ""
    parameters: int = 0
    flops: int = 0  # of the Video-VAE's encoder; a multiply-add counts as two

    def add(self, size: int, where: str) -> int:
        """Allocates; returns `size`, to be freed later."""
        self.now += size
        if self.now > self.peak:
            self.peak, self.where = self.now, where
        return size

    def free(self, size: int) -> None:
        self.now -= size

    @contextmanager
    def hold(self, size: int, where: str) -> Iterator[None]:
        """`size` bytes that live for the length of the block."""
        self.add(size, where)
        yield
        self.free(size)

    def touch(self, size: int, where: str) -> None:
        """Allocated and freed at once."""
        self.free(self.add(size, where))


BYTES = {"fp32": 4, "bf16": 2, "int8": 1, "fp8": 1}
