"""The report page: one HTML file that needs no network. Sections are functions from figures to HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from stepvideo.evaluation.claims import SPLIT_NAMES, Claim
from stepvideo.evaluation.collect import Run
from stepvideo.evaluation.results import (
    ATTRIBUTES,
    CHANCE,
    GATE_PARTS,
    by_split,
    clustered_rates,
    gate_estimate,
    rates,
)
from stepvideo.page_style import CSS, SCRIPT
from stepvideo.svg import Interval, interval_chart

CHIPS = {
    "met": "good",
    "preferred": "good",
    "supported": "good",
    "not met": "bad",
    "not preferred": "bad",
    "contradicted": "bad",
    "no difference shown": "open",
    "inconclusive": "open",
    "untestable": "none",
    "not measured": "none",
}


@dataclass(frozen=True)
class Film:
    """One shown sample: whose, the media as a data URI, which attributes are right."""

    label: str
    uri: str
    right: Mapping[str, bool | None]
    nfe: int
    aspect: float  # width over height


@dataclass(frozen=True)
class Shown:
    """One prompt with the samples of all runs, from the same noise."""

    text: str
    lang: str
    held_out: bool
    films: Sequence[Film]


def page(title: str, sections: Sequence[tuple[str, str, str]], lead: str, foot: str = "") -> str:
    """The whole file from (id, heading, body) of each section; empty bodies are left out."""
    kept = [s for s in sections if s[2]]
    nav = "".join(f'<a href="#{i}">{escape(h)}</a>' for i, h, _ in kept)
    body = "".join(f'<section id="{i}"><h2>{escape(h)}</h2>{b}</section>' for i, h, b in kept)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{CSS}</style></head><body><main>'
        f'<h1>{escape(title)}</h1><p class="lead">{lead}</p><nav>{nav}</nav>{body}'
        f"<footer>{foot or FOOT}</footer></main><script>{SCRIPT}</script></body></html>\n"
    )


FOOT = (
    "One sample a prompt, none chosen by hand, all scored by a program that reads the pixels. Rates have Wilson 95 % "
    "intervals; preferences and differences are paired by prompt and initial noise, with 95 % intervals over "
    "prompts and exact or sign-flip p-values. Bars were set before the run. report.json holds every figure."
)


def claims_html(claims: Sequence[Claim]) -> str:
    items = [
        f'<li><span class="chip {CHIPS[c.verdict]}">{escape(c.verdict)}</span><b>{escape(c.title)}</b>'
        f'<p class="num">{escape(c.text)}</p></li>'
        for c in claims
    ]
    return f'<ul class="claims">{"".join(items)}</ul>' if items else ""


def scores_html(runs: Sequence[Run]) -> str:
    """For each split a table of attributes by run, and for each attribute a plot with the intervals and chance."""
    if not runs:
        return ""
    out = [
        "<p>Share of samples in which the oracle reads what the prompt asked for, with 95 % intervals. NFE is the "
        "number of network evaluations that one sample costs: two a step with guidance, one without.</p>"
    ]
    for split in ("train", "heldout"):
        parts = [(r, by_split(r.rows)[split]) for r in runs if split in by_split(r.rows)]
        if not parts:
            continue
        found = [(run, rates(rows), len(rows)) for run, rows in parts]
        out.append(f"<h3>{escape(SPLIT_NAMES[split].capitalize())}</h3>")
        out.append(_score_table(found))
        plots = []
        for name in ATTRIBUTES:
            rows = [
                Interval(run.label, e.value, e.low, e.high, i)
                if (e := r[name])
                else Interval(run.label, None, note=_why_not(run, name))
                for i, (run, r, _) in enumerate(found)
            ]
            plots.append(f"<div>{interval_chart(name, rows, CHANCE[name])}</div>")
        out.append(f'<div class="plots">{"".join(plots)}</div>')
        if split == "heldout":
            out.append(_clustered_note(parts))
    return "".join(out)


def _why_not(run: Run, name: str) -> str:
    still = run.sampling["frames"] == 1
    return "n/a (still images)" if still and name == "direction" else "untestable"


def _score_table(found: Sequence[tuple[Run, Mapping[str, Any], int]]) -> str:
    head = "".join(f"<th>{h}</th>" for h in ("", "steps", "NFE", "n", *ATTRIBUTES))
    lines = []
    for run, r, n in found:
        cells = []
        for name in ATTRIBUTES:
            e = r[name]
            if e is None:
                cells.append(f'<td class="none">{_why_not(run, name)}</td>')
            else:
                cells.append(f"<td>{100 * e.value:.1f} %<small>{100 * e.low:.1f}–{100 * e.high:.1f}</small></td>")
        steps = f"<td>{run.sampling['steps']}</td><td>{run.nfe}</td><td>{n}</td>"
        lines.append(f"<tr><td>{escape(run.label)}</td>{steps}{''.join(cells)}</tr>")
    chance = "".join(f"<td>{100 * CHANCE[n]:.1f} %</td>" for n in ATTRIBUTES)
    lines.append(f'<tr class="none"><td>chance</td><td></td><td></td><td></td>{chance}</tr>')
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def _clustered_note(parts: Sequence[tuple[Run, Any]]) -> str:
    """Held-out combinations are few: the interval over them is the one that speaks of combinations like them."""
    said = []
    for run, rows in parts:
        if e := clustered_rates(rows)["all"]:
            said.append(f"{run.label} {100 * e.low:.1f}–{100 * e.high:.1f} %")
    if not said:
        return ""
    count = len({r.combination for r in parts[0][1]})
    return (
        f"<p><small>The prompts name {count} held-out combinations. Treating a combination, not a prompt, as the unit, "
        f"the intervals of all-right are: {escape('; '.join(said))}.</small></p>"
    )


def gate_html(runs: Sequence[Run]) -> str:
    """What the oracle reads on known truth; once for all runs that share it."""
    gates = {repr((run.gate, run.sampling["height"])): run for run in reversed(runs)}
    out = []
    for run in reversed(gates.values()):
        size = f"{run.sampling['frames']} frames of {run.sampling['height']}×{run.sampling['width']}"
        lines = []
        for name in (n for n in ATTRIBUTES if n != "all"):
            cells = "".join(
                f"<td>{100 * e.value:.1f} %<small>{100 * e.low:.1f}–{100 * e.high:.1f}, of {e.n}, bar "
                f"{100 * g['bar']:g} %</small></td>"
                if (e := gate_estimate(g))
                else "<td>n/a</td>"
                for g in (run.gate[part][name] for part in GATE_PARTS)
            )
            verdict = "testable" if run.testable[name] else "untestable"
            lines.append(f"<tr><td>{name}</td>{cells}<td class='{CHIPS.get(verdict, 'good')}'>{verdict}</td></tr>")
        out.append(
            f'<h3>{escape(size)}</h3><div class="wide"><table><tr><th></th><th>rendered truth</th>'
            f"<th>after the VAE</th><th></th></tr>{''.join(lines)}</table></div>"
        )
    return (
        "<p>Before any score, the oracle reads videos whose content is known: as rendered, and after the VAE coded and "
        "decoded them. What it does not read well enough is untestable and has no score below.</p>" + "".join(out)
        if out
        else ""
    )


def films_html(shown: Sequence[Shown], left_out: int) -> str:
    rows = []
    for s in shown:
        kind = "held-out combination" if s.held_out else "training combination"
        films = "".join(_film(f) for f in s.films)
        text = f'<span lang="{s.lang}">{escape(s.text)}</span>'
        rows.append(f'<div class="prompt"><p>{text}<small>{kind}</small></p><div class="films">{films}</div></div>')
    if not rows:
        return ""
    more = f" {left_out} more were kept but do not fit in this file; they are in the artifacts." if left_out else ""
    return (
        "<p>The first prompts of the fixed list, whatever came out. Every model starts from the same noise. "
        f"A click stops or restarts a row.{more}</p>{''.join(rows)}"
    )


def _film(f: Film) -> str:
    known = {n: v for n, v in f.right.items() if v is not None and n != "all"}
    wrong = [n for n, v in known.items() if not v]
    whole = all(v is not None for n, v in f.right.items() if n != "all")
    good = "all right" if whole else f"right: {', '.join(known)}"  # what is untestable is not claimed
    verdict = "not judged" if not known else good if not wrong else f"wrong: {', '.join(wrong)}"
    name = escape(f.label)
    if f.uri.startswith("data:video"):
        media = f'<video src="{f.uri}" muted loop playsinline controls preload="none" aria-label="{name}"></video>'
    else:
        media = f'<img src="{f.uri}" alt="{name}">'
    caption = f"<figcaption>{name}<small>{verdict}, NFE {f.nfe}</small></figcaption>"
    return f'<figure style="--ar:{f.aspect:.3g}">{media}{caption}</figure>'
