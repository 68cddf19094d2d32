"""`stepvideo emulate search`: the arguments, and a search as text. What reads a cascade's config lies above."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepvideo.emulator.search import Found

HELP = "the fastest way to divide a training stage over GPUs, the runners-up, and why others were refused"
GB = 1e9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of the cascade, as profile=30b")
    parser.add_argument("--stage", action="append", default=[], metavar="NAME", help="such as t2vi_540 or sft.1 (all)")
    parser.add_argument("--gpu", default="", metavar="NAME", help="of the catalogue (the profile's, or this machine's)")
    parser.add_argument("--hardware", type=Path, metavar="FILE", help="YAML with further GPUs")
    parser.add_argument("--gpus", type=int, default=0, metavar="N", help="GPUs; by default the stage's own nproc")
    parser.add_argument("--memory-gb", type=float, default=0.0, metavar="GB", help="use at most so much of a GPU")
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="of a device, by `emulate calibrate`")
    parser.add_argument("--any", action="store_true", help="also plans that our trainer cannot run (pipeline stages)")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="plans to show (5)")
    parser.add_argument(
        "--write", metavar="NAME", help="write conf/parallel/NAME.yaml, which runs take as parallel=NAME"
    )
    parser.add_argument(
        "--trials", type=int, default=0, metavar="N", help="then N trials of Optuna on the mixed stream"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the trials (0)")
    parser.add_argument(
        "--objectives", nargs="+", default=["mfu"], metavar="NAME", help="of the trials: mfu, headroom, parts (mfu)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def text(found: Found, title: str) -> str:
    """The plans and what was refused, for a terminal."""
    lines = [
        f"{title}: {found.looked_at:,} plans, {found.configurations:,} with what they recompute, in "
        f"{1000 * found.seconds:.0f} ms; {found.valid:,} can run"
    ]
    if found.choices:
        columns = (
            "TP",
            "CP",
            "PP",
            "VPP",
            "DP",
            "ZeRO",
            "batch",
            "times",
            "recomputed",
            "seconds",
            "MFU",
            "GB",
            "parts",
        )
        lines.append(" ".join(f"{c:>{max(5, len(c))}}" for c in columns))
        for c in found.choices:
            p = c.plan
            cells = [p.tensor, p.context, p.pipeline, p.virtual, p.data, p.zero, p.micro_batch, p.micro_batches]
            shown = [str(int(n)) for n in cells]
            shown += [
                f"{100 * float(p.recompute):.0f} %",
                f"{c.seconds:.3g}",
                f"{100 * c.mfu:.2f}",
                f"{c.bytes / GB:.1f}",
            ]
            shown.append(str(c.parts))
            lines.append(" ".join(f"{cell:>{max(5, len(name))}}" for cell, name in zip(shown, columns)))
    elif found.frugal is not None:
        lines.append(
            f"nothing fits: the most frugal plan needs {found.over / GB:.1f} GB more: {described(found.frugal)}"
        )
    else:
        lines.append("no plan can run at all")
    lines += [f"  {count:>7,} refused: {reason}" for reason, count in found.refused.items()]
    return "\n".join(lines)


def as_json(found: Found) -> dict[str, Any]:
    return {
        "choices": [c.describe() for c in found.choices],
        "refused": found.refused,
        "plans": found.looked_at,
        "configurations": found.configurations,
        "valid": found.valid,
        "seconds": found.seconds,
        "over_bytes": found.over,
        "frugal": found.frugal.describe() if found.frugal else None,
    }


def described(plan: Any) -> str:
    """Such as "TP8 CP2 DP16 ZeRO-1, batch 1 x 2, 40 % recomputed"."""
    n = plan.describe()
    words = [f"TP{n['tensor']}"]
    words += [f"CP{n['context']}"] if n["context"] > 1 else []
    words += [f"PP{n['pipeline']} VPP{n['virtual']}"] if n["pipeline"] > 1 else []
    words += [f"DP{n['data']} ZeRO-{n['zero']}, batch {n['micro_batch']} x {n['micro_batches']}"]
    return " ".join(words) + (f", {n['recompute']:.0%} recomputed" if n["recompute"] else "")
