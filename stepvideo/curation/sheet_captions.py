"""The section of the contact sheet that says how captions are: languages, lengths, vocabulary, repetition, doubts."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from stepvideo.svg import bar_chart, histogram

NAMES = {"zh": "Chinese, in characters", "en": "English, in words"}
REPEATED = 5  # texts that are named


def section(found: Mapping[str, Any]) -> str:
    """HTML from statistics.json of the stage `captions` or `labels`; "" without captions."""
    if not found.get("captions"):
        return ""
    plots = [histogram(f"Length, {NAMES.get(name, name)}", _lengths(g)) for name, g in found["languages"].items()]
    plots += [bar_chart("Captions by language", [(name, g["captions"]) for name, g in found["languages"].items()])]
    plots += [bar_chart("Captions that are doubted, by reason", list(found["flags"].items()))]
    said = f"{found['captions']} captions of {found['clips']} clips; {found['flagged']} are doubted."
    reason = found.get("without_clip_score")
    absent = f" No CLIP Score: {escape(reason)}." if reason else ""
    return (
        f"<p>{said}{absent}</p>{_table(found)}"
        f'<div class="plots">{"".join(f"<div>{p}</div>" for p in plots if p)}</div>{_repeated(found)}'
    )


def _lengths(group: Mapping[str, Any]) -> list[float]:
    return [float(length) for length, count in group["lengths"].items() for _ in range(count)]


def _table(found: Mapping[str, Any]) -> str:
    names = ("captions", "number", "different", "doubted", "length: mean", "5 %", "95 %", "vocabulary", "CLIP Score")
    groups = [*found["groups"].items(), *((f"all {name}", g) for name, g in found["languages"].items())]
    rows = []
    for name, g in groups:
        score = "" if g["clip_score"] is None else f"{g['clip_score']:.3f}"
        length = [f"{g['length'][k]:.1f}" for k in ("mean", "p5", "p95")]
        cells = [name, g["captions"], g["different"], g["flagged"], *length, g["vocabulary"], score]
        rows.append("".join(f"<td>{escape(str(cell))}</td>" for cell in cells))
    head = "".join(f"<th>{name}</th>" for name in names)
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(f"<tr>{row}</tr>" for row in rows)}</table></div>'


def _repeated(found: Mapping[str, Any]) -> str:
    texts = {text: n for g in found["languages"].values() for text, n in g["repeated"].items()}
    most = sorted(texts.items(), key=lambda item: (-item[1], item[0]))[:REPEATED]
    rows = "".join(f"<tr><td>{n}</td><td>{escape(text)}</td></tr>" for text, n in most)
    head = "<tr><th>times</th><th>the texts that are repeated most</th></tr>"
    return f'<div class="wide"><table class="left">{head}{rows}</table></div>' if rows else ""
