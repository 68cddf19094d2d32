"""A page of the emulator's answers: tables, and bars of what takes memory and time, in one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from stepvideo.storage import write_atomic
from stepvideo.svg import LIGHT, STYLE, nice_ticks, number, span

ROW, TOP, LEFT, BOTTOM, WIDTH = 22, 44, 230, 26, 1000
CSS = """body{margin:0 auto;max-width:1080px;padding:24px 18px;font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2em}p{max-width:75ch}.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:4px 10px;border-bottom:1px solid #ddd;white-space:nowrap}
th:first-child,td:first-child{text-align:left}svg{width:100%;height:auto}"""
FILLS = "".join(f".f{i}{{fill:var(--c{i})}}" for i in range(8)) + ".f8{fill:#999}.f9{fill:#ccc}.limit{stroke:#a12c3d}"


@dataclass(frozen=True)
class Bars:
    """A bar a row, of parts in a common unit; `limit` draws a line."""

    title: str
    unit: str
    rows: Sequence[tuple[str, Mapping[str, float]]]
    limit: float = 0.0


@dataclass(frozen=True)
class Table:
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def write(path: Path, title: str, lead: str, parts: Sequence[Bars | Table]) -> None:
    """One page."""
    made = "".join(_table(p) if isinstance(p, Table) else f"<h2>{escape(p.title)}</h2>{bars(p)}" for p in parts)
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>:root{{{LIGHT}}}{STYLE}{CSS}{FILLS}</style>"
        f"<h1>{escape(title)}</h1><p>{escape(lead)}</p>{made}</html>\n"
    )
    write_atomic(path, page)


def bars(b: Bars) -> str:
    """Stacked bars as SVG; values on hover."""
    names = list(dict.fromkeys(name for _, parts in b.rows for name, value in parts.items() if value > 0))
    most = max([sum(parts.values()) for _, parts in b.rows] + [b.limit])
    height = TOP + ROW * len(b.rows) + BOTTOM
    base, x = height - BOTTOM, span([0.0, most], LEFT, WIDTH - 30)
    out = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" class="plot" aria-label="{escape(b.title)}">']
    for i, name in enumerate(names):
        at = LEFT + 155 * (i % 5)
        out.append(f'<rect x="{at}" y="{6 + 16 * (i // 5)}" width="10" height="10" class="f{i % 10}"/>')
        out.append(f'<text x="{at + 15}" y="{15 + 16 * (i // 5)}" class="tick">{escape(name)}</text>')
    for t in nice_ticks(0.0, most, 8):
        out.append(f'<line x1="{x(t)}" x2="{x(t)}" y1="{TOP}" y2="{base}" class="grid"/>')
        out.append(f'<text x="{x(t)}" y="{base + 14}" class="tick mid">{number(t)} {escape(b.unit)}</text>')
    for row, (label, parts) in enumerate(b.rows):
        y, start = TOP + ROW * row, 0.0
        out.append(f'<text x="{LEFT - 8}" y="{y + 15}" class="tick end">{escape(label)}</text>')
        for i, name in enumerate(names):
            value = parts.get(name, 0.0)
            said, wide = f"{label}, {name}: {value:.4g} {b.unit}", x(start + value) - x(start)
            out.append(
                f'<rect x="{x(start)}" y="{y + 3}" width="{wide:.2f}" height="{ROW - 6}" '
                f'class="f{i % 10}"><title>{escape(said)}</title></rect>'
            )
            start += value
    if b.limit:
        out.append(f'<line x1="{x(b.limit)}" x2="{x(b.limit)}" y1="{TOP}" y2="{base}" class="limit"/>')
    return "".join(out) + "</svg>"


def _table(t: Table) -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in t.header)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in t.rows)
    return f'<h2>{escape(t.title)}</h2><div class="wide"><table><tr>{head}</tr>{body}</table></div>'
