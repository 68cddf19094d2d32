"""The evidence of a decision between champion and challenger, as one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from stepvideo import svg
from stepvideo.evaluation.champion import Decision, Line
from stepvideo.evaluation.claims import percent, points
from stepvideo.evaluation.collect import Run
from stepvideo.evaluation.page import films_html, page
from stepvideo.evaluation.report import shown

PROMPTS, MAX_BYTES = 12, 12_000_000  # of the videos in the page
CHIPS = {"better": "good", "kept": "good", "worse": "bad", "regressed": "bad", "lost": "bad", "untestable": "none"}
WORDS = {
    "kept": "shown to be kept",
    "open": "no loss shown",
    "regressed": "lost",
    "lost": "can no longer be read",
    "tie": "no difference shown",
}


def evidence_html(decision: Decision, about: Mapping[str, Any], champion: Run, challenger: Run) -> str:
    """The whole page.

    Args:
        about: champion, challenger: {name, stage, key, digest, path}; config, data: what differs, in words.
        champion, challenger: their evaluations; refs are what the page calls them.
    """
    films, left_out = shown([champion, challenger], PROMPTS, MAX_BYTES)
    sections = [
        ("decision", "Decision", _decision(decision)),
        ("metrics", "Metrics by category", _plot(decision) + _table(decision)),
        ("videos", "The same prompts, from the same noise", films_html(films, left_out)),
        ("config", "What differs in settings", _list(about["config"], "Nothing.")),
        ("data", "What differs in data and code", _list(about["data"], "Nothing.")),
        ("models", "The two models", _models(about)),
    ]
    title = f"{about['challenger']['name']} against {about['champion']['name']}"
    return page(title, sections, escape(decision.why), _foot(decision))


def _decision(d: Decision) -> str:
    word, chip = ("promote", "good") if d.promote else ("do not promote", "bad" if d.verdict != "tie" else "open")
    rules = d.rules
    said = (
        f"Rules, set beforehand: {d.metric.name} must gain, with a {100 * rules.level:g} % interval above 0; a guarded "
        f"category may not be shown to lose more than {100 * rules.margin:g} points. The {len(d.guards)} guards' "
        f"intervals hold together at {100 * rules.level:g} % (Bonferroni)."
    )
    strict = " Guards must be shown to be kept (strict)." if rules.strict else ""
    return f'<p><span class="chip {chip}">{word}</span>{escape(d.why)}</p><p class="soft">{escape(said + strict)}</p>'


def _table(d: Decision) -> str:
    head = ("", "verdict", "champion", "challenger", "difference", "visible", "prompts")
    rows = "".join(_row(line) for line in (d.metric, *d.guards))
    return (
        f'<div class="wide"><table><tr>{"".join(f"<th>{h}</th>" for h in head)}</tr>{rows}</table></div>'
        "<p><small>Visible: the gain or loss that would have been seen with 80 % chance.</small></p>"
    )


def _row(line: Line) -> str:
    verdict = f'<td class="{CHIPS.get(line.verdict, "open")}">{WORDS.get(line.verdict, line.verdict)}</td>'
    if not (line.champion and line.challenger and line.difference):
        return f"<tr><td>{escape(line.name)}</td>{verdict}{'<td>–</td>' * 4}<td>{line.prompts}</td></tr>"
    cells = (percent(line.champion), percent(line.challenger), points(line.difference))
    figures = "".join(f"<td>{c.replace(' (', '<small>(')}</small></td>" for c in cells)
    seen = f"<td>{100 * (line.visible or 0):.1f} points</td>"
    return f"<tr><td>{escape(line.name)}</td>{verdict}{figures}{seen}<td>{line.prompts}</td></tr>"


def _plot(d: Decision) -> str:
    """Differences with their intervals, the metric first, beside 0 and the margin."""
    lines = [line for line in (d.metric, *d.guards) if line.difference]
    if not lines:
        return ""
    width, label, row, top = 680, 270, 20, 26
    bounds = [b for line in lines if line.difference for b in (line.difference.low, line.difference.high)]
    x = svg.span([*bounds, 0.0, -d.rules.margin], label, width - 16)
    base = top + row * len(lines)
    out = [
        f'<svg viewBox="0 0 {width} {base + 40}" role="img" aria-label="Differences" class="plot" '
        'style="max-width:720px">'
    ]
    for t in x.ticks:
        out.append(f'<line x1="{x(t)}" x2="{x(t)}" y1="{top - 6}" y2="{base}" class="grid"/>')
        out.append(f'<text x="{x(t)}" y="{base + 14}" class="tick mid">{100 * t:+.0f}</text>')
    for at, name in ((0.0, "equal"), (-d.rules.margin, "margin")):
        out.append(f'<line x1="{x(at)}" x2="{x(at)}" y1="{top - 6}" y2="{base}" class="mark"/>')
        place = "end" if name == "margin" else ""
        out.append(f'<text x="{x(at)}" y="{top - 10}" class="tick {place}">{name}</text>')
    for i, line in enumerate(lines):
        e, y = line.difference, top + row * i + row / 2
        assert e is not None
        colour = {"better": 2, "kept": 2, "worse": 4, "regressed": 4}.get(line.verdict, 0)
        out.append(f'<text x="{label - 8}" y="{y + 4}" class="tick end">{escape(line.name)}</text>')
        out.append(
            f"<g><title>{escape(f'{line.name}: {points(e)}')}</title>"
            f'<line x1="{x(e.low)}" x2="{x(e.high)}" y1="{y}" y2="{y}" class="line c{colour}"/>'
            f'<circle cx="{x(e.value)}" cy="{y}" r="4" class="dot c{colour}"/></g>'
        )
    out.append(f'<text x="{(label + width) / 2}" y="{base + 32}" class="tick mid">challenger − champion, points</text>')
    return "".join(out) + "</svg>"


def _list(items: Sequence[str], nothing: str) -> str:
    return f"<ul>{''.join(f'<li>{escape(i)}</li>' for i in items)}</ul>" if items else f"<p>{nothing}</p>"


def _models(about: Mapping[str, Any]) -> str:
    rows = ""
    for name in ("name", "stage", "key", "digest", "path"):
        cells = "".join(
            f'<td style="white-space:normal;overflow-wrap:anywhere"><code>{escape(str(about[side][name]))}</code></td>'
            for side in ("champion", "challenger")
        )
        rows += f"<tr><td>{name}</td>{cells}</tr>"
    return f'<div class="wide"><table><tr><th></th><th>champion</th><th>challenger</th></tr>{rows}</table></div>'


def _foot(d: Decision) -> str:
    return (
        f"{d.prompts} prompts, one sample each, the same prompts and initial noise for both models, all scored by a "
        "program that reads the pixels. Intervals are over prompts: jackknife, Student's t. decision.json beside this "
        "page holds every figure."
    )
