"""The contact sheet as HTML: functions from figures to text. Whatever a file or a caption says is escaped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from stepvideo.curation import funnel, sheet_captions
from stepvideo.curation.sheet_data import Card, Sheet
from stepvideo.page_style import CSS
from stepvideo.svg import Mark, bar_chart, histogram

ASSETS = Path(__file__).with_name("sheet_assets")
PLOTS = 40  # histograms; those with a threshold come first


def page(sheet: Sheet, listed: int) -> str:
    """The whole page; lists have at most `listed` rows and say how many there are."""
    sections = (
        ("funnel", "What the filters leave", _funnel(sheet)),
        ("tags", "Tags and thresholds", _histograms(sheet)),
        ("captions", "Captions", sheet_captions.section(sheet.captions)),
        ("clips", "Clips", _clips(sheet)),
        ("files", "Files and their shots", _files(sheet, listed)),
        ("quarantine", "Quarantine", _quarantine(sheet, listed)),
    )
    kept = [s for s in sections if s[2]]
    nav = "".join(f'<a href="#{i}">{title}</a>' for i, title, _ in kept)
    body = "".join(f'<section id="{i}"><h2>{title}</h2>{html}</section>' for i, title, html in kept)
    kinds = ", ".join(f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in sorted(sheet.kinds.items()))
    out = sum(r["status"] == "quarantined" for r in sheet.files)
    lead = f"{len(sheet.files)} files gave {kinds}; {out} in quarantine. {len(sheet.cards)} of {sheet.total} are shown."
    style, script = ((ASSETS / name).read_text(encoding="utf-8") for name in ("sheet.css", "sheet.js"))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>Curated clips</title><style>{CSS}{style}</style></head><body><main><h1>Curated clips</h1>"
        f'<p class="lead">{lead}</p><nav>{nav}</nav>{body}</main><script>{script}</script></body></html>\n'
    )


def _funnel(sheet: Sheet) -> str:
    if not sheet.verdicts.levels:
        return ""
    base = ", ".join(f"{n} {what.replace('_', ' ')}" for what, n in sheet.verdicts.funnel["base"].items())
    return f'<p class="num">{escape(base)}</p><div class="funnel">{funnel.svg(sheet.verdicts.levels)}</div>'


def _histograms(sheet: Sheet) -> str:
    limits = sheet.verdicts.limits()
    plots = []
    for tag in sorted(sheet.numbers, key=lambda t: (t not in limits, list(sheet.numbers).index(t)))[:PLOTS]:
        marks: dict[float, list[str]] = {}
        for subset, limit in limits.get(tag, ()):
            marks.setdefault(limit, []).append(subset)
        named = [Mark(x, s[0] if len(s) == 1 else f"{s[0]} to {s[-1]}") for x, s in marks.items()]
        plots.append(histogram(tag, sheet.numbers[tag].tolist(), named))
    said = "Video clips by tag; dashed lines are the thresholds of s1 to s6, bars at the ends hold what lies beyond."
    return f'<p>{said}</p><div class="plots">{"".join(f"<div>{p}</div>" for p in plots if p)}</div>'


def _clips(sheet: Sheet) -> str:
    rows = sorted(sheet.fates.items())
    shown = Counter((c.fate, c.cause) for c in sheet.cards)
    counts = "".join(
        f"<tr><td>{escape(fate)}</td><td>{escape(cause) or 'nothing'}</td><td>{n}</td>"
        f"<td>{shown[fate, cause]}</td></tr>"
        for (fate, cause), n in rows
    )
    head = "<tr><th>best subset</th><th>what keeps it from the next</th><th>clips</th><th>shown</th></tr>"
    fates = sorted({card.fate for card in sheet.cards})
    options = "".join(f'<option value="{escape(f)}">{escape(f)}</option>' for f in fates)
    choice = f'<label class="choice">Show <select id="fate"><option value="">all</option>{options}</select></label>'
    cards = "".join(_card(card) for card in sheet.cards)
    return f'<div class="wide"><table class="left">{head}{counts}</table></div>{choice}<div class="cards">{cards}</div>'


def _card(card: Card) -> str:
    clip = card.clip
    alt = escape(f"{clip.kind} {clip.clip_id}")
    if card.media:
        film = (
            f'<video src="{escape(card.media)}" poster="{escape(card.picture)}" aria-label="{alt}" '
            f'style="--ar:{clip.width}/{clip.height}" muted loop playsinline controls preload="none"></video>'
        )
    elif card.picture:
        film = f'<img src="{escape(card.picture)}" alt="{alt}" style="--ar:{clip.width}/{clip.height}" loading="lazy">'
    else:
        film = f'<p class="bad">{escape(card.error)}</p>'
    captions = "".join(
        f"<p><small>{escape(kind)} {escape(lang)}</small> {escape(text)}</p>"
        for kind, said in clip.captions.items()
        for lang, texts in said.items()
        for text in texts
    )
    tags = "".join(f"<dt>{escape(t)}</dt><dd>{v:.4g}</dd>" for t, v in card.tags.items())
    source = clip.source
    where = f"{source.get('file', clip.file)} · frames {source.get('start', 0)} to {source.get('end', clip.frames)}"
    chip = "good" if card.fate not in ("out", "all") else "none"
    why = f'<p class="why">not in {escape(card.reason)}</p>' if card.reason.startswith("s") else ""
    why = why or (f'<p class="why">{escape(card.reason)}</p>' if card.reason else "")
    members = f" · in {', '.join(card.members)}" if card.members else ""
    return (
        f'<article class="card" id="clip-{escape(clip.clip_id)}" data-fate="{escape(card.fate)}">{film}'
        f'<p class="where"><span class="chip {chip}">{escape(card.fate)}</span>{escape(where)}</p>{why}'
        f"<div>{captions}</div><details><summary>{len(card.tags)} tags</summary><dl>{tags}</dl>"
        f"<p><small>{escape(clip.clip_id)}{escape(members)}</small></p></details></article>"
    )


def _files(sheet: Sheet, listed: int) -> str:
    shown = {card.clip.clip_id for card in sheet.cards}
    rows = [r for r in sheet.files if r["status"] == "accepted" and r["kind"] == "video"]
    rows.sort(key=lambda r: -len(sheet.spans.get((r["role"], r["file"]), ())))
    lines = "".join(_timeline(row, sheet, shown) for row in rows[:listed])
    said = "A bar is a file from its first frame to its last; blue are its clips, grey what was dropped."
    return f'<p>{said} {_of(listed, len(rows))}</p><div class="files">{lines}</div>' if rows else ""


def _timeline(row: Mapping[str, Any], sheet: Sheet, shown: set[str]) -> str:
    spans = sorted(sheet.spans.get((row["role"], row["file"]), ()))
    total = max([row["frames"] or 0, *(end for _, end, _ in spans), 1])
    bars = []
    for start, end, key in spans:
        bar = f'<rect x="{start}" y="0" width="{end - start}" height="10"><title>frames {start} to {end}</title></rect>'
        bars.append(f'<a href="#clip-{escape(key)}">{bar}</a>' if key in shown else bar)
    about = f"{row['frames']} frames, {row['shots']} shots, {len(spans)} clips, {row['dropped_shots'] or 0} dropped"
    return (
        f'<div><p class="where">{escape(row["file"])} <small>{about}</small></p>'
        f'<svg viewBox="0 0 {total} 10" preserveAspectRatio="none" class="timeline" role="img" '
        f'aria-label="shots of {escape(row["file"])}"><rect width="{total}" height="10" class="gap"/>{"".join(bars)}'
        "</svg></div>"
    )


def _quarantine(sheet: Sheet, listed: int) -> str:
    rows = [r for r in sheet.files if r["status"] == "quarantined"]
    if not rows:
        return "<p>No file is in quarantine.</p>"
    reasons = Counter(r["reason"] for r in rows).most_common()
    lines = "".join(
        f'<tr><td class="where">{escape(r["file"])}</td><td>{escape(r["reason"])}</td>'
        f'<td class="where">{escape(r["detail"])}</td></tr>'
        for r in rows[:listed]
    )
    return (
        f'<div class="plots"><div>{bar_chart("Files by reason", reasons)}</div></div><p>{_of(listed, len(rows))}</p>'
        '<div class="wide"><table class="left"><tr><th>file</th><th>reason</th><th>detail</th></tr>'
        f"{lines}</table></div>"
    )


def _of(listed: int, total: int) -> str:
    return f"{listed} of {total} are listed." if total > listed else f"{total} in all."
