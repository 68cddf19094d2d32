"""Plots as SVG, inline or a file of their own: no script, no network, colours from CSS, exact values on hover.

Coordinates are in pixels of a viewBox that is drawn at about its own size on a phone, so that text stays readable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 22, 34
MAX_POINTS = 160  # a curve is thinned to this many; beyond, a screen shows no more and the page only grows

LIGHT = (
    "--fg:#1c2027;--soft:#5d6673;--rule:#dfe2e6;--hit:#1c202711;--c0:#2563a8;--c1:#c05a1e;--c2:#2f7d4f;--c3:#7d4fa8;"
    "--c4:#ad3145;--c5:#6b7280;--c6:#8f7114;--c7:#1f8189"
)
"""Colours on a light ground."""

STYLE = """
.plot text{fill:var(--fg);font-size:11px}.plot .title{font-weight:600;font-size:12px}.plot .tick{fill:var(--soft)}
.plot .end{text-anchor:end}.plot .mid{text-anchor:middle}
.plot .grid{stroke:var(--rule);stroke-width:1}.plot .axis{stroke:var(--soft);stroke-width:1}
.plot .mark{stroke:var(--soft);stroke-width:1;stroke-dasharray:3 3}
.plot .line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.plot .faint{opacity:.3;stroke-width:1.2}
.plot .hit{fill:transparent}.plot .hit:hover{fill:var(--hit)}.plot .bar{fill:var(--c0)}
.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}.c4{stroke:var(--c4)}
.c5{stroke:var(--c5)}.c6{stroke:var(--c6)}.c7{stroke:var(--c7)}
.dot.c0{fill:var(--c0)}.dot.c1{fill:var(--c1)}.dot.c2{fill:var(--c2)}.dot.c3{fill:var(--c3)}.dot.c4{fill:var(--c4)}
.dot.c5{fill:var(--c5)}.dot.c6{fill:var(--c6)}.dot.c7{fill:var(--c7)}
"""
"""What the classes below look like in those colours."""


@dataclass(frozen=True)
class Series:
    """One curve: points (x, y), name in the legend, index of its colour."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    faint: bool = False


@dataclass(frozen=True)
class Mark:
    """A labelled vertical line."""

    x: float
    label: str


@dataclass
class Scale:
    """Maps data to pixels, linearly or by decades."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    ticks: list[float] = field(default_factory=list)

    def __call__(self, v: float) -> float:
        a, b, x = (math.log10(t) for t in (self.low, self.high, v)) if self.log else (self.low, self.high, v)
        return round(self.start + (self.end - self.start) * (x - a) / (b - a), 2)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) inside [low, high], about `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / max(1, count)
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def scale(values: Sequence[float], start: float, end: float, log: bool = False) -> Scale:
    """A scale that holds all values, widened to the round numbers around them (by decades: to 1, 2 and 5 of each)."""
    low, high = min(values), max(values)
    if log:
        steps = [m * 10.0**e for e in range(-12, 13) for m in (1, 2, 5)]
        inside = [t for t in steps if low <= t <= high]
        if len(inside) > 6:
            inside = [t for t in inside if math.log10(t) == round(math.log10(t))]
        return Scale(low * 0.95, high * 1.05, start, end, True, inside)
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    ticks = nice_ticks(low, high)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else high - low
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return Scale(low, high, start, end, False, nice_ticks(low, high))


def span(values: Sequence[float], start: float, end: float) -> Scale:
    """A scale of exactly the values' range: for an axis of steps, where room beyond the last one is wasted."""
    low, high = min(values), max(values)
    high = high if high > low else low + 1
    return Scale(low, high, start, end, False, nice_ticks(low, high))


def number(v: float) -> str:
    """Short and exact enough to read: 3 significant digits, thousands as k."""
    if v == 0:
        return "0"
    if abs(v) >= 10_000:
        return f"{v / 1000:.3g}k"
    return f"{v:.3g}" if abs(v) < 1000 else f"{v:.0f}"


def thin(points: Sequence[tuple[float, float]], limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most `limit` points: means of equal runs, so that nothing is left out."""
    size = max(1, math.ceil(len(points) / limit))
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(g[-1][0], sum(y for _, y in g) / len(g)) for g in groups]


def smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Exponential moving average over about a thirtieth of the curve, without start-up bias."""
    decay = 1 - 1 / max(4, len(points) / 30)
    out, total, weight = [], 0.0, 0.0
    for x, y in points:
        total, weight = decay * total + (1 - decay) * y, decay * weight + 1 - decay
        out.append((x, total / weight))
    return out


def _open(title: str, width: int, height: int) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}" class="plot">'
        f'<text x="{LEFT}" y="13" class="title">{escape(title)}</text>'
    )


