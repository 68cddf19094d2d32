"""The page as one file that needs no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stepvideo.storage import write_atomic
from stepvideo.telemetry.page.payload import clean

FOLDER = Path(__file__).parent
STYLE, ASKING, SCRIPT = (
    '<link rel="stylesheet" href="page.css">',
    '<script src="api.js"></script>',
    ('<script src="page.js"></script>'),
)


def document(data: dict[str, Any]) -> str:
    """HTML with style, script and figures inside."""
    text, css, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("index.html", "page.css", "page.js"))
    held = as_text(data).replace("<", "\\u003c")  # no name of a run or a clip ends the element
    inside = {
        STYLE: f"<style>{css}</style>",
        ASKING: f'<script type="application/json" id="held">{held}</script>',
        SCRIPT: f"<script>{script}</script>",
    }
    before, rest = text.split(STYLE)
    between, rest = rest.split(ASKING)
    last, after = rest.split(SCRIPT)
    return before + inside[STYLE] + between + inside[ASKING] + last + inside[SCRIPT] + after


def as_text(data: dict[str, Any]) -> str:
    """The figures as JSON."""
    return json.dumps(clean(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def write_page(path: Path, data: dict[str, Any]) -> None:
    write_atomic(path, document(data))
