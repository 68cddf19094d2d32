"""`stepvideo data log` and `stepvideo data verify`: what versions there are, and whether they are whole."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from flows import screen
from flows.compose import ROOT
from flows.data import verdict
from tasks import version_verify, versions
from tasks.versions import Version

COLUMNS = ("name", "when", "who", "clips", "hours", "gate", "message", "digest", "parent")


def log_command(as_json: bool) -> int:
    """A table of the versions of this checkout, newest first."""
    found = versions.every(ROOT)[::-1]
    if as_json:
        print(json.dumps([_row(v) for v in found], indent=1, ensure_ascii=False))
        return 0
    console = screen.console()
    if not found:
        console.print("no version yet; next: stepvideo data publish -m 'what is in it'")
        return 0
    table = Table(title="versions of the data, newest first", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in ("clips", "hours") else "left")
    for v in found:
        row = _row(v)
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(v.time)) if v.time else ""
        hours = "" if row["hours"] is None else f"{row['hours']:.2f}"
        clips = "" if row["clips"] is None else str(row["clips"])
        gate = verdict(row["gate"])
        style = (
            "red" if gate.startswith("FORCED") else "yellow" if "warn" in gate else "green" if gate == "passed" else ""
        )
        shown = f"[{style}]{escape(gate)}[/]" if style else escape(gate)
        cells = (row["name"], when, row["who"], clips, hours)
        ends = (row["message"], row["digest"][:12], row["parent"] or "")
        table.add_row(*map(escape, cells), shown, *map(escape, ends))
    console.print(table)
    newest = found[0]
    if len(found) > 1:
        console.print(f"next: stepvideo data diff {found[1].name} {newest.name} | stepvideo data verify {newest.name}")
    else:
        console.print(f"next: stepvideo data diff {newest.name} | stepvideo data verify {newest.name}")
    return 0


def _row(v: Version) -> dict[str, Any]:
    counts = v.meta.get("counts") or {}
    return {
        "name": v.name,
        "time": v.time,
        "who": str(v.meta.get("who") or ""),
        "clips": counts.get("clips"),
        "hours": counts.get("hours"),
        "counts": counts,
        "gate": v.meta.get("gate") or {},
        "message": str(v.meta.get("message") or ""),
        "digest": v.digest,
        "parent": v.meta.get("parent"),
        "bytes": v.size,
        "files": v.files,
        "command": v.meta.get("command", ""),
        "git_sha": v.meta.get("git_sha", ""),
    }


def verify_command(name: str, quick: bool, repair: bool, as_json: bool) -> int:
    """Read every file of a version, or of "all". Exit code 1 if something is missing or damaged."""
    wanted = versions.every(ROOT) if name == "all" else [versions.named(name, ROOT)]
    console = screen.console(stderr=as_json)
    report, bad = [], False
    for version in wanted:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(version.name, total=version.files or None)
            faults, looked = version_verify.verify(
                version, ROOT, quick, lambda n, of, bar=bar, task=task: bar.update(task, completed=n, total=of)
            )
        if repair and faults:
            sent = len(faults)
            faults = version_verify.repair(version, ROOT, faults)
            console.print(f"{version.name}: {sent - len(faults)} of {sent} mended")
        bad |= bool(faults)
        report.append(
            {"name": version.name, "whole": not faults, "looked": looked, "faults": [asdict(f) for f in faults]}
        )
        places = ", ".join(f"{n} in the {where}" for where, n in looked.items())
        head = f"[red]{version.name} is not whole[/]" if faults else f"[green]{version.name} is whole[/]"
        console.print(f"{head}: files looked at: {places}{' (only whether they are there)' if quick else ''}")
        for f in faults:
            console.print(f"  {f.problem} in the {f.where}: {f.file}: {f.detail}", markup=False, soft_wrap=True)
        for line in version_verify.advice(version, faults):
            console.print(f"  {line}", markup=False, soft_wrap=True)
    if not wanted:
        console.print("no version yet; next: stepvideo data publish")
    if as_json:
        print(json.dumps(report, indent=1, ensure_ascii=False))
    return 1 if bad else 0
