"""A comparison as one HTML file with its videos in a folder beside it; nothing is fetched from anywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from flows.comparison.compared import Comparison
from flows.comparison.costs import totals
from flows.comparison.films import copies
from flows.comparison.measures import HIGHER, LOWER, UNTESTABLE
from flows.comparison.origins import ABSENT, EQUAL, FIRST, FOLLOWS, Step, headline
from flows.comparison.terminal import RATES, SINGLE, SINGLE_ARE, p_value, percent, points, said
from flows.screen import clock
from stepvideo import preference, storage
from stepvideo.page_style import CSS

HERE = Path(__file__).parent
CHIPS = {HIGHER: "good", LOWER: "bad", UNTESTABLE: "none"}
STATES = {FIRST: "bad", FOLLOWS: "open", ABSENT: "none", EQUAL: "good"}


def write_page(found: Comparison, page: Path) -> None:
    """Write the page, whole or not at all, after the videos that it shows.

    Raises:
        ArtifactError: the page or its folder cannot be written.
    """
    data = {
        "names": [s.name for s in found.subjects],
        "charts": [c.as_dict() for c in found.charts],
        "films": copies(found.films, page),
    }
    storage.write_atomic(page, html(found, data))


def html(found: Comparison, data: dict[str, Any]) -> str:
    sections = [
        ("difference", "What differs first", _origins(found)),
        ("settings", "Settings that differ", _settings(found)),
        ("metrics", "Metrics", _tests(found) + _rates(found) + _metrics(found)),
        ("videos", "Videos, same prompt, same noise", _part("films.html") if data["films"] else ""),
        ("curves", "Training curves", _part("curves.html") if data["charts"] else ""),
        ("cost", "Cost", _costs(found)),
        ("missing", "Not compared", _list(found.missing) if found.missing else "<p>Nothing is missing.</p>"),
    ]
    kept = [s for s in sections if s[2]]
    nav = "".join(f'<a href="#{i}">{escape(h)}</a>' for i, h, _ in kept)
    body = "".join(f'<section id="{i}"><h2>{escape(h)}</h2>{b}</section>' for i, h, b in kept)
    title = " against ".join(s.name for s in found.subjects)
    lead = "".join(
        f'<li><b class="swatch s{i % 8}"></b><b>{escape(s.name)}</b> {escape(s.about)}</li>'
        for i, s in enumerate(found.subjects)
    )
    blob = json.dumps(data, ensure_ascii=False).replace("</", "<\\/").replace("<!--", "<\\!--")
    pages = Path(preference.__file__).with_name("pages")
    shared = "\n".join((pages / name).read_text(encoding="utf-8") for name in ("screen.js", "player.js"))
    shared = re.sub(r"^import .*\n|^export ", "", shared, flags=re.MULTILINE)  # a file:// page may load no modules
    script = "\n".join([shared, *map(_part, ("curves.js", "films.js"))])
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{CSS}{_part("page.css")}</style></head>'
        f'<body><main><h1>{escape(title)}</h1><ul class="subjects">{lead}</ul><nav>{nav}</nav>{body}</main>'
        f'<script type="application/json" id="data">{blob}</script><script>{script}</script></body></html>\n'
    )


def _part(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(x)}</li>' for x in lines)}</ul>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already; heads are not."""
    first = "".join(f"<th>{escape(h)}</th>" for h in head)
    body = "".join(f"<tr>{''.join(f'<td>{c}</td>' for c in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{first}</tr>{body}</table></div>'


def _chip(text: str, kind: str) -> str:
    return f'<span class="chip {kind}">{escape(text)}</span>'


def _origins(found: Comparison) -> str:
    out = []
    for subject, steps in zip(found.subjects[1:], found.origins):
        out.append(f"<h3>{escape(subject.name)}</h3><p>{escape(headline(steps).capitalize())}.</p>{_graph(steps)}")
    return "".join(out)


def _graph(steps: Sequence[Step]) -> str:
    """Stages in columns, none before what it reads; reasons on hover, those of first differences in the list."""
    depth: dict[str, int] = {}
    for s in steps:
        depth[s.stage] = 1 + max((depth.get(i, -1) for i in s.inputs), default=-1)
    columns = []
    for d in sorted(set(depth.values())):
        cells = [
            f'<div class="stage {STATES[s.state]}" title="{escape("; ".join(s.why) or s.state)}">'
            f"{escape(s.stage)}<small>{escape(s.state)}</small></div>"
            for s in steps
            if depth[s.stage] == d
        ]
        columns.append(f'<div class="column">{"".join(cells)}</div>')
    told = [f"{s.stage}: {'; '.join(s.why)}" for s in steps if s.state == FIRST]
    if lone := [s.stage for s in steps if s.state == ABSENT]:
        told.append(f"only one has {', '.join(lone)}")
    return f'<div class="wide graph">{"".join(columns)}</div>{_list(told)}'


def _settings(found: Comparison) -> str:
    rows = [
        [f"<code>{escape(s.key)}</code>", *(escape(said(v)) for v in s.values), "yes" if s.decides else "no"]
        for s in sorted(found.settings.differ, key=lambda s: not s.decides)
    ]
    head = ["key", *(s.name for s in found.subjects), "changes the result"]
    hidden = f"<p class='soft'>{found.settings.equal} more settings are equal.</p>"
    return (_table(head, rows) if rows else "<p>All settings are equal.</p>") + hidden


def _tests(found: Comparison) -> str:
    if not found.tests:
        return ""
    rows = []
    for t in found.tests:
        name = t.evaluation + ("" if t.run == "main" else f"/{t.run}")
        of = escape(found.subjects[t.subject].name)
        base = percent(t.base) if t.base else "50 % is equal"
        chip = _chip(t.verdict, CHIPS.get(t.verdict, "open"))
        cells = [base, percent(t.other), points(t), p_value(t.p), p_value(t.p_holm), str(t.prompts), chip]
        rows.append([escape(name), t.split, escape(t.measure), of, *cells])
    head = ["evaluation", "prompts", "measure", "of", found.subjects[0].name, "other", "difference, points (95 %)"]
    note = (
        "<p>Differences are paired by prompt and initial noise. The last column is from Holm's correction over all "
        "rows of this table: at most 5 % that any of its findings is a false one.</p>"
    )
    return note + _table([*head, "p", "p (Holm)", "n", ""], rows)


def _rates(found: Comparison) -> str:
    if not found.rates:
        return ""
    rows = [
        [f"<code>{escape(name)}</code>", *(percent(e) if e else "–" for e in values)]
        for name, values in found.rates.items()
    ]
    table = _table(["rate", *(s.name for s in found.subjects)], rows)
    return f"<details><summary>{len(rows)} {RATES}</summary>{table}</details>"


def _metrics(found: Comparison) -> str:
    if not found.metrics:
        return ""
    rows = [
        [f"<code>{escape(name)}</code>", *("–" if v is None else f"{v:.6g}" for v in values)]
        for name, values in found.metrics.items()
    ]
    table = _table(["metric", *(s.name for s in found.subjects)], rows)
    return f"<details><summary>{len(rows)} {SINGLE}</summary><p>{SINGLE_ARE}</p>{table}</details>"


def _costs(found: Comparison) -> str:
    def cell(cost: Any) -> str:
        if cost is None:
            return "–"
        notes = [f"{cost.lost:.1f} s lost in {cost.attempts - 1} attempts"] if cost.attempts and cost.lost else []
        notes += ["cached"] if cost.cached else []
        return clock(cost.seconds + cost.lost) + "".join(f"<small>{n}</small>" for n in notes)

    sums = [totals(found.costs, i) for i in range(len(found.subjects))]
    rows = [["<b>all stages</b>", *(f"<b>{clock(t['seconds'])}</b>" for t in sums)]]
    rows.append(["device-seconds", *(f"{t['device_seconds']:.0f}" for t in sums)])
    if any(s.record for s in found.subjects):
        own = [clock(t["spent_seconds"]) if s.record else "–" for t, s in zip(sums, found.subjects)]
        rows.append(["not from the store", *own])
    rows += [[escape(name), *map(cell, row)] for name, row in found.costs.items()]
    return _table(["", *(s.name for s in found.subjects)], rows)
