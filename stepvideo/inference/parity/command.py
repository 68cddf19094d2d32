"""`stepvideo parity DIR`: are our networks and sampling the released ones? Torch-free until it is called."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

HELP = "compare every case of a folder of golden tensors with what the released code gave"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="<case>.json with .io and .weights.safetensors")
    parser.add_argument("--case", default="*", metavar="GLOB", help='these cases alone, for example "vae*"')
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def call(args: argparse.Namespace) -> int:
    """Prints the result; 0: all inside, 1: an output is outside or was not compared.

    Raises:
        ArtifactError: there is no such folder or case; after the result: files that could not be read or do not fit.
    """
    from stepvideo.errors import ArtifactError
    from stepvideo.inference.parity.compare import BAD_INPUT
    from stepvideo.inference.parity.report import as_json, passed, table
    from stepvideo.inference.parity.run import check, names

    start = time.perf_counter()
    rows = [row for name in names(args.folder, args.case) for row in check(args.folder, name)]
    seconds = time.perf_counter() - start
    print(json.dumps(as_json(rows, seconds), indent=1) if args.json else table(rows, seconds))
    if bad := [row.note for row in rows if row.verdict == BAD_INPUT]:
        raise ArtifactError("\n".join([*bad, "copy the files of these cases again, all of a case from one set"]))
    return 0 if passed(rows) else 1