def _axes(x: Scale, y: Scale, x_label: str, width: int, height: int) -> str:
    out = []
    for t in y.ticks:
        v = y(t)
        out.append(f'<line x1="{LEFT}" x2="{width - RIGHT}" y1="{v}" y2="{v}" class="grid"/>')
        out.append(f'<text x="{LEFT - 5}" y="{v + 3.5}" class="tick end">{number(t)}</text>')
    for t in x.ticks:
        v = x(t)
        out.append(f'<line x1="{v}" x2="{v}" y1="{height - BOTTOM}" y2="{height - BOTTOM + 4}" class="axis"/>')
        out.append(f'<text x="{v}" y="{height - BOTTOM + 15}" class="tick mid">{number(t)}</text>')
    base = height - BOTTOM
    out.append(f'<line x1="{LEFT}" x2="{width - RIGHT}" y1="{base}" y2="{base}" class="axis"/>')
    out.append(f'<text x="{(LEFT + width - RIGHT) / 2}" y="{height - 4}" class="tick mid">{escape(x_label)}</text>')
    return "".join(out)


def line_chart(
    title: str,
    series: Sequence[Series],
    x_label: str = "step",
    log: bool = False,
    marks: Sequence[Mark] = (),
    width: int = WIDTH,
    height: int = HEIGHT,
) -> str:
    """Curves over a common x axis. Points that cannot be drawn (not finite; on a log axis not positive) are left out.

    Returns "" when no point is left.
    """
    curves = []
    for s in series:
        ok = [(px, py) for px, py in s.points if math.isfinite(py) and (py > 0 or not log)]
        if ok:
            curves.append((s, thin(ok)))
    if not curves:
        return ""
    xs = [px for _, pts in curves for px, _ in pts] + [m.x for m in marks]
    ys = [py for _, pts in curves for _, py in pts]
    log = log and max(ys) / min(ys) > 3  # less than half a decade reads better on a linear axis
    sx, sy = span(xs, LEFT, width - RIGHT), scale(ys, height - BOTTOM, TOP, log)
    out = [_open(title, width, height), _axes(sx, sy, x_label, width, height)]
    for i, m in enumerate(marks):
        v = sx(m.x)
        out.append(f'<line x1="{v}" x2="{v}" y1="{TOP}" y2="{height - BOTTOM}" class="mark"/>')
        out.append(f'<text x="{v + 3}" y="{TOP + 9 + 11 * (i % 2)}" class="tick">{escape(m.label)}</text>')
    for s, pts in curves:
        path = " ".join(f"{sx(px)},{sy(py)}" for px, py in pts)
        faint = " faint" if s.faint else ""
        out.append(f'<polyline points="{path}" class="line c{s.colour % 8}{faint}"/>')
        if not s.faint:
            name = f"{s.name}, " if s.name else ""
            out += [
                f'<circle cx="{sx(px)}" cy="{sy(py)}" r="5" class="hit"><title>'
                f"{escape(name)}{escape(x_label)} {number(px)}: {py:.4g}</title></circle>"
                for px, py in thin(pts, 60)
            ]
    named = [s for s, _ in curves if s.name and not s.faint]
    if len(named) > 1:
        for i, s in enumerate(named):
            y = TOP + 8 + 12 * i
            out.append(f'<line x1="{width - 92}" x2="{width - 78}" y1="{y}" y2="{y}" class="line c{s.colour % 8}"/>')
            out.append(f'<text x="{width - 74}" y="{y + 3.5}" class="tick">{escape(s.name)}</text>')
    return "".join(out) + "</svg>"


@dataclass(frozen=True)
class Interval:
    """One row of an interval plot; `value` None is drawn as the word `note`."""

    label: str
    value: float | None
    low: float = 0.0
    high: float = 0.0
    colour: int = 0
    note: str = "untestable"


