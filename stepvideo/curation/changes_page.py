"""One HTML page of what changed between two versions: reasons as bars, sets, tags as curves, concepts, words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from stepvideo import svg
from stepvideo.page_style import CSS

PLOTS = 12  # columns that are drawn, those that moved most


def page(found: Mapping[str, Any], a: str, b: str) -> str:
    """The page.

    Args:
        found: of `changes.changes`; with "settings", lines of what differs in the configs.
        a, b: names of the sides.
    """
    clips, raw = found["clips"], found["raw"]
    out, new = (sum(r["clips"] for r in clips[side]) for side in ("out", "in"))
    drifted = [t["tag"] for t in found["tags"] if t["drifted"]]
    concepts = found["concepts"]
    lead = (
        f"{clips['a']} clips were {clips['b']}: {out} went, {new} came, {clips['both']} stayed. "
        f"Raw files: {raw['added']} added, {raw['removed']} removed, {raw['changed']} changed. "
        + (f"Drifted: {', '.join(drifted)}." if drifted else "No tag drifted.")
    )
    parts = [f"<h1>{escape(a)} → {escape(b)}</h1><p class=lead>{escape(lead)}</p>"]
    parts += [_settings(found.get("settings") or []), _clips(found), _sets(found, a, b), _tags(found, a, b)]
    if concepts:
        parts.append(_concepts(concepts, a, b, found["group"]))
    if found["words"] and found["words"]["rows"]:
        rows = [(r["word"], r["share_a"], r["share_b"], r["z"]) for r in found["words"]["rows"]]
        parts.append(f"<h2>Words of captions</h2>{_shares(rows, 'word', a, b)}")
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(a)} → {escape(b)}</title>"
    view = '<meta name=viewport content="width=device-width,initial-scale=1">'
    return f"{head}{view}<style>{CSS}</style><main>{''.join(parts)}</main></html>\n"


def _settings(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    return f"<h2>Settings</h2><ul>{''.join(f'<li><code>{escape(line)}</code></li>' for line in lines)}</ul>"


def _clips(found: Mapping[str, Any]) -> str:
    titles = {"out": "Clips that went", "in": "Clips that came"}
    plots = [_bars(titles[side], found["clips"][side]) for side in ("out", "in")]
    named = [
        f"<p class=soft>{escape(kind)}: {escape(', '.join(files))}</p>"
        for kind, files in found["raw"]["examples"].items()
        if files
    ]
    return f"<h2>Clips and why</h2><div class=plots>{''.join(plots)}</div>{''.join(named)}"


def _sets(found: Mapping[str, Any], a: str, b: str) -> str:
    if not found["sets"]:
        return ""
    levels = list(found["sets"].items())
    lines = [
        svg.Series(name, [(i + 1, float(s[side])) for i, (_, s) in enumerate(levels)], colour)
        for colour, (side, name) in enumerate((("a", a), ("b", b)))
    ]
    plots = [f"<div>{svg.line_chart('clips in s1 … s6', lines, 'subset')}</div>"]
    for name, s in levels:
        for side, title in (("out", f"went from {name}"), ("in", f"came to {name}")):
            if s[side]:
                plots.append(_bars(title, s[side]))
    return f"<h2>Sets</h2><div class=plots>{''.join(plots)}</div>"


def _bars(title: str, reasons: Sequence[Mapping[str, Any]]) -> str:
    rows = [(r["reason"], float(r["clips"])) for r in reasons[:10]]
    chart = svg.bar_chart(title, rows, label_width=190) or f"<p class=soft>{escape(title)}: none</p>"
    return f"<div>{chart}</div>"


def _tags(found: Mapping[str, Any], a: str, b: str) -> str:
    plots = []
    for t in found["tags"][:PLOTS]:
        middles = [(x + y) / 2 for x, y in zip(t["edges"], t["edges"][1:])]
        lines = [
            svg.Series(name, list(zip(middles, t[share])), colour)
            for colour, (name, share) in enumerate(((a, "share_a"), (b, "share_b")))
        ]
        title = f"{t['tag']}: PSI {t['psi']:.2f}{' drifted' if t['drifted'] else ''}"
        plots.append(f"<div>{svg.line_chart(title, lines, t['tag'])}</div>")
    head = ("tag", f"mean {a}", f"mean {b}", "shift (SD)", "PSI", "by chance", "KS", "known", "")
    rows = [
        (
            t["tag"],
            *(f"{t[k]:.4g}" for k in ("mean_a", "mean_b")),
            *(f"{t[k]:+.2f}" if k == "shift" else f"{t[k]:.3f}" for k in ("shift", "psi", "chance", "ks")),
            f"{t['known_a']:.0%} → {t['known_b']:.0%}",
            "drifted" if t["drifted"] else "",
        )
        for t in found["tags"]
    ]
    said = (
        f"Clips of {found['group']}. A column has drifted where its population stability index is "
        f"{found['threshold']:g} or more above what chance makes of two samples of these sizes."
    )
    return f"<h2>Tags</h2><p class=soft>{said}</p><div class=plots>{''.join(plots)}</div>{_table(head, rows)}"


def _concepts(concepts: Mapping[str, Any], a: str, b: str, group: str) -> str:
    said = (
        f"{concepts['clusters_a']} clusters of {a}; each of the {concepts['clusters_b']} of {b} counts for the nearest "
        f"of them, or as new. Clips of {group}. PSI {concepts['psi']:.3f}, by chance {concepts['chance']:.3f}"
        + (": drifted." if concepts["drifted"] else ".")
    )
    rows = [(f"{r['concept']} {r['words']}".strip(), r["share_a"], r["share_b"], r["z"]) for r in concepts["rows"]]
    return f"<h2>Concepts</h2><p>{escape(said)}</p>{_shares(rows, 'concept', a, b)}"


def _shares(rows: Sequence[tuple[str, float, float, float]], what: str, a: str, b: str) -> str:
    sides = [
        (a, [(r[0], round(100 * r[1], 2)) for r in rows[:12]]),
        (b, [(r[0], round(100 * r[2], 2)) for r in rows[:12]]),
    ]
    bars = [svg.bar_chart(f"{what}s, % of clips of {name}", drawn, label_width=150) for name, drawn in sides]
    cells = [(name, f"{p:.2%}", f"{q:.2%}", f"{z:+.1f}") for name, p, q, z in rows]
    plots = "".join(f"<div>{bar}</div>" for bar in bars)
    return f"<div class=plots>{plots}</div>{_table((what, a, b, 'standard errors'), cells)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in row)}</tr>" for row in rows)
    return f"<div class=wide><table><tr>{top}</tr>{body}</table></div>"
