"""`stepvideo doctor`: what this machine has, lacks, and cannot test."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.markup import escape
from rich.table import Table

from flows import screen

STYLE = {"ok": "green", "warn": "yellow", "missing": "red", "untested": "dim"}


def doctor_command(store: str | None, as_json: bool) -> int:
    """Print every check; exit code 1 if something needed is missing."""
    from stepvideo.doctor import checks

    found = checks(store)
    if as_json:
        print(json.dumps([asdict(c) for c in found], indent=1, ensure_ascii=False))
    else:
        table = Table(show_header=False)
        for c in found:
            table.add_row(
                c.name, f"[{STYLE[c.status]}]{c.status}[/]", escape(c.detail), escape(f"→ {c.fix}" if c.fix else "")
            )
        screen.console().print(table)
    return 1 if any(c.status == "missing" for c in found) else 0