def interval_chart(
    title: str,
    rows: Sequence[Interval],
    reference: float | None = None,
    reference_label: str = "chance",
    width: int = WIDTH,
    label_width: int = 118,
) -> str:
    """Values in [0, 1] with their intervals, one row each, above a reference line."""
    row = 20
    height = TOP + row * len(rows) + BOTTOM
    x = Scale(0, 1, label_width, width - 22, False, [0, 0.25, 0.5, 0.75, 1])
    base = height - BOTTOM + 4
    out = [_open(title, width, height).replace(f'<text x="{LEFT}"', '<text x="2"')]
    for t in x.ticks:
        out.append(f'<line x1="{x(t)}" x2="{x(t)}" y1="{TOP}" y2="{base}" class="grid"/>')
        out.append(f'<text x="{x(t)}" y="{base + 13}" class="tick mid">{round(100 * t)} %</text>')
    if reference is not None:
        v = x(reference)
        out.append(f'<line x1="{v}" x2="{v}" y1="{TOP}" y2="{base}" class="mark"/>')
        out.append(f'<text x="{v}" y="{base + 25}" class="tick mid">{escape(reference_label)}</text>')
    for i, r in enumerate(rows):
        y = TOP + row * i + row / 2
        out.append(f'<text x="{label_width - 8}" y="{y + 4}" class="tick end">{escape(r.label)}</text>')
        if r.value is None:
            out.append(f'<text x="{label_width + 4}" y="{y + 4}" class="tick">{escape(r.note)}</text>')
            continue
        text = f"{r.label}: {100 * r.value:.1f} % ({100 * r.low:.1f} to {100 * r.high:.1f} %)"
        out.append(
            f"<g><title>{escape(text)}</title>"
            f'<rect x="{label_width}" y="{y - 9}" width="{width - label_width - 22}" height="18" class="hit"/>'
            f'<line x1="{x(r.low)}" x2="{x(r.high)}" y1="{y}" y2="{y}" class="line c{r.colour % 8}"/>'
            f'<circle cx="{x(r.value)}" cy="{y}" r="4" class="dot c{r.colour % 8}"/></g>'
        )
    return "".join(out) + "</svg>"


def bar_chart(title: str, rows: Sequence[tuple[str, float]], width: int = WIDTH, label_width: int = 118) -> str:
    """Horizontal bars of counts, in the given order, each with its number and its share of the largest."""
    if not rows:
        return ""
    row, top = 20, TOP
    height = top + row * len(rows) + 6
    most = max(v for _, v in rows) or 1
    out = [_open(title, width, height).replace(f'<text x="{LEFT}"', '<text x="2"')]
    room = width - label_width - 52
    for i, (label, v) in enumerate(rows):
        y = top + row * i
        w = round(room * v / most, 2)
        out.append(
            f"<g><title>{escape(label)}: {v:g} ({100 * v / most:.0f} %)</title>"
            f'<text x="{label_width - 8}" y="{y + 14}" class="tick end">{escape(label)}</text>'
            f'<rect x="{label_width}" y="{y + 3}" width="{max(w, 1)}" height="14" class="bar"/>'
            f'<text x="{label_width + w + 5}" y="{y + 14}" class="tick">{v:g}</text></g>'
        )
    return "".join(out) + "</svg>"


def histogram(
    title: str,
    values: Sequence[float],
    marks: Sequence[Mark] = (),
    bins: int = 36,
    width: int = WIDTH,
    height: int = HEIGHT,
) -> str:
    """How often values occur, with labelled lines across; "" without values.

    The axis has the middle 99 % of them and the marks; bars at its ends count what lies beyond.
    """
    known = sorted(v for v in values if math.isfinite(v))
    if not known:
        return ""
    tail = len(known) // 200
    ends = [known[tail], known[-1 - tail], *(m.x for m in marks)]
    x = span(ends, LEFT, width - RIGHT)
    counts = [0] * bins
    for v in known:
        counts[min(max(int((v - x.low) / (x.high - x.low) * bins), 0), bins - 1)] += 1
    y = scale([0, max(counts)], height - BOTTOM, TOP)
    out = [_open(title, width, height), _axes(x, y, "", width, height)]
    step, base = (width - RIGHT - LEFT) / bins, height - BOTTOM
    for i, n in enumerate(counts):
        low, high = (x.low + (x.high - x.low) * (i + j) / bins for j in (0, 1))
        if n:
            out.append(
                f'<rect x="{LEFT + step * i:.2f}" y="{y(n)}" width="{max(step - 0.6, 0.4):.2f}" '
                f'height="{base - y(n):.2f}" class="bar"><title>{number(low)} to {number(high)}: {n}</title></rect>'
            )
    for i, m in enumerate(marks):
        out.append(f'<line x1="{x(m.x)}" x2="{x(m.x)}" y1="{TOP}" y2="{base}" class="mark"/>')
        out.append(f'<text x="{x(m.x) + 3}" y="{TOP + 9 + 11 * (i % 6)}" class="tick">{escape(m.label)}</text>')
    return "".join(out) + "</svg>"


def document(charts: Sequence[str], width: int = WIDTH, height: int = HEIGHT) -> str:
    """A file of its own with charts of one size, one below the other."""
    placed = (
        c.replace("<svg ", f'<svg y="{i * height}" width="{width}" height="{height}" ', 1) for i, c in enumerate(charts)
    )
    total = height * len(charts)
    shown = f'width="{2 * width}" height="{2 * total}" viewBox="0 0 {width} {total}" font-family="system-ui,sans-serif"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {shown}><style>:root{{{LIGHT}}}{STYLE}</style>'
        f'<rect width="{width}" height="{total}" fill="#fff"/>{"".join(placed)}</svg>\n'
    )
