"""Tables of an analysis of votes, in the form of the report's, for a terminal (Markdown) and for HTML."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from stepvideo.evaluation.analysis import Agreement, Analysis
from stepvideo.evaluation.claims import p_value, percent
from stepvideo.evaluation.pairwise import Ranking
from stepvideo.evaluation.ratings import Cell, Ratings
from stepvideo.evaluation.scores import Duel, Line
from stepvideo.evaluation.stats import Estimate
from stepvideo.evaluation.votes import SCALES

COLUMNS_OF_ANNOTATORS = 6  # beyond, a table has their sum only
LINES_OF_ANNOTATORS = 30  # beyond, those with most votes; JSON has all
NAMES = {s: s.replace("_", " ").capitalize() for s in SCALES}


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column is left-aligned, `note` stands below."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""

    def markdown(self) -> str:
        lines = [self.head, *self.rows]
        widths = [max(3, *(_width(line[i]) for line in lines)) for i in range(len(self.head))]
        rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
        text = "\n".join("| " + " | ".join(_padded(line, widths)) + " |" for line in (self.head, rule, *self.rows))
        return f"### {self.title}\n\n{text}\n" + (f"\n{self.note}\n" if self.note else "")

    def html(self) -> str:
        head = "".join(f"<th>{escape(c)}</th>" for c in self.head)
        body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in self.rows)
        note = f"<p><small>{escape(self.note)}</small></p>" if self.note else ""
        return f'<h3>{escape(self.title)}</h3><div class="wide"><table><tr>{head}</tr>{body}</table></div>{note}'


def tables(found: Analysis) -> Iterator[Table]:
    """All tables in their order."""
    for duel in found.duels:
        yield duel_table(duel)
        if len(duel.annotators) > 1:
            yield annotator_table(duel)
    if found.ranking:
        yield ranking_table(found.ranking)
    if found.ratings:
        yield from rating_tables(found.ratings)
    if found.agreements:
        yield agreement_table(found.agreements)


def duel_table(duel: Duel) -> Table:
    """As Tables 7, 9, 10 and 12: win-tie-loss of each annotator by category; then the score of all."""
    people = list(duel.overall.tally)
    shown = people if 1 < len(people) <= COLUMNS_OF_ANNOTATORS else []
    head = ["", *shown, "all", "score", "p", "prompts", "verdict"]
    rows = []
    for line in (duel.overall, *duel.categories):
        each = [_tally(line.tally.get(person, (0, 0, 0))) for person in shown]
        rows.append([line.name, *each, *_score(line), str(line.prompts), line.verdict])
    many = len(duel.categories) > 1
    note = (
        "Win-tie-loss; score is (wins + ties / 2) / votes with its 95 % interval over prompts, p that of the "
        f"prompt-level sign-flip test of 50 %{', Holm-corrected over categories' if many else ''}. "
        f"Verdict: on the score being above {100 * duel.claim:g} %{', for categories all at once' if many else ''}."
    )
    return Table(f"{duel.a} against {duel.b}", head, rows, note)


def shown_annotators(duel: Duel) -> list[Line]:
    """Those with most votes, in their order; none where there is only one."""
    if len(duel.annotators) < 2:
        return []
    kept = sorted(duel.annotators, key=lambda x: -x.score.score.n)[:LINES_OF_ANNOTATORS]
    return [x for x in duel.annotators if x in kept]


def annotator_table(duel: Duel) -> Table:
    rows = [[x.name, *_score(x), str(x.prompts), x.verdict] for x in shown_annotators(duel)]
    head = ["annotator", "win-tie-loss", "score", "p", "prompts", "verdict"]
    note = "p is Holm-corrected over annotators; verdicts are for all of them at once."
    if len(rows) < len(duel.annotators):
        note += f" The {len(rows)} with most votes, of {len(duel.annotators)}; --json has all."
    return Table(f"{duel.a} against {duel.b}, by annotator", head, rows, note)


def ranking_table(r: Ranking) -> Table:
    rows = [
        [name, percent(s), f"{t.value:+.2f} ({t.low:+.2f} to {t.high:+.2f})"]
        for name, s, t in zip(r.names, r.strength, r.theta)
    ]
    note = (
        f"Rao–Kupper model with a ridge of 0.01; strength is the chance to win a decided vote against the average "
        f"model, in which equals tie in {percent(r.ties)}. Intervals are over prompts."
        if r.model == "rao-kupper"
        else "Bradley–Terry model with a ridge of 0.01; ties are half a win of each. Intervals are over prompts."
    )
    return Table("Ranking", ["model", "strength", "log strength"], rows, note)


def rating_tables(r: Ratings) -> Iterator[Table]:
    """As Table 8 (sums by category, a–b for the models) and Table 11 (by annotator and model), then means."""
    names = [NAMES[s] for s in SCALES]
    rows = [
        [title, *("-".join(_sum(cells, m, s) for m in r.models) for s in SCALES)]
        for title, cells in (("overall", r.overall), *r.categories.items())
    ]
    note = "Sums over annotators and prompts; they compare models only where all were rated as often."
    yield Table(f"Sums: {' - '.join(r.models)}", ["", *names], rows, note)
    if len(r.annotators) > 1:
        rows = [
            [person, model, *(_sum(cells, model, s) for s in SCALES)]
            for person, cells in r.annotators.items()
            for model in r.models
        ]
        yield Table("Sums by annotator", ["annotator", "model", *names], rows)
    rows = [
        [model, title, *(_mean(cells[model][s].mean) for s in SCALES), str(cells[model][SCALES[0]].mean.n)]
        for model in r.models
        for title, cells in (("overall", r.overall), *r.categories.items())
        if model in cells
    ]
    note = "With 95 % intervals over prompts."
    yield Table("Means, 1 to 5", ["model", "category", *names, "ratings"], rows, note)
    if r.differences:
        rows = [
            [f"{d.a} − {d.b}", NAMES[d.scale], _mean(d.difference, "+"), _p(d.p_holm), d.verdict] for d in r.differences
        ]
        note = (
            "Of one annotator's scores of both models on one prompt; sign-flip p over prompts, Holm-corrected over the "
            "four scales. Verdict: on the first being higher."
        )
        yield Table("Differences", ["models", "scale", "mean difference", "p", "verdict"], rows, note)


def agreement_table(found: Sequence[Agreement]) -> Table:
    rows = []
    for a in found:
        alpha = {level: _mean(e) if e else "undefined" for level, e in a.alpha.items()}
        rows.append(
            [
                a.question.replace("_", " "),
                percent(a.raw) if a.raw else "no pair",
                *(alpha.get(level, "") for level in ("nominal", "ordinal", "interval")),
                _mean(a.kappa) if a.kappa else "undefined",
            ]
        )
    head = ["question", "same answer", "α nominal", "α ordinal", "α interval", "Fleiss' κ"]
    note = "Krippendorff's α; 0 is chance, 1 full agreement. Intervals are over prompts."
    return Table("Agreement of annotators", head, rows, note)


def facts(found: Analysis) -> list[str]:
    """Sentences that belong above the tables."""
    out = [f"{found.votes} votes of {found.annotators} annotators on {found.prompts} prompts."]
    if found.simulated:
        out.append(f"{found.simulated} of the votes are of SIMULATED annotators; they say nothing about people.")
    if found.left_out:
        out.append("Left out: " + ", ".join(f"{n} {what}" for what, n in found.left_out.items()) + ".")
    if found.both_bad:
        out.append(f'"Both bad" are {found.both_bad} of the ties.')
    if found.left_share:
        share, p = found.left_share
        out.append(f"The left side won {percent(share)} of {share.n} decided votes, {p_value(p)}.")
    if found.unranked and len(found.duels) > 1:
        out.append(f"No ranking: {found.unranked}.")
    return out


def _score(line: Line) -> list[str]:
    s = line.score
    p = s.p_value if line.p_holm is None else line.p_holm
    return [_tally((s.wins, s.ties, s.losses)), percent(s.score), _p(p)]


def _p(p: float) -> str:
    return p_value(p).removeprefix("p ").removeprefix("= ")


def _tally(wtl: tuple[int, int, int]) -> str:
    return "-".join(map(str, wtl))


def _sum(cells: dict[str, dict[str, Cell]], model: str, scale: str) -> str:
    return f"{cells[model][scale].total:,}" if model in cells else "none"


def _mean(e: Estimate, sign: str = "") -> str:
    return f"{e.value:{sign}.2f} ({e.low:{sign}.2f} to {e.high:{sign}.2f})"


def _width(text: str) -> int:
    """Columns of a terminal; East Asian characters take two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _padded(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    texts = [c.replace("|", "\\|") for c in cells]
    first, *others = ((t, " " * (w - _width(t))) for t, w in zip(texts, widths))
    return [first[0] + first[1], *(space + t for t, space in others)]
