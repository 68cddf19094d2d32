"""A comparison in the terminal: what differs first, settings, findings, metrics, cost, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.comparison.compared import Comparison
from flows.comparison.costs import totals
from flows.comparison.measures import HIGHER, LOWER, Test
from flows.comparison.origins import ABSENT, EQUAL, headline
from flows.screen import clock
from stepvideo.evaluation.stats import Estimate

MOST_METRICS = 30  # lines of a table of rates or single values; --json has all
RATES = "rates by themselves (95 %, Wilson), not paired"
SINGLE = "single values, without intervals"
SINGLE_ARE = "What stages say of themselves: counts, losses, seconds, means over their own validation data."
STYLE = {HIGHER: "green", LOWER: "red"}


def show(found: Comparison, console: Console) -> None:
    """Print it all. The first subject is what the others are compared with."""
    for s in found.subjects:
        console.print(f"[bold]{escape(s.name)}[/]  {escape(s.about)}", soft_wrap=True, highlight=False)
    for subject, steps in zip(found.subjects[1:], found.origins):
        console.print(f"\n[bold]{escape(subject.name)}[/]: {escape(headline(steps))}", soft_wrap=True, highlight=False)
        for s in steps:
            if s.why and s.state not in (EQUAL, ABSENT):
                console.print(f"  {s.stage}: {s.state}, {'; '.join(s.why)}", markup=False, highlight=False)
        if lone := [s.stage for s in steps if s.state == ABSENT]:
            console.print(f"  only one has {', '.join(lone)}", markup=False, highlight=False)
        console.print(f"  {sum(s.state == EQUAL for s in steps)} of {len(steps)} stages are equal", highlight=False)
    console.print()
    if found.settings.differ:
        console.print(_settings(found))
        console.print(f"{found.settings.equal} more settings are equal")
    else:
        console.print(f"no setting of what both have differs ({found.settings.equal} are equal)")
    if found.tests:
        console.print()
        console.print(_tests(found))
        console.print("Differences are paired by prompt and noise; p is Holm's, over all of this table.")
    if found.rates:
        console.print()
        console.print(_rates(found))
    if found.metrics:
        console.print()
        console.print(_metrics(found))
        console.print(SINGLE_ARE)
    console.print()
    console.print(_costs(found))
    if found.missing:
        console.print("\n[bold]not compared[/]")
        for line in found.missing:
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def _table(title: str, first: Sequence[str], found: Comparison, last: Sequence[str] = ()) -> Table:
    table = Table(title=title, title_justify="left")
    for column in first:
        table.add_column(column)
    for s in found.subjects:
        table.add_column(escape(s.name), justify="right")
    for column in last:
        table.add_column(column, justify="right")
    return table


def _settings(found: Comparison) -> Table:
    table = _table("settings that differ", ["key"], found, ["changes the result"])
    for s in sorted(found.settings.differ, key=lambda s: not s.decides):
        table.add_row(s.key, *(escape(said(v)) for v in s.values), "yes" if s.decides else "no")
    return table


def said(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 48 else f"{text[:45]}…"


def _tests(found: Comparison) -> Table:
    table = Table(title=f"metrics against {found.subjects[0].name}", title_justify="left")
    for column in ("evaluation", "prompts", "measure", "of", "first", "other", "difference (95 %)", "p", ""):
        table.add_column(column)
    for t in found.tests:
        name = t.evaluation.removeprefix("evaluate.") + ("" if t.run == "main" else f"/{t.run}")
        base = percent(t.base) if t.base else "50 % is equal"
        verdict = f"[{STYLE.get(t.verdict, 'dim')}]{t.verdict}[/]"
        of = found.subjects[t.subject].name
        table.add_row(name, t.split, t.measure, of, base, percent(t.other), points(t), p_value(t.p_holm), verdict)
    return table


def percent(e: Estimate) -> str:
    return f"{100 * e.value:.1f} % ({100 * e.low:.0f}–{100 * e.high:.0f})"


def points(t: Test) -> str:
    d = t.difference
    return f"{100 * d.value:+.1f} ({100 * d.low:+.1f} to {100 * d.high:+.1f})"


def p_value(p: float) -> str:
    return f"{p:.2g}" if p >= 0.001 else "< 0.001"


def _rates(found: Comparison) -> Table:
    """What no test above shows."""
    table = _table(RATES, ["rate"], found)
    for name, values in [*found.rates.items()][:MOST_METRICS]:
        table.add_row(name, *(percent(e) if e else "–" for e in values))
    return _cut(table, len(found.rates))


def _cut(table: Table, rows: int) -> Table:
    if rows > MOST_METRICS:
        table.caption = f"{rows - MOST_METRICS} more: --json"
    return table


def _metrics(found: Comparison) -> Table:
    table = _table(SINGLE, ["metric"], found, ["difference"])
    for name, values in [*found.metrics.items()][:MOST_METRICS]:
        b = values[-1]
        change = f"{b - a:+.4g}" if len(values) == 2 and (a := values[0]) is not None and b is not None else ""
        table.add_row(name, *("–" if v is None else f"{v:.6g}" for v in values), change)
    return _cut(table, len(found.metrics))


def _costs(found: Comparison) -> Table:
    table = _table("cost", [""], found)
    sums = [totals(found.costs, i) for i in range(len(found.subjects))]
    table.add_row("all stages", *(clock(t["seconds"]) for t in sums))
    table.add_row("device-seconds", *(f"{t['device_seconds']:.0f}" for t in sums))
    if any(s.record for s in found.subjects):
        mine = zip(sums, found.subjects)
        spent = [
            f"{clock(t['spent_seconds'])}, {t['cached']:.0f} of {t['stages']:.0f} cached" if s.record else "–"
            for t, s in mine
        ]
        table.add_row("this run's own", *spent)
    return table
