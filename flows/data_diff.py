"""`stepvideo data diff`: two versions, or a version and what a store holds now, in human terms."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows import screen
from flows.compose import ROOT
from flows.plan import config_changes
from flows.status import store_of
from stepvideo import storage
from stepvideo.config import result_part
from stepvideo.errors import StepVideoError
from tasks import version_tables, versions

if TYPE_CHECKING:
    from stepvideo.curation.fates import Fates

PRESENT = "the store"
SHOWN = 8  # rows of a table in the terminal
FIRST, LAST = "s1", "s6"


def diff_command(
    folder: str | None, a: str, b: str | None, group: str, threshold: float, page: str | None, as_json: bool
) -> int:
    """Print what changed from version `a` to `b` (None: to what the store holds now); a page of plots beside it.

    Raises:
        StepVideoError: there is no such version or set, or the remote cannot give the tables.
    """
    from stepvideo.curation.changes import changes
    from stepvideo.curation.changes_page import page as drawn

    if threshold <= 0:
        raise StepVideoError(f"--threshold is {threshold}; give more than 0, such as 0.2")
    with _side(a, folder) as old, _side(b, folder) as new:
        found = changes(old, new, group, threshold)
        found["settings"] = _settings(old, new)
    target = Path(page) if page else ROOT / "runs" / f"diff-{a}-{b or 'store'}.html"
    storage.write_atomic(target, drawn(found, a, b or PRESENT))
    if as_json:
        print(
            json.dumps({"from": a, "to": b, "page": str(target), **found}, indent=1, ensure_ascii=False, default=float)
        )
        return 0
    console = screen.console()
    _show(console, found, a, b or PRESENT)
    console.print(f"page: {target}", soft_wrap=True, markup=False)
    if b is None:
        console.print("next: stepvideo data publish -m 'why it changed'", markup=False)
    return 0


@contextlib.contextmanager
def _side(name: str | None, folder: str | None) -> Iterator[Fates]:
    from stepvideo.curation.fates import fates

    if name is None:
        yield fates(store_of(folder).root, PRESENT)
        return
    with version_tables.tables(versions.named(name, ROOT), ROOT) as place:
        yield fates(place, name)


def _settings(a: Fates, b: Fates) -> list[str]:
    """What differs in the configs of the stages that both have."""
    sides = [_configs(side) for side in (a, b)]
    lines = []
    for stage in sides[0]:
        if stage in sides[1]:
            lines += [f"{stage}: {line}" for line in config_changes(sides[0][stage], sides[1][stage])]
    return lines


def _configs(side: Fates) -> dict[str, Mapping[str, Any]]:
    places = [side.places["curate"], *side.places.get("tables", ())]
    places += [side.places[role] for role in ("captions", "subsets") if side.places.get(role)]
    found = {}
    for place in places:
        path = Path(place).parent / "manifest.json"
        if path.exists():
            manifest = storage.read_json(path)
            found[manifest["stage"]] = result_part(manifest["config"])
    return found


def _show(console: Console, found: Mapping[str, Any], a: str, b: str) -> None:
    raw, clips = found["raw"], found["clips"]
    kinds = ("added", "removed", "changed")
    console.print(f"[bold]raw files[/] {raw['a']} → {raw['b']}: " + ", ".join(f"{raw[k]} {k}" for k in kinds))
    for kind in kinds:
        if raw[kind]:
            names = ", ".join(raw["examples"][kind][:4]) + (", …" if raw[kind] > 4 else "")
            console.print(f"  {kind}: {names}", markup=False, highlight=False)
    for line in found["settings"]:
        console.print(f"[bold]setting[/] {escape(line)}", highlight=False)
    table = Table(title=f"clips and why, {a} → {b}", title_justify="left")
    for column in ("", a, b, "out", "in", "why"):
        table.add_column(column, justify="right" if column in (a, b, "out", "in") else "left")
    for name, s in {"all": clips, **found["sets"]}.items():
        table.add_row(name, str(s["a"]), str(s["b"]), *(str(sum(r["clips"] for r in s[k])) for k in ("out", "in")), "")
        if name not in ("all", FIRST, LAST):  # the page has the reasons of those between
            continue
        for sign, side in (("−", "out"), ("+", "in")):
            for r in s[side][:SHOWN]:
                counts = (str(r["clips"]), "") if side == "out" else ("", str(r["clips"]))
                table.add_row("", "", "", *counts, f"{sign} {escape(r['reason'])}")
    console.print(table)
    _tags(console, found, a, b)
    if concepts := found["concepts"]:
        said = "[red]drifted[/]" if concepts["drifted"] else "steady"
        console.print(f"[bold]concepts[/] PSI {concepts['psi']:.3f}, by chance {concepts['chance']:.3f}: {said}")
        _shares(console, [(f"{r['concept']} {r['words']}", r) for r in concepts["rows"]])
    if found["words"] and found["words"]["rows"]:
        console.print("[bold]words of captions[/] that moved by 3 standard errors and more")
        _shares(console, [(r["word"], r) for r in found["words"]["rows"]])


def _tags(console: Console, found: Mapping[str, Any], a: str, b: str) -> None:
    title = f"tags of {found['group']}; drifted: PSI {found['threshold']:g} above chance"
    table = Table(title=title, title_justify="left")
    for column in ("tag", f"mean {a}", f"mean {b}", "shift", "PSI", "chance", "KS", ""):
        table.add_column(column, justify="left" if column in ("tag", "") else "right")
    drifted = sum(t["drifted"] for t in found["tags"])
    for t in found["tags"][: max(SHOWN, drifted)]:
        numbers = [f"{t['mean_a']:.4g}", f"{t['mean_b']:.4g}", f"{t['shift']:+.2f} SD"]
        numbers += [f"{t[k]:.3f}" for k in ("psi", "chance", "ks")]
        table.add_row(escape(t["tag"]), *numbers, "[red]drifted[/]" if t["drifted"] else "")
    console.print(table)
    rest = len(found["tags"]) - max(SHOWN, drifted)
    if rest > 0:
        console.print(f"and {rest} more that moved less: --json, or the page")


def _shares(console: Console, rows: list[tuple[str, Mapping[str, Any]]]) -> None:
    for name, r in rows[:SHOWN]:
        console.print(
            f"  {r['share_a']:7.2%} → {r['share_b']:7.2%}  {r['z']:+5.1f}  {name}", markup=False, highlight=False
        )
