"""`stepvideo emulate table2` and `emulate table3`: the report's tables, recomputed."""

from __future__ import annotations

import argparse
import json
from typing import Any

TABLE2 = "the report's Table 2: MFU and checkpointing of nine plans, with the emulator's cost functions"
TABLE3 = "the report's Table 3: TFLOP of a training sample of each size"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of either."""
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    parser.add_argument("--json", action="store_true", help="print JSON")


def table2(args: argparse.Namespace) -> int:
    from stepvideo.emulator.table2_report import table2_report, text

    result = table2_report()
    return _print(args, result, text(result))


def table3(args: argparse.Namespace) -> int:
    from stepvideo.emulator.table3 import table3, text

    result = table3()
    return _print(args, result, text(result))


def _print(args: argparse.Namespace, result: dict[str, Any], text: str) -> int:
    print(json.dumps(result, indent=1) if args.json else text)
    return int(args.check and not result["ok"])
