"""`stepvideo profile STAGE_DIR`: where the time of a training step goes. Torch-free until it is called."""

from __future__ import annotations

import argparse
from pathlib import Path

from stepvideo.errors import ConfigError, StepVideoError

HELP = "run a few steps of a training stage again and show where their time goes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stage_dir", type=Path, metavar="STAGE_DIR", help="folder of a stage in the store")
    parser.add_argument("--steps", type=int, default=5, metavar="N", help="steps to measure, three times over (5)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="for the trace and the text; ./profile-STAGE by default"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def call(args: argparse.Namespace) -> int:
    """Prints the profile and writes profile.txt, profile.json and trace.json (Chrome's format).

    Raises:
        ConfigError: no training stage's folder, or an impossible number of steps.
        StepVideoError: an input is missing, too few steps, or a rank failed.
    """
    from stepvideo.parallel.launch import run_ranks
    from stepvideo.stage import StageSpec

    if args.steps < 1:
        raise ConfigError(f"--steps {args.steps}: give 1 or more")
    if not (args.stage_dir / "spec.json").exists():
        raise ConfigError(f"{args.stage_dir} has no spec.json; give the folder of a stage, STORE/STAGE/KEY")
    spec = StageSpec.read(args.stage_dir / "spec.json")
    runtime = spec.typed_config().runtime
    if not hasattr(runtime, "monitor"):
        raise ConfigError(f"{args.stage_dir} is a stage of kind {spec.kind}, which trains nothing by steps")
    out = args.out or Path(f"profile-{spec.stage}")
    if runtime.nproc > 1:
        arguments = [str(args.stage_dir), str(args.steps), str(out)]
        codes = run_ranks(["-m", "stepvideo.training.profile", *arguments], runtime.nproc, quiet=True)
        if any(codes):
            raise StepVideoError(f"the ranks ended with {codes}; what they wrote above says why")
    else:
        from stepvideo.training import profile

        profile.run(args.stage_dir, args.steps, out)
    print((out / ("profile.json" if args.json else "profile.txt")).read_text(), end="")
    return 0
