"""`stepvideo run` and `stepvideo plan`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from flows import screen
from flows.compose import compose
from flows.graph import Node, build
from flows.plan import DEPENDS, HIT, plan
from flows.session import Wrap, prepare, report_page, session
from stepvideo.artifact import Store
from tasks.stages import Outcome


def plan_command(overrides: list[str], until: str | None, as_json: bool) -> int:
    """Print what a run would do; nothing is written."""
    cfg = compose(overrides)
    steps = plan(build(cfg, until), Store(cfg["store"]))
    if as_json:
        rows = [
            {"stage": s.node.name, "kind": s.node.kind, "state": s.state, "why": s.why, "key": s.key} for s in steps
        ]
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return 0
    console = Console()
    console.print(screen.plan_table(steps))
    hits, waits = (sum(s.state == state for s in steps) for state in (HIT, DEPENDS))
    console.print(f"{hits} of {len(steps)} stages are there, {len(steps) - hits - waits} run, {waits} depend on them")
    return 0


def run_command(overrides: list[str], until: str | None, as_json: bool) -> int:
    """Run a cascade; its table, its page and what to do next at the end."""
    started = time.monotonic()
    console = Console(file=sys.stderr if as_json else sys.stdout)
    cfg, nodes = prepare(overrides, until)
    results = run_nodes(cfg, nodes, overrides, until, console)
    if as_json:
        print(json.dumps(_summary(results), indent=1, ensure_ascii=False))
        return 0
    console.print(screen.result_table(results, {}))
    console.print(f"{screen.clock(time.monotonic() - started)}; the same command again takes everything from the store")
    if page := report_page(results):
        console.print(f"report: {page}", soft_wrap=True)
    console.print("next: make ui | stepvideo status | " + 'stepvideo generate "一个红色的圆向右移动" --out red.mp4')
    return 0


def run_nodes(
    cfg: dict[str, Any],
    nodes: list[Node],
    overrides: list[str],
    until: str | None,
    console: Console,
    wrap: Wrap | None = None,
) -> dict[str, Outcome]:
    """Every node to its artifact, with the terminal told."""
    view = screen.Screen(len(nodes), console)
    with view, session(cfg, nodes, overrides, until, [view]) as s:
        return s.run(wrap)


def _summary(results: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    return [
        {
            "stage": name,
            "key": o.artifact.manifest["key"],
            "digest": o.artifact.digest,
            "cached": o.cached,
            "seconds": round(o.seconds, 3),
            "metrics": o.artifact.metrics,
            "path": str(o.artifact.out),
        }
        for name, o in results.items()
    ]
