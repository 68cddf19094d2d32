"""`stepvideo recipe`: the batches of a cascade's DiT stages beside Table 6 of the report. Torch-free."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from typing import Any

HELP = "data, batches, learning rates and iterations of a profile beside the report's Table 6 (profile=30b by default)"

Configs = Callable[[list[str]], Mapping[str, Mapping[str, Any]]]  # overrides to {stage: config} of the DiT's stages


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, for example profile=4b")
    parser.add_argument("--check", action="store_true", help="exit 1 where a stage differs from Table 6")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def call(args: argparse.Namespace, configs: Configs) -> int:
    """Prints the recipe; 1: `--check` and a stage differs.

    Args:
        configs: composes overrides; it belongs to the layer above.
    """
    from stepvideo.training.recipe import TABLE_6, Batch, faults, table_faults

    given = any(o.startswith("profile=") for o in args.overrides)
    batches = [Batch.of(n, c) for n, c in configs([*args.overrides, *([] if given else ["profile=30b"])]).items()]
    rows = []
    for b in batches:
        printed = [r for r in TABLE_6 if r.stage == b.stage]
        rows.append(
            {
                "stage": b.stage,
                "media": b.media,
                "data": "; ".join(dict.fromkeys(r.data for r in printed)),
                "batch_a_node": b.per_node,
                "nodes": b.nodes,
                "ranks": b.ranks,
                "lr": b.lr,
                "iterations": b.iterations,
                "samples": b.samples,
                "nodes_of_table_6": [round(r.nodes, 1) for r in printed],
                "faults": faults(b),
            }
        )
    of_table = table_faults()
    missing = sorted({r.stage for r in TABLE_6} - {b.stage for b in batches})
    bad = bool(of_table or missing or any(row["faults"] for row in rows))
    if args.json:
        print(json.dumps({"ok": not bad, "rows": rows, "missing": missing, "table_6": of_table}, indent=1))
    else:
        print(_table(rows, [*of_table, *(f"{name}: not in this cascade" for name in missing)]))
    return int(args.check and bad)


def _table(rows: list[dict[str, Any]], faults: list[str]) -> str:
    head = (
        f"{'stage':13} {'media':7} {'data':14} {'bs/node':>7} {'nodes':>5} {'ranks':>5} {'lr':>6} {'iterations':>10} "
    )
    lines = [head + f"{'samples':>8}  nodes implied by Table 6"]
    for r in rows:
        implied = ", ".join(f"{n:.1f}" for n in r["nodes_of_table_6"]) or "not in it"
        lines.append(
            f"{r['stage']:13} {r['media']:7} {r['data']:14} {r['batch_a_node']:7} {r['nodes']:5} {r['ranks']:5} "
            f"{r['lr']:6.0e} {r['iterations']:10,} {_short(r['samples']):>8}  {implied}"
        )
    told = [f"{r['stage']}: {fault}" for r in rows for fault in r["faults"]] + faults
    return "\n".join([*lines, *(told or ["every row of Table 6 is met, and agrees with itself"])])


def _short(n: int) -> str:
    unit, name = next(((u, s) for u, s in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if n >= u), (1, ""))
    return f"{n / unit:.1f}{name}"
