"""Pictures of a pipeline schedule: one row a stage, one box a pass; SVG, HTML, or a trace for chrome://tracing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from stepvideo.emulator.events import Event, total
from stepvideo.errors import ConfigError
from stepvideo.storage import write_atomic
from stepvideo.svg import LIGHT, STYLE, nice_ticks, number, span

ROW, TOP, LEFT, BOTTOM = 24, 26, 60, 30
SHORTEST = 9  # pixels a box needs to hold the number of its micro-batch
MAX_BOXES = 40_000

BOXES = """
.box{stroke:#fff;stroke-width:.5}.forward{fill:var(--c0)}.backward{fill:var(--c1)}
.plot .in{fill:#fff;font-size:9px;text-anchor:middle;pointer-events:none}
"""


def write(events: Sequence[Event], path: Path, title: str) -> None:
    """Draws to `path`, in the form that its ending names: .svg, .html or .json.

    Raises:
        ConfigError: another ending, or too many passes for a picture.
    """
    made = {".svg": svg, ".html": page, ".json": lambda e, _: chrome_trace(e)}
    if path.suffix not in made:
        raise ConfigError(f"{path.name}: a timeline is drawn as {', '.join(made)}; give one of these endings")
    if path.suffix != ".json" and len(events) > MAX_BOXES:
        raise ConfigError(
            f"{len(events)} passes are too many for a picture (at most {MAX_BOXES}): fewer micro-batches, or a .json "
            "file for chrome://tracing or ui.perfetto.dev"
        )
    write_atomic(path, made[path.suffix](events, title))


def svg(events: Sequence[Event], title: str, width: int = 1200) -> str:
    """A picture of its own: numbers are micro-batches, paler boxes later chunks, white is waiting; times on hover."""
    stages, chunks = (1 + max(getattr(e.work, name) for e in events) for name in ("stage", "chunk"))
    height, end = TOP + ROW * stages + BOTTOM, total(events)
    x = span([0.0, end], LEFT, width - 20)
    base = height - BOTTOM
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" class="plot" '
        f'font-family="system-ui,sans-serif" aria-label="{escape(title)}"><style>:root{{{LIGHT}}}{STYLE}{BOXES}</style>'
        f'<rect width="{width}" height="{height}" fill="#fff"/>'
        f'<text x="{LEFT}" y="15" class="title">{escape(title)}</text>'
    ]
    for t in nice_ticks(0.0, end, 8):
        out.append(f'<line x1="{x(t)}" x2="{x(t)}" y1="{TOP}" y2="{base}" class="grid"/>')
        out.append(f'<text x="{x(t)}" y="{base + 14}" class="tick mid">{number(t)}</text>')
    out.append(f'<text x="{(LEFT + width) / 2}" y="{height - 3}" class="tick mid">seconds</text>')
    for stage in range(stages):
        y = TOP + ROW * stage + ROW / 2 + 4
        out.append(f'<text x="{LEFT - 8}" y="{y}" class="tick end">stage {stage}</text>')
    out += [_box(e, x(e.start), x(e.end), chunks) for e in events]
    return "".join(out) + "</svg>\n"


def _box(e: Event, left: float, right: float, chunks: int) -> str:
    y, kind = TOP + ROW * e.work.stage + 1, "backward" if e.work.backward else "forward"
    opacity = 1 - 0.55 * e.work.chunk / max(chunks - 1, 1)
    box = (
        f'<rect x="{left}" y="{y}" width="{max(right - left, 0.2):.2f}" height="{ROW - 2}" class="box {kind}" '
        f'opacity="{opacity:.2f}"><title>{e.work}: {e.start:.4g} to {e.end:.4g} s</title></rect>'
    )
    if right - left < SHORTEST:
        return box
    return f'{box}<text x="{(left + right) / 2:.2f}" y="{y + 14}" class="in">{e.work.micro_batch}</text>'


def page(events: Sequence[Event], title: str) -> str:
    """The picture in a page, as wide as it needs to be to scroll through."""
    stages = 1 + max(e.work.stage for e in events)
    width = min(max(1200, 2 * SHORTEST * len(events) // stages), 12_000)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        '<body style="margin:1rem;overflow-x:auto"><p style="font:14px system-ui">blue: forward, orange: backward, '
        f'paler: later chunks of a stage, white: waiting</p><div style="width:{width}px">{svg(events, title, width)}'
        "</div></body></html>\n"
    )


def chrome_trace(events: Sequence[Event]) -> str:
    """Trace Event Format, times in microseconds: a thread each stage."""
    stages = 1 + max(e.work.stage for e in events)
    rows = [
        {"name": "thread_name", "ph": "M", "pid": 0, "tid": s, "args": {"name": f"stage {s}"}} for s in range(stages)
    ]
    for e in events:
        kind = "backward" if e.work.backward else "forward"
        rows.append(
            {
                "name": f"{kind[0].upper()}{e.work.micro_batch}",
                "cat": kind,
                "ph": "X",
                "pid": 0,
                "tid": e.work.stage,
                "ts": round(1e6 * e.start, 3),
                "dur": round(1e6 * (e.end - e.start), 3),
                "args": {"micro_batch": e.work.micro_batch, "chunk": e.work.chunk},
            }
        )
    return json.dumps({"traceEvents": rows, "displayTimeUnit": "ms"}) + "\n"
