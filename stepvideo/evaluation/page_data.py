"""Sections of the report page about how the models were made: training curves, data, lineage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from stepvideo.evaluation.collect import Collected, Curve, label
from stepvideo.evaluation.switches import chained, families, switches
from stepvideo.svg import Mark, Series, bar_chart, line_chart, smooth


def curves_html(curves: Sequence[Curve]) -> str:
    """A plot of the loss and one of the gradient norm a family of stages.

    Stages NAME.s1, NAME.s2, … continue each other on other data: one line with a mark at every switch. NAME.1, NAME.2,
    … are parallel runs: lines over each other.
    """
    out = []
    for name, members in families(curves).items():
        for column in members[0].columns[1:]:  # preference training has more than the loss and the norm
            series, marks = _chain(members, column) if chained(members) else (_parallel(members, column), [])
            word = {"grad_norm": "gradient norm"}.get(column, column.replace("_", " "))
            if plot := line_chart(f"{label(name)}: {word}", series, log=column == "grad_norm", marks=marks):
                out.append(f"<div>{plot}{_drops(members) if column == 'loss' else ''}</div>")
    if not out:
        return ""
    return (
        "<p>Bold lines are moving averages, pale ones the steps themselves. A dashed line marks a change of data set: "
        "the loss of another set is not comparable, because its easiest reachable loss is another one. The step there "
        "is that of lines through the steps before and after it, with its 95 % interval.</p>"
        f'<div class="plots">{"".join(out)}</div>'
    )


def _chain(members: Sequence[Curve], column: str) -> tuple[list[Series], list[Mark]]:
    series, marks, start = [], [], 0.0
    for c in members:
        marks.append(Mark(start, c.stage.rpartition(".")[2]))
        points = [(start + x, y) for x, y in c.points(column)]
        # Averages start anew, or they would hide the jump that the mark is there to show.
        series += [Series("", points, faint=True), Series("", smooth(points))]
        start += c.rows[-1][0] + 1
    return series, marks


def _drops(members: Sequence[Curve]) -> str:
    """The loss at each switch of data, before minus after, with its interval."""
    said = [
        f"{s.before} → {s.after}: {-s.drop.value:+.3g} ({-s.drop.high:+.3g} to {-s.drop.low:+.3g}), {s.verdict}"
        for s in (switches(members) if chained(members) else [])
    ]
    return f"<p><small>Loss at the switch: {escape('; '.join(said))}.</small></p>" if said else ""


def _parallel(members: Sequence[Curve], column: str) -> list[Series]:
    series = []
    for i, c in enumerate(members):
        if points := c.points(column):
            name = c.stage.rpartition(".")[2] if len(members) > 1 else ""
            series += [Series(name, points, i, faint=True), Series(name, smooth(points), i)]
    return series


def funnel_html(data: Collected) -> str:
    """Raw files to clips, and the six nested subsets filter by filter."""
    out = []
    if data.curate:
        f = data.curate
        rows = [("files", f.get("files", 0)), ("accepted", f.get("accepted", 0)), ("shots", f.get("shots", 0))]
        rows += [(f"{k}s", v) for k, v in f.get("kinds", {}).items()]
        out.append(bar_chart("From files to clips", rows))
        if f.get("quarantined"):
            out.append(bar_chart("Quarantined files, by reason", list(f["quarantined"].items())))
    if data.subsets:
        levels = data.subsets.get("levels", [])
        rows = [("candidates", levels[0]["into"])] if levels else []
        rows += [(level["subset"], level["left"]) for level in levels]
        rows += [("images", data.subsets.get("images", 0))]
        rows += [(f"SFT {i + 1}", n) for i, n in enumerate(data.subsets.get("sft", []))]
        out.append(bar_chart("Nested subsets", rows))
    plots = "".join(f"<div>{p}</div>" for p in out if p)
    table = _filter_table(data.subsets.get("levels", []))
    return f'<div class="plots">{plots}</div>{table}' if plots else ""


def _filter_table(levels: Sequence[Mapping[str, Any]]) -> str:
    """What each filter removed at each level, in its turn."""
    if not levels:
        return ""
    names = [f["filter"] for f in levels[0]["filters"]]
    head = "".join(f"<th>{escape(h)}</th>" for h in ("removed by", *(level["subset"] for level in levels)))
    lines = []
    for name in names:
        cells = ""
        for level in levels:
            step = next((f for f in level["filters"] if f["filter"] == name), None)
            bar = "" if step is None or step["threshold"] is None else f"<small>bar {step['threshold']:.3g}</small>"
            cells += f"<td>{step['removed'] if step else ''}{bar}</td>"
        lines.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    left = "".join(f"<td><b>{level['left']}</b></td>" for level in levels)
    lines.append(f"<tr><td><b>left</b></td>{left}</tr>")
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def lineage_html(nodes: Sequence[Mapping[str, Any]]) -> str:
    """The artifacts as a tree, from what nothing else here uses down to the raw data; each is unfolded once."""
    if not nodes:
        return ""
    by_name = {n["stage"]: n for n in nodes}
    used = {i for n in nodes for i in n.get("inputs", [])}
    seen: set[str] = set()

    def branch(name: str) -> str:
        node = by_name.get(name)
        if node is None:
            return f"<li>{escape(label(name))}</li>"
        ids = f"<code>{escape(node['key'][:8])}</code> <code>{escape(node['digest'][:12])}</code>"
        if name in seen:
            return f"<li>{escape(name)} {ids} <small class='soft'>as above</small></li>"
        seen.add(name)
        below = "".join(branch(i) for i in node.get("inputs", []))
        return f"<li>{escape(name)} {ids}{f'<ul>{below}</ul>' if below else ''}</li>"

    roots = [n["stage"] for n in nodes if n["stage"] not in used]
    return (
        "<p>What every artifact was made from: stage, key (of code, config and inputs), digest (of content).</p>"
        f'<ul class="tree">{"".join(branch(r) for r in roots)}</ul>'
    )
