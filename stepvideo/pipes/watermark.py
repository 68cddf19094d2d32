"""What a consumer has acknowledged, by producer and epoch: the part of a pipe that a training checkpoint keeps."""

from __future__ import annotations

from typing import Any

from stepvideo.pipes.errors import PipeError, WireError
from stepvideo.pipes.ranges import Ranges


class Watermark:
    """Of every producer the newest epoch; what earlier ones had in flight cannot come any more."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, Ranges]] = {}

    def begin(self, producer: str, epoch: int) -> bool:
        """A producer says its epoch. False if a later one is known."""
        known = self._known.get(producer)
        if known is None or known[0] < epoch:
            self._known[producer] = (epoch, Ranges())
        return known is None or known[0] <= epoch

    def done(self, producer: str, epoch: int) -> Ranges:
        known = self._known.get(producer)
        return known[1] if known and known[0] == epoch else Ranges()

    def add(self, key: tuple[str, int, int]) -> None:
        self.done(*key[:2]).add(key[2])

    def settle(self, producer: str, epoch: int, floor: int) -> None:
        """No number below `floor` comes again: the runs melt into one."""
        self.done(producer, epoch).add(0, floor)

    def state_dict(self) -> dict[str, Any]:
        return {name: {"epoch": epoch, "done": done.runs()} for name, (epoch, done) in self._known.items()}

    def merge(self, state: dict[str, Any]) -> None:
        """Raises PipeError for what `state_dict` never gave."""
        try:
            for name, known in state.items():
                if self.begin(name, int(known["epoch"])):
                    self.done(name, int(known["epoch"])).update(Ranges.checked(known["done"]))
        except (AttributeError, KeyError, TypeError, ValueError, WireError):
            raise PipeError("this is no state of a consumer; give what state_dict() returned") from None
