"""Tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def table(title: str, columns: Sequence[str]) -> Any:
    from rich.table import Table

    made = Table(title=title, title_justify="left")
    for column in columns:
        made.add_column(column)
    return made


def show(made: Any) -> None:
    from rich.console import Console

    Console().print(made)


def escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def ago(seconds: float) -> str:
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
