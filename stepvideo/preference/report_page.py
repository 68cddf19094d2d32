"""A study's report as one HTML file that needs no network and no script, and as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from html import escape

from stepvideo import svg
from stepvideo.evaluation.analysis import Analysis
from stepvideo.evaluation.stats import Estimate
from stepvideo.evaluation.votes_page import plots
from stepvideo.evaluation.votes_tables import Table, agreement_table, tables
from stepvideo.page_style import CSS
from stepvideo.preference.quality import SAYS
from stepvideo.preference.report import Report, Results
from stepvideo.preference.rules import digest

FOOT = "What the exclusion rules change stands beside the results; the rules stand below, with when they were chosen."
HIDDEN = "Results are not shown: this report is blind."


def html(said: Report) -> str:
    """The whole page; the same report gives the same bytes."""
    sections = [("Results", _results(said)), ("Quality", "".join(t.html() for t in quality_tables(said)))]
    body = "".join(f"<section><h2>{h}</h2>{b}</section>" for h, b in sections)
    heading = escape(said.title)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{heading}</title><style>{CSS}</style></head><body><main>'
        f"<h1>{heading}</h1><p class=lead>{escape(lead(said))}</p>{body}<footer>{FOOT}</footer></main></body></html>\n"
    )


def text(said: Report) -> str:
    """The tables as Markdown, for a terminal."""
    results = result_tables(said.results) if said.results else ()
    parts = [f"# {said.title}\n\n{lead(said)}\n", *(t.markdown() for t in (*results, *quality_tables(said)))]
    return "\n".join(parts)


def lead(said: Report) -> str:
    rows = said.rows
    parts = [
        f"{rows['included']} votes count, {rows['excluded']} are excluded, {rows['skipped']} were skipped",
        f"{len(said.annotators)} annotators, {rows['annotators_excluded']} of them excluded",
    ]
    if said.simulated:
        parts.append(f"{len(said.simulated)} of the annotators are simulated")
    if not said.fixed_before:
        parts.append("these exclusion rules were chosen after the study was made")
    return "; ".join(parts) + (f". {HIDDEN}" if said.blind else ".")


def result_tables(results: Results) -> Iterator[Table]:
    """Scores of the votes that count, what exclusions change, and decisions; agreement stands under quality."""
    yield from tables(replace(results.counted, agreements=[]))
    if rows := _sensitivity(results):
        left_out = results.every.votes - results.counted.votes
        title = f"What the {left_out} excluded votes change"
        yield Table(title, ["", "with exclusions", "without"], rows)
    if results.decisions:
        rows = [[k, str(n)] for k, n in results.decisions.items()]
        rows += [
            [f"{a} against {b}", f"{p.wins}-{p.ties}-{p.losses}, {_estimate(p.score)}"]
            for (a, b), p in results.decided.items()
        ]
        note = "One decision a pair, of the majority or an adjudicator. Undecided pairs are in no score."
        yield Table("Pairs", ["", ""], [*rows, ["ties among the votes", str(results.ties)]], note)


def quality_tables(said: Report) -> Iterator[Table]:
    """Annotators, agreement, exclusions, rules: nothing of the models."""
    yield _annotators(said)
    for name, found in (("", said.agreements), (", before exclusions", said.before)):
        if found and (not name or said.rows["excluded"]):
            table = agreement_table(found)
            yield Table(table.title + name, table.head, table.rows, table.note)
    rows = [[why, str(n)] for why, n in said.excluded.items()]
    rows += [[f"skipped: {why}", str(n)] for why, n in said.skipped.items()]
    if rows:
        yield Table("Left out", ["reason", "votes"], rows)
    fixed = "fixed when the study was made" if said.fixed_before else "chosen after the study was made"
    rows = [[name.replace("_", " "), f"{value:g}"] for name, value in asdict(said.rules).items()]
    yield Table("Exclusion rules", ["", "value"], rows, f"Digest {digest(said.rules)}, {fixed}.")


def _results(said: Report) -> str:
    if said.results is None:
        return f"<p>{HIDDEN}</p>"
    drawn = "".join(f"<div>{p}</div>" for p in plots(said.results.counted))
    return f'<div class="plots">{drawn}</div>' + "".join(t.html() for t in result_tables(said.results))


def _annotators(said: Report) -> Table:
    head = ["annotator", "verdict", "votes", "skipped", "median s", "left", "ties", "bits", *SAYS.values()]
    rows = []
    for q in said.annotators:
        checks = {c.rule: f"{c.hits} of {c.n} (p {c.p:.2g})" for c in q.checks}
        dwell = "" if q.median_dwell_s is None else svg.number(q.median_dwell_s)
        shown = [dwell, _share(q.left_share), _share(q.tie_share), svg.number(q.entropy)]
        given = [q.annotator, q.verdict, str(q.votes), str(q.skipped), *shown]
        rows.append([*given, *(checks.get(rule, "") for rule in SAYS)])
    note = (
        "p: the chance of this record, or a worse one, for an annotator who is just as good as the rule asks. "
        "Bits: entropy of the answers as they were shown; 0 is always the same."
    )
    return Table("Annotators", head, rows, note)


def _share(e: Estimate | None) -> str:
    return "" if e is None else f"{e.value:.2f} ({e.low:.2f} to {e.high:.2f})"


def _sensitivity(results: Results) -> list[list[str]]:
    every = dict(_scores(results.every))
    return [[name, shown, every.get(name, "")] for name, shown in _scores(results.counted)]


def _scores(found: Analysis) -> Iterator[tuple[str, str]]:
    for d in found.duels:
        yield f"{d.a} against {d.b}", f"{_estimate(d.overall.score.score)}, {d.overall.verdict}"
    for d in found.ratings.differences if found.ratings else ():
        yield f"{d.a} − {d.b}, {d.scale.replace('_', ' ')}", f"{_estimate(d.difference)}, {d.verdict}"


def _estimate(e: Estimate) -> str:
    return f"{e.value:.3f} ({e.low:.3f} to {e.high:.3f})"
