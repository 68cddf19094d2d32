"""Values inside a network, read with hooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn


class Call(NamedTuple):
    """The first argument of a call of a module, and what came out."""

    given: Tensor
    out: Any


@contextmanager
def recorded(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Call]]]:
    """The calls of these modules, in their order, under the names given here."""
    calls: dict[str, list[Call]] = {name: [] for name in modules}

    def keep(name: str, _module: nn.Module, given: tuple[Any, ...], out: Any) -> None:
        calls[name].append(Call(given[0], out))

    hooks = [module.register_forward_hook(partial(keep, name)) for name, module in modules.items()]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
