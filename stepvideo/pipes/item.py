"""What travels through a pipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Item:
    """Tensors with their description, as a producer sent them.

    producer: its name; epoch: which life of it; seq: the item's number in that life. Together they name the item.
    tensors: by name, in memory that is used again once the last of them is dropped (hold one as long as you like).
    meta: what the producer said about them; JSON.
    """

    producer: str
    epoch: int
    seq: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors.values())
