"""The command line: parses, then reaches for what a command needs. `--help`, `plan` and `status` import nothing heavy.

Exit codes: 0 done; 1 a stage failed or a check did; 2 a mistake of the user's, told in one message; 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from stepvideo import __version__
from stepvideo.curation import funnel_command as funnel
from stepvideo.curation import sheet_command as sheet
from stepvideo.curation.browse import command as browse
from stepvideo.curation.labelling import command as label
from stepvideo.data import balance_command as balance
from stepvideo.emulator import command as emulate
from stepvideo.emulator import search_command as searching
from stepvideo.errors import StageFailed, StepVideoError
from stepvideo.evaluation import command as evaluating
from stepvideo.evaluation.suites import command as suites
from stepvideo.evaluation.suites import generate_command as suite_generate
from stepvideo.inference import arguments
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
from stepvideo.training import select_command as select
from stepvideo.training import split_command as splitting
from stepvideo.training import step_command as steps
from stepvideo.training import telemetry_serve
from stepvideo.training import tracked_command as tracked

OVERRIDES = 'settings, for example: profile=smoke stages.sft.steps=50 cluster=debug raw=DIR (see conf/ and "plan")'

ATTENTION = "inspect attention"  # one command of two words, beside `inspect DIR`

REF = "stage, stage/key, a path, or model@alias of the registry"


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
            parser.error(f"unknown arguments: {' '.join(rest)}")
        given += rest
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
        ("align", _align, "the cascade with people's votes on its preference pairs: waits for their studies"),
    ):
        sub = command(name, call, text)
        sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=OVERRIDES)
        sub.add_argument("--until", metavar="STAGE", help="this stage and what it needs, for example sft or average")
        sub.add_argument("--json", action="store_true", help="print JSON instead of tables")

    sub.add_argument("--studies", required=True, metavar="DIR", help="folder of the studies, one a judged stage")
    sub.add_argument("--study", action="append", default=[], metavar="KEY=VALUE", help="of a study, such as raters=3")

    sub = command("curate", _curate, "a folder of videos and images to clips, tags, subsets and a page to look at them")
    sub.add_argument(
        "folder",
        metavar="DIR",
        help="or s3://BUCKET/FOLDER; searched with its subfolders; captions from sidecars.jsonl if any",
    )
    sub.add_argument("--out", metavar="STORE", help="where artifacts are kept (runs/store)")
    sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, such as stages.curate.segment.trim=0")
    sub.add_argument("--json", action="store_true", help="print JSON instead of tables")

    data = command("data", lambda _: 2, "curated data to a bucket or to DVC, and back")
    verbs = data.add_subparsers(required=True, metavar="VERB")
    text = "copy artifacts to a bucket or folder, or record them with DVC as a version of the data"
    sub = verbs.add_parser("publish", help=text, description=text)
    sub.set_defaults(call=_data_publish)
    sub.add_argument("refs", nargs="+", metavar="REF", help=REF)
    where = sub.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", metavar="URL", help="s3://BUCKET/FOLDER or a folder; an interrupted copy goes on")
    where.add_argument("--name", help="a version: versions/NAME.dvc, to commit; its data go to the DVC remote")
    _add_store(sub)
    text = "bring published artifacts back into a store, byte for byte"
    sub = verbs.add_parser("checkout", help=text, description=text)
    sub.set_defaults(call=_data_checkout)
    sub.add_argument("what", metavar="NAME|URL", help="a version of this checkout, or URL/STAGE/KEY")
    _add_store(sub)

    sub = command("status", _status, "the stages of the newest run and how far they are")
    sub.add_argument("--reap", action="store_true", help="close what killed runs left open in MLflow and Prefect")
    sub.add_argument("--json", action="store_true", help="print JSON")
    _add_store(sub)

    sub = command("logs", _logs, "output of a stage's newest attempt")
    sub.add_argument("stage", metavar="STAGE", help="name, or name/key")
    sub.add_argument("-f", "--follow", action="store_true", help="go on until the job has ended")
    _add_store(sub)

    sub = command("cancel", _cancel, "cancel the Slurm jobs of a store, whether a driver waits for them or not")
    _add_store(sub)

    sub = command("service", _service, "print a systemd unit whose service is `stepvideo run` with these settings")
    sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=OVERRIDES)

    sub = command("worker", _worker, "be a Prefect worker, which runs cascades from the UI or a schedule")
    sub.add_argument("--pool", default="stepvideo", help="the work pool; made if it is not there (stepvideo)")
    _add_store(sub)

    sub = command("lineage", _lineage, "what an artifact was made from, down to the raw data, and how to make it again")
    sub.add_argument("ref", metavar="REF", help=REF)
    _add_store(sub)

    sub = command("compare", _compare, "settings, data and metrics of two artifacts or two runs")
    sub.add_argument("a", metavar="A", help=REF + ", or the id of a run")
    sub.add_argument("b", metavar="B")
    sub.add_argument("--json", action="store_true", help="print JSON")
    _add_store(sub)

    sub = command("doctor", _doctor, "what this machine has and lacks")
    text = "instead, whether the Slurm cluster here takes the jobs of a run with these settings; runs a probe job"
    sub.add_argument("--slurm", nargs="*", metavar="KEY=VALUE", help=text)
    sub.add_argument("--json", action="store_true", help="print JSON")
    _add_store(sub)

    sub = command("generate", _generate, arguments.HELP)
    arguments.add_arguments(sub)
    _add_model(sub)
    _add_store(sub)

    for name, module in (("serve", serving), ("export", export), (ATTENTION, attending)):
        sub = command(name, partial(_with_located_model, module.call), module.HELP)
        module.add_arguments(sub)
        _add_model(sub)
        _add_store(sub)

    for name, module in (
        ("inspect", inspecting),
        ("embed", embed),
        ("parity", parity),
        ("balance", balance),
        ("select", select),
        ("average", average),
        ("produce", producing),
        ("lora-merge", lora_merge),
        ("export-checkpoint", export_checkpoint),
        ("profile", profile),
        ("funnel", funnel),
        ("browse", browse),
        ("sheet", sheet),
        ("label", label),
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


def _add_model(parser: argparse.ArgumentParser) -> None:
    text = REF + ", or a folder in the released layout"
    parser.add_argument("--model", default="", metavar="REF", help=text + "; by default the most refined one")
    parser.add_argument("--vae", default="", metavar="REF", help="the VAE, if not the model's own")
    parser.add_argument("--text", default="", metavar="REF", help="the text encoders, if not the model's own")


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", metavar="DIR", help="the artifact store; runs/store of the checkout by default")


def _plan(args: argparse.Namespace) -> int:
    from flows.run import plan_command

    return plan_command(args.overrides, args.until, args.json)


def _run(args: argparse.Namespace) -> int:
    from flows.run import run_command

    return run_command(args.overrides, args.until, args.json)


def _align(args: argparse.Namespace) -> int:
    from flows.align import Asked
    from flows.align_command import align_command

    return align_command(Asked(args.overrides, args.studies, args.until or "", args.study), args.json)


def _curate(args: argparse.Namespace) -> int:
    from flows.run import run_command

    # the schema of the config follows the graph, hence both
    settings = ["graph=flows.curate", "profile=curate", f"raw={_quoted(args.folder)}"]
    settings += [f"store={_quoted(args.out)}"] if args.out else []
    return run_command(settings + args.overrides, None, args.json)


def _quoted(text: str) -> str:
    """A value for Hydra, whatever is in it."""
    return "'" + text.replace("'", "\\'") + "'"


def _data_publish(args: argparse.Namespace) -> int:
    from flows.data import publish_command

    return publish_command(args.store, args.refs, args.to, args.name)


def _data_checkout(args: argparse.Namespace) -> int:
    from flows.data import checkout_command

    return checkout_command(args.store, args.what)


def _status(args: argparse.Namespace) -> int:
    from flows.status import status_command

    return status_command(args.store, args.reap, args.json)


def _cancel(args: argparse.Namespace) -> int:
    from flows.service import cancel_command

    return cancel_command(args.store)


def _service(args: argparse.Namespace) -> int:
    from flows.service import service_command

    return service_command(args.overrides)


def _worker(args: argparse.Namespace) -> int:
    from flows.service import worker_command

    return worker_command(args.pool, args.store)


def _logs(args: argparse.Namespace) -> int:
    from flows.status import logs_command

    return logs_command(args.store, args.stage, args.follow)


def _lineage(args: argparse.Namespace) -> int:
    from flows.lineage import lineage_command

    return lineage_command(args.store, args.ref)


def _compare(args: argparse.Namespace) -> int:
    from flows.lineage import compare_command

    return compare_command(args.store, args.a, args.b, args.json)


def _doctor(args: argparse.Namespace) -> int:
    from flows.doctor import doctor_command

    return doctor_command(args.store, args.json, args.slurm)


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


def _generate(args: argparse.Namespace) -> int:
    from flows.generate import generate_command

    return generate_command(args)


def _suite_arguments(parser: argparse.ArgumentParser) -> None:
    suite_generate.add_arguments(parser)
    _add_model(parser)
    _add_store(parser)


def _suite_generate(args: argparse.Namespace) -> int:
    from flows.suite import generate_command

    return generate_command(args)


def _with_located_model(call: Callable[..., int], args: argparse.Namespace) -> int:
    from flows.generate import locate

    return call(args, locate)


if __name__ == "__main__":
    sys.exit(main())
