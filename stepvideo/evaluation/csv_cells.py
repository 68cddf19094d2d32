"""Text in CSV files that people open in spreadsheets: what would run as a formula there is kept from it, both ways.

A cell that begins with one of these signs is a formula to Excel, LibreOffice and Google Sheets, and annotators write
some of our cells. An apostrophe before it makes it text there; `plain` takes it away again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

FORMULA = re.compile(r"^'*[=+\-@\t\r\n＝＋－＠]")
GUARDED = re.compile(r"^'+[=+\-@\t\r\n＝＋－＠]")
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?", re.ASCII)


def safe(value: Any) -> Any:
    """The cell of a value; numbers, and texts that are one, stay as they are."""
    if isinstance(value, str) and FORMULA.match(value) and not NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def plain(cell: str) -> str:
    """What `safe` was given."""
    return cell[1:] if GUARDED.match(cell) else cell


def safe_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: safe(value) for name, value in row.items()}
