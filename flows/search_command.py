"""`stepvideo emulate search`: prints what the search found; trials and files are made inside a Prefect flow."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.compose import compose
from flows.search import Asked, run


def search_command(args: argparse.Namespace) -> int:
    """Prints the plans of every stage; 1: nothing fits somewhere.

    Raises:
        ConfigError: an unknown stage or GPU, a plan that our trainer cannot run and is to be written.
    """
    asked = Asked(
        overrides=args.overrides,
        stages=args.stage,
        gpu=args.gpu,
        gpus=args.gpus,
        hardware=str(args.hardware or ""),
        calibration=str(args.calibration or ""),
        memory_gb=args.memory_gb,
        any=args.any,
        top=args.top,
        write=args.write or "",
        trials=args.trials,
        seed=args.seed,
        objectives=args.objectives,
    )
    cfg = compose(asked.overrides)
    found = _in_prefect(asked, cfg) if (asked.trials or asked.write) and cfg["tracking"]["prefect"] else run(asked, cfg)
    print(json.dumps(found, indent=1) if args.json else "\n\n".join(found["text"]))
    return int(not found["ok"])


def _in_prefect(asked: Asked, cfg: Mapping[str, Any]) -> dict[str, Any]:
    from tasks.environment import set_defaults
    from tasks.prefect_server import temporary_server

    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    set_defaults(dict(cfg))
    with temporary_server(Path(cfg["work"]) / "logs" / "prefect-server.log") as wait_until_up:
        from flows.search_parallelism import search_parallelism

        wait_until_up()
        return search_parallelism(**vars(asked))  # type: ignore[return-value]
