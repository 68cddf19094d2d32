"""The page of an analysis of votes: one HTML file with plots and tables that needs no network and no script."""

from __future__ import annotations

from html import escape

from stepvideo.evaluation.analysis import Analysis
from stepvideo.evaluation.page import CHIPS
from stepvideo.evaluation.ratings import Ratings
from stepvideo.evaluation.scores import Duel
from stepvideo.evaluation.votes import SCALES
from stepvideo.evaluation.votes_tables import NAMES, facts, shown_annotators, tables
from stepvideo.page_style import CSS
from stepvideo.svg import Interval, interval_chart


def page(found: Analysis, title: str) -> str:
    """The whole file; the same analysis gives the same bytes."""
    chips = [
        f'<li><span class="chip {CHIPS[d.overall.verdict]}">{d.overall.verdict}</span>'
        f"<b>{escape(d.a)} against {escape(d.b)}: a score above {100 * d.claim:g} %</b></li>"
        for d in found.duels
    ]
    said = f'<ul class="claims">{"".join(chips)}</ul>' if chips else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{CSS}</style></head><body><main>'
        f"<h1>{escape(title)}</h1>{''.join(f'<p>{escape(f)}</p>' for f in facts(found))}{said}"
        f'<div class="plots">{"".join(f"<div>{p}</div>" for p in plots(found))}</div>'
        f"{''.join(t.html() for t in tables(found))}</main></body></html>\n"
    )


def plots(found: Analysis) -> list[str]:
    """SVG of every duel, and of every scale of ratings."""
    rated = [_scale_plot(found.ratings, scale) for scale in SCALES] if found.ratings else []
    return [_duel_plot(d) for d in found.duels] + rated


def _duel_plot(duel: Duel) -> str:
    lines = [duel.overall, *duel.categories, *shown_annotators(duel)]
    split = 1 + len(duel.categories)
    rows = [
        Interval(x.name, x.score.score.value, x.score.score.low, x.score.score.high, 0 if i == 0 else 1 + (i >= split))
        for i, x in enumerate(lines)
    ]
    return interval_chart(f"{duel.a} against {duel.b}", rows, duel.claim, "equal" if duel.claim == 0.5 else "claim")


def _scale_plot(ratings: Ratings, scale: str) -> str:
    """Means on 1 to 5, drawn from 0 % (1) to 100 % (5)."""
    rows = []
    for i, model in enumerate(ratings.models):
        e = ratings.overall[model][scale].mean
        low, value, high = ((x - 1) / 4 for x in (e.low, e.value, e.high))
        rows.append(Interval(model, value, low, high, i))
    return interval_chart(f"{NAMES[scale]} (1 to 5 as 0 to 100 %)", rows)
