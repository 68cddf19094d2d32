"""`stepvideo produce STAGE_DIR`: one more producer for a training stage, from any machine that sees the store."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path
from typing import NoReturn

from stepvideo.subcommands import STAGE_DIR, needs

HELP = "encode clips and captions for a training stage that runs with latents=streamed, until it ends"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stage", type=Path, metavar="STAGE_DIR", help="STORE/STAGE/KEY of the training stage")
    parser.add_argument("--name", default="", help="its own; a second life under it takes over the first one's work")


def call(args: argparse.Namespace) -> NoReturn:
    """Becomes the job."""
    from stepvideo.data.feed import Feed
    from stepvideo.errors import ConfigError
    from stepvideo.fingerprint import fingerprint
    from stepvideo.stage import StageSpec, kind
    from stepvideo.training.producer_spec import KIND, feed_config, meeting_place, producer_spec

    needs(args.stage, "spec.json", STAGE_DIR)
    name = args.name or f"{socket.gethostname().split('.')[0]}-{os.getpid()}"
    directory = args.stage.absolute() / "producers" / name
    stage = StageSpec.read(args.stage / "spec.json")
    spec = producer_spec(stage, name, fingerprint(kind(KIND).run.split(":")[0]))
    if (args.stage / "manifest.json").exists():
        raise ConfigError(f"{args.stage} is complete: nobody there wants samples; name a stage that is to run")
    Feed(meeting_place(stage), feed_config(stage).lease_s)  # the stage's job may come later
    spec.write(directory / "spec.json")
    (directory / "manifest.json").unlink(missing_ok=True)  # of an earlier life
    os.execv(sys.executable, [sys.executable, "-m", "stepvideo.job", str(directory)])
