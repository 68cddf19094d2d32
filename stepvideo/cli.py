"""The command line: parses, then reaches for what a command needs. `--help`, `plan` and `status` import nothing heavy.

Exit codes: 0 done; 1 a stage or a check failed; 2 a mistake, told in one message; 130 interrupted; 141 nobody reads on.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from stepvideo import __version__
from stepvideo.commands import cascade, data, deploy, keeping, labels, models, promotion, team, watching
from stepvideo.commands.arguments import add_model, add_store
from stepvideo.curation import funnel_command as funnel
from stepvideo.curation import sheet_command as sheet
from stepvideo.curation.browse import command as browse
from stepvideo.data import balance_command as balance
from stepvideo.emulator import command as emulate
from stepvideo.emulator import search_command as searching
from stepvideo.errors import StageFailed, StepVideoError
from stepvideo.evaluation import command as evaluating
from stepvideo.evaluation.suites import command as suites
from stepvideo.evaluation.suites import generate_command as suite_generate
from stepvideo.inference.attention import command as attending
from stepvideo.inference.embed import command as embed
from stepvideo.inference.export import command as export
from stepvideo.inference.inspect import command as inspecting
from stepvideo.inference.parity import command as parity
from stepvideo.inference.serve import command as serving
from stepvideo.mind import command as mind
from stepvideo.pipes import command as pipes
from stepvideo.preference import command as studies
from stepvideo.subcommands import Command
from stepvideo.telemetry import command as telemetry
from stepvideo.training import average_command as average
from stepvideo.training import export_command as export_checkpoint
from stepvideo.training import fits_command as fits
from stepvideo.training import lora_command as lora_merge
from stepvideo.training import produce_command as producing
from stepvideo.training import profile_command as profile
from stepvideo.training import recipe_command as recipe
from stepvideo.training import select_command as selecting
from stepvideo.training import split_command as splitting
from stepvideo.training import step_command as steps
from stepvideo.training import telemetry_serve
from stepvideo.training import tracked_command as tracked

READER_GONE = 128 + 13  # as a shell says of a program that SIGPIPE ended
ATTENTION = "inspect attention"  # one command of two words, beside `inspect DIR`


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = _parser()
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:2] == ATTENTION.split():
        argv[:2] = [ATTENTION]
    args, rest = parser.parse_known_args(argv)
    if rest:  # argparse ends a list of settings, or of rules, at the first option
        given = getattr(args, "overrides", getattr(args, "rules", None))
        if given is None or any(r.startswith("-") for r in rest):
            parser.error(f"unknown arguments: {' '.join(rest)}; `stepvideo {argv[0]} --help` says what it takes")
        given += rest
    _find_flows()
    try:
        code = args.call(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return READER_GONE
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except StageFailed as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    except StepVideoError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2


def _reader_is_gone() -> bool:
    """Whether whoever read stdout has closed it, as `| head -1` does; nothing is written there from then on."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    gone = any(event & select.POLLERR for _, event in poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is buffered still
    return gone


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

    def several(group: Sequence[Command]) -> None:
        for c in group:
            c.add_arguments(command(c.name, c.call, c.help))

    several(cascade.COMMANDS)
    data.add_arguments(commands.add_parser("data", help=data.HELP, description=data.HELP))
    several(watching.COMMANDS)
    team.add_arguments(commands.add_parser("team", help=team.HELP, description=team.HELP))
    several(models.COMMANDS)
    several(promotion.COMMANDS)
    several(keeping.COMMANDS)
    several(deploy.COMMANDS)

    for name, module in (("serve", serving), ("export", export), (ATTENTION, attending)):
        sub = command(name, partial(_with_located_model, module.call), module.HELP)
        module.add_arguments(sub)
        add_model(sub)
        add_store(sub)

    for name, module in (
        ("inspect", inspecting),
        ("embed", embed),
        ("parity", parity),
        ("balance", balance),
        ("select", selecting),
        ("average", average),
        ("produce", producing),
        ("lora-merge", lora_merge),
        ("export-checkpoint", export_checkpoint),
        ("profile", profile),
        ("funnel", funnel),
        ("browse", browse),
        ("sheet", sheet),
        ("label", labels),
    ):
        module.add_arguments(command(name, module.call, module.HELP))
    recipe.add_arguments(command("recipe", _recipe, recipe.HELP))
    fits.add_arguments(command("fits", _fits, fits.HELP))
    above = (
        Command("fits", fits.HELP, fits.add_arguments, _fits),
        Command("step", steps.HELP, steps.add_arguments, _step),
        Command("split", splitting.HELP, splitting.add_arguments, _split),
        Command("search", searching.HELP, searching.add_arguments, _search),
        Command("validate", tracked.HELP, tracked.add_arguments, tracked.call),
    )
    emulate.add_arguments(commands.add_parser("emulate", help=emulate.HELP, description=emulate.HELP), above)
    minded = mind.Above(*(partial(_mind, name) for name in ("watch", "links", "reserve")))
    mind.add_arguments(commands.add_parser("mind", help=mind.HELP, description=mind.HELP), minded)
    making = Command("generate", suite_generate.HELP, _suite_arguments, _suite_generate)
    suites.add_arguments(commands.add_parser("suite", help=suites.HELP, description=suites.HELP), (making,))
    evaluate = commands.add_parser("evaluate", help=evaluating.HELP, description=evaluating.HELP)
    evaluating.add_arguments(evaluate)
    pipes.add_arguments(commands.add_parser("pipes", help=pipes.HELP, description=pipes.HELP))
    studies.add_arguments(commands.add_parser("study", help=studies.HELP, description=studies.HELP))
    served = telemetry_serve
    server = Command("serve", served.HELP, served.add_arguments, served.call)
    telemetry.add_arguments(
        commands.add_parser("telemetry", help=telemetry.HELP, description=telemetry.HELP), (server,)
    )
    return parser


def _recipe(args: argparse.Namespace) -> int:
    from flows.run import trained_configs

    return recipe.call(args, trained_configs)


def _fits(args: argparse.Namespace) -> int:
    from flows.run import planned

    return fits.call(args, planned)


def _step(args: argparse.Namespace) -> int:
    from flows.run import planned_for

    return steps.call(args, planned_for)


def _split(args: argparse.Namespace) -> int:
    from flows.run import planned_for

    return splitting.call(args, planned_for)


def _search(args: argparse.Namespace) -> int:
    from flows.search_command import search_command

    return search_command(args)


def _mind(verb: str, args: argparse.Namespace) -> int:
    from flows import mind

    return getattr(mind, f"{verb}_command")(args)


def _suite_arguments(parser: argparse.ArgumentParser) -> None:
    suite_generate.add_arguments(parser)
    add_model(parser)
    add_store(parser)


def _suite_generate(args: argparse.Namespace) -> int:
    from flows.suite import generate_command

    return generate_command(args)


def _with_located_model(call: Callable[..., int], args: argparse.Namespace) -> int:
    from flows.generate import locate

    return call(args, locate)


if __name__ == "__main__":
    sys.exit(main())
