"""The command line: parses, then reaches for what a command needs. `--help`, `plan` and `status` import nothing heavy.

Exit codes: 0 done; 1 a stage failed or a check did; 2 a mistake of the user's, told in one message; 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from stepvideo import __version__
from stepvideo.errors import StageFailed, StepVideoError

OVERRIDES = 'settings, for example: profile=smoke stages.sft.steps=50 cluster=debug raw=DIR (see conf/ and "plan")'


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = _parser().parse_args(argv)
    _find_flows()
    try:
        return args.call(args)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except StageFailed as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    except StepVideoError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2


def _find_flows() -> None:
    """`flows` and `tasks` lie beside the package in a checkout and are not installed under such general names."""
    root = str(Path(__file__).resolve().parent.parent)
    if root not in sys.path:
        sys.path.append(root)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stepvideo", description="Raw video in, an evaluated and distilled text-to-video model out."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, call: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(call=call)
        return sub

    for name, call, text in (
        ("plan", _plan, "what a run would do and why; changes nothing"),
        ("run", _run, "run the cascade; the same command again goes on or takes everything from the store"),
    ):
        sub = command(name, call, text)
        sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=OVERRIDES)
        sub.add_argument("--until", metavar="STAGE", help="this stage and what it needs, for example sft or average")
        sub.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


def _plan(args: argparse.Namespace) -> int:
    from flows.run import plan_command

    return plan_command(args.overrides, args.until, args.json)


def _run(args: argparse.Namespace) -> int:
    from flows.run import run_command

    return run_command(args.overrides, args.until, args.json)


if __name__ == "__main__":
    sys.exit(main())
