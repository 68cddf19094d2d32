"""A network behind its loader: read at first use, and between uses kept where memory allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch

RESTS = ("device", "host", "nowhere")


class Movable(Protocol):
    """What a component holds: a module, or a group of modules with `to`."""

    def to(self, device: torch.device) -> Any: ...


M = TypeVar("M", bound=Movable)
C = TypeVar("C")


class Component(Generic[C, M]):
    """One of the pipeline's networks. Its configuration is known before its weights are read.

    Args:
        cfg: the network's configuration.
        load: reads the network onto a device.
        device: where it computes.
        origin: the folder or address that it comes from, for messages.
        rest: where it waits between uses: on its device, on the host ("component offload"), or nowhere, which reads it
            again for the next use.
    """

    def __init__(
        self,
        cfg: C,
        load: Callable[[torch.device], M],
        device: torch.device,
        rest: str = "device",
        origin: Path | str = "",
    ) -> None:
        if rest not in RESTS:
            raise ValueError(f"rest={rest!r}: choose one of {', '.join(RESTS)}")
        self.cfg, self.device, self.rest, self.origin = cfg, device, rest, origin
        self._load, self._held, self._users = load, None, 0

    @contextmanager
    def use(self) -> Iterator[M]:
        """The network on its device, for the time of a `with`; uses may nest."""
        network = self._enter()
        self._users += 1
        try:
            yield network
        finally:
            self._users -= 1
            if not self._users:
                self._leave()

    @property
    def module(self) -> M:
        """The network, wherever it is; read if need be."""
        if self._held is None:
            self._held = self._load(self.device if self.rest != "host" else torch.device("cpu"))
        return self._held

    def drop(self) -> None:
        """Forget the network; the next use reads it again."""
        self._held = None
        _free(self.device)

    def _enter(self) -> M:
        if self.rest == "host" and not self._users:
            self.module.to(self.device)
        return self.module

    def _leave(self) -> None:
        if self.rest == "nowhere":
            self.drop()
        elif self.rest == "host":
            self.module.to(torch.device("cpu"))
            _free(self.device)


def _free(device: torch.device) -> None:
    """Give cached blocks back to the driver, so that another component finds them."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
