"""`stepvideo study`: make a study of people's judgement, serve it, look how far it is, close it. Light until called."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from stepvideo.errors import StepVideoError
from stepvideo.preference import exchange_command, report_command
from stepvideo.preference.arguments import add_study, open_session
from stepvideo.subcommands import Command, add_commands

HELP = "people's judgement of videos: make a blind study, serve it to annotators, close and export it"
KINDS = ("compare", "rate", "prefer", "label")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_commands(parser, COMMANDS)


def _create_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "study", type=Path, metavar="DIR", help="folder to make, where nothing is served from but media"
    )
    parser.add_argument("--kind", choices=KINDS, default="compare", help="compare: two models (Metric-1); rate: four "
                        "scales (Metric-2); prefer: samples of one model; label: clips for SFT (compare)")  # fmt: skip
    parser.add_argument("--videos", action="append", default=[], metavar="MODEL=DIR", required=True,
                        help="a model's videos; once for every model. ID.mp4 or ID-0.mp4 for prompt ID")  # fmt: skip
    parser.add_argument("--prompts", type=Path, metavar="FILE", help=".jsonl with id, zh, en, category, or .txt, one a "
                        "line, with ids 000, 001, …; not needed where the folders have a manifest.jsonl")  # fmt: skip
    parser.add_argument("--name", metavar="NAME", help="of the study (that of its folder)")
    parser.add_argument(
        "--pairs", type=int, default=1, metavar="INT", help="prefer: pairs of each prompt's samples (1)"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="such as raters=5 gold=0.1 media.crf=12 seed=1"
    )


def _create(args: argparse.Namespace) -> int:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from stepvideo import config as configs
    from stepvideo.preference.build import create
    from stepvideo.preference.config import StudyConfig
    from stepvideo.preference.sources import from_folder, from_manifest, has_manifest, read_prompts

    try:
        given = OmegaConf.to_container(OmegaConf.from_dotlist(args.overrides))
    except OmegaConfBaseException as e:
        raise StepVideoError(f"settings {args.overrides}: give KEY=VALUE") from e
    assert isinstance(given, dict)
    config = configs.load(StudyConfig, {"kind": args.kind} | {str(k): v for k, v in given.items()}, "study")
    prompts, sources = read_prompts(args.prompts) if args.prompts else [], []
    for text in args.videos:
        model, sign, folder = text.partition("=")
        if not sign:
            raise StepVideoError(f"--videos {text}: give MODEL=DIR")
        if not prompts and not has_manifest(Path(folder)):
            raise StepVideoError(f"{folder} has no manifest.jsonl that says what its videos show: give --prompts FILE")
        sources += from_folder(model, Path(folder), prompts) if prompts else from_manifest(model, Path(folder))

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done} of {total} videos", end="\n" if done == total else "", file=sys.stderr)

    study = create(args.study, args.name or args.study.resolve().name, config, sources, args.pairs, progress=show)
    form = study.config.media
    print(f"{len(study.by_role['vote'])} items, {config.raters} annotators each; videos {form.width}x{form.height}, "
          f"{form.frames} frames at {form.fps:g} fps, in {args.study}")  # fmt: skip
    print(f"exclusion rules, fixed from here on: {study.rules_sha256}")
    print(f"next: stepvideo study add-annotator {args.study} NAME; then stepvideo study serve {args.study}")
    return 0


def _person_arguments(parser: argparse.ArgumentParser) -> None:
    add_study(parser)
    parser.add_argument("name", metavar="NAME", help="letters, digits, dots, dashes; nothing secret")
    parser.add_argument("--days", type=float, default=30.0, metavar="N", help="for which the token is good (30)")
    parser.add_argument("--admin", action="store_true", help="for the page /admin, not for voting")
    parser.add_argument("--revoke", action="store_true", help="end the person's token instead")


def _person(args: argparse.Namespace) -> int:
    from stepvideo.preference import tokens

    store = open_session(args).store
    if args.revoke:
        store.write(lambda c: tokens.revoke(c, args.name))
        print(f"{args.name} can no longer take part; their votes stay")
        return 0
    role = tokens.ADMIN if args.admin else tokens.ANNOTATOR
    token = store.write(lambda c: tokens.add(c, args.name, args.days, role))
    print(f"token of {args.name}, good for {args.days:g} days, shown this once:\n{token}")
    page = "/admin" if args.admin else "/"
    print(f"they open http://HOST:PORT{page}#token={token}")
    return 0


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    add_study(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="any other than this needs --as (127.0.0.1)"
    )
    parser.add_argument("--port", type=int, default=8020, metavar="INT", help="0 takes a free one (8020)")
    parser.add_argument("--as", dest="names", action="append", default=[], metavar="NAME",
                        help="a host name by which browsers reach it, such as that of an HTTPS proxy")  # fmt: skip

    parser.add_argument("--proxy", dest="proxies", action="append", default=[], metavar="ADDRESS",
                        help="of a proxy in front, whose X-Forwarded-For is believed; nobody else's is")  # fmt: skip


def _serve(args: argparse.Namespace) -> int:
    import signal

    from stepvideo.inference.serve.command import listen
    from stepvideo.preference.access import Names

    names = Names(args.host, allowed=tuple(args.names))
    session = open_session(args)
    listener = listen(args.host, args.port)
    import uvicorn

    from stepvideo.preference.server import create_app

    host, port = listener.getsockname()[:2]
    app = create_app(session, args.study, names)
    # Without a proxy a forged header would give everybody as many addresses as they like to try tokens from.
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=2,
                            proxy_headers=bool(args.proxies), forwarded_allow_ips=list(args.proxies))  # fmt: skip
    listener.listen()  # from here on a browser may come, and waits for the answer
    print(f"serving http://{f'[{host}]' if ':' in host else host}:{port}  (Ctrl-C stops)", flush=True)
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises what it caught once more when it is done
        signal.signal(number, lambda *_: None)
    try:
        uvicorn.Server(config).run([listener])
    finally:
        session.store.close()
    return 0


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    add_study(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _status(args: argparse.Namespace) -> int:
    from stepvideo.preference.progress import progress

    said = progress(open_session(args), args.study)
    if args.json:
        print(json.dumps(said, ensure_ascii=False))
        return 0
    print(f"{said['kind']}, {'closed' if said['closed'] else 'open'}: {said['voted']} of {said['wanted']} votes, "
          f"{said['items_done']} of {said['items']} items have all {said['raters']}")  # fmt: skip
    for row in said["annotators"]:
        notes = [] if row["active"] else ["token ended"]
        notes += [f"{row['verdict']}: {'; '.join(row['reasons'])}"] if row["reasons"] else []
        print(f"  {row['name']}: {row['voted']} voted, {row['skipped']} skipped{''.join(f', {n}' for n in notes)}")
    return 0


def _close(args: argparse.Namespace) -> int:
    from stepvideo.preference.closing import close

    path = close(open_session(args), args.study)
    print(f"{args.study} is closed" + (f"; votes with the models' names: {path}" if path else ""))
    return 0


COMMANDS = (
    Command("create", "make a study of folders of videos", _create_arguments, _create),
    Command("add-annotator", "a token for a person, or the end of one", _person_arguments, _person),
    Command("serve", "serve a study to annotators until Ctrl-C", _serve_arguments, _serve),
    Command("status", "how far a study is", _status_arguments, _status),
    Command("close", "take no more votes, and write them with the models' names", add_study, _close),
    *report_command.COMMANDS,
    *exchange_command.COMMANDS,
)
