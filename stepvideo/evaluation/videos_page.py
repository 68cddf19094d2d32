"""Results of `stepvideo evaluate videos` for eyes: Markdown tables, and one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from stepvideo.evaluation.page import page

ARROWS = {"higher": "↑", "lower": "↓"}
FOOT = (
    "Means are over videos, with 95 % intervals over prompts; a value that could not be measured is in no "
    "mean and is counted with its reason. results.json and scores.jsonl hold every figure."
)
Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def values_table(found: Mapping[str, Any]) -> Table:
    """A row a value that has any: mean, interval, counts."""
    rows = [
        (f"{name} {ARROWS.get(v['better'], '')}".strip(), *_estimate(v["all"]))
        for name, v in found["values"].items()
        if v["all"]["n"]
    ]
    return ("value", "mean", "95 % interval", "videos", "prompts"), rows


def nulls_table(found: Mapping[str, Any]) -> Table:
    """A row a reason: which values it left out, of how many videos."""
    reasons: dict[tuple[str, int], list[str]] = {}
    for name, v in found["values"].items():
        for reason, n in v["all"]["null"].items():
            reasons.setdefault((reason, n), []).append(name)
    return ("not measured", "videos", "why"), [(", ".join(names), str(n), why) for (why, n), names in reasons.items()]


def group_table(found: Mapping[str, Any], by: str) -> Table:
    """A row a category or dimension, a column a value that has any mean."""
    named = {name: v[by] for name, v in found["values"].items() if any(g["n"] for g in v[by].values())}
    groups = list(dict.fromkeys(g for groups in named.values() for g in groups))
    rows = []
    for group in groups:
        cells = [_estimate(v[group]) for v in named.values()]
        counts = max((int(c[2]) for c in cells), default=0)
        rows.append((group, str(counts), *(f"{mean} {interval}".strip() for mean, interval, *_ in cells)))
    return (by.removeprefix("by_"), "videos", *named), rows


def contrast_table(found: Mapping[str, Any]) -> Table:
    rows = []
    for name, v in found["values"].items():
        d = v["difference"]
        said = ("–", "", "", "") if d is None else (_number(d["value"]), _interval(d), _p(v["p"]), _p(v["p_holm"]))
        rows.append((f"{name} {ARROWS.get(v['better'], '')}".strip(), *said, str(v["pairs"]), v["verdict"]))
    return ("value", "a − b", "95 % interval", "p", "p (Holm)", "pairs", "verdict"), rows


def markdown(found: Mapping[str, Any], contrasted: bool = False) -> str:
    """Of a result or, if `contrasted`, of a comparison."""
    parts = [f"# {_title(found, contrasted)}\n\n{lead(found, contrasted)}\n"]
    for heading, table in _tables(found, contrasted):
        head, rows = table
        lines = [head, ["---"] * len(head), *rows]
        parts.append(f"## {heading}\n\n" + "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines))
    return "\n".join(parts)


def html(found: Mapping[str, Any], contrasted: bool = False) -> str:
    sections = []
    for heading, (head, rows) in _tables(found, contrasted):
        first = "".join(f"<th>{escape(h)}</th>" for h in head)
        body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
        sections.append(
            (heading.replace(" ", "-"), heading, f'<div class="wide"><table><tr>{first}</tr>{body}</table></div>')
        )
    return page(_title(found, contrasted), sections, escape(lead(found, contrasted)), FOOT)


def lead(found: Mapping[str, Any], contrasted: bool = False) -> str:
    """What was scored, in a sentence or two; what is missing comes first."""
    digest = str(found["suite"].get("sha256") or "")[:12]
    if contrasted:
        unpaired = f" {len(found['unpaired'])} videos have no partner and are left out." if found["unpaired"] else ""
        seeds = "the same seeds" if found["same_seeds"] else "seeds that are not known to be the same"
        return f"{found['pairs']} pairs of videos of suite {digest}, {seeds}.{unpaired}"
    partial = found["partial"]
    text = f"PARTIAL: {len(partial['missing'])} of {partial['expected']} videos are missing. " if partial else ""
    s = found["settings"]
    made = [f"{name.replace('_', ' ')} {s[name]}" for name in ("model", "steps", "nfe", "guidance") if s[name]]
    differs = found["suite"].get("differs")
    text += f"{found['videos']} videos of {found['prompts']} prompts of suite {digest}"
    text += f", which differs from the public one ({'; '.join(differs)})" if differs else ""
    return text + (f"; {', '.join(made)}." if made else "; how they were made is not known.")


def _tables(found: Mapping[str, Any], contrasted: bool) -> list[tuple[str, Table]]:
    if contrasted:
        return [("Differences", contrast_table(found))]
    tables = [("Values", values_table(found))]
    tables += [("Not measured", nulls)] if (nulls := nulls_table(found))[1] else []
    for by in ("by_category", "by_dimension"):
        table = group_table(found, by)
        tables += [(by.replace("_", " ").capitalize(), table)] if table[1] else []
    return tables


def _title(found: Mapping[str, Any], contrasted: bool) -> str:
    return f"{found['suite'].get('suite') or 'videos'}: " + ("two models" if contrasted else "automatic metrics")


def _estimate(e: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return _number(e["mean"]), _interval(e), str(e["n"]), str(e["prompts"])


def _interval(e: Mapping[str, Any]) -> str:
    if e["low"] is None:
        return "" if e["mean"] is None else "(no interval: one prompt)"
    return f"({_number(e['low'])} to {_number(e['high'])})"


def _number(x: float | None) -> str:
    return "–" if x is None else f"{x:.4g}"


def _p(p: float) -> str:
    return f"{p:.2g}" if p >= 0.001 else "< 0.001"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
