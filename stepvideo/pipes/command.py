"""`stepvideo pipes`: who is at the pipes, what goes through them, and the registry by which they are found."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepvideo.pipes.member import Registry

HELP = "named pipes of tensors: list them, watch who waits for whom, run their registry, make keys"
WHERE = "the registry: a folder that all nodes see, or tcp://HOST:PORT of `stepvideo pipes registry`"
KEYS = "file of keys, mode 0600, that all members have; needed beyond this machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, call: object, text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        sub.set_defaults(call=call)
        return sub

    for name, call_, text in (
        ("ls", _ls, "the members of every pipe"),
        ("top", _top, "rates, bytes, losses of every pipe and job, and who waits for whom"),
    ):
        sub = verb(name, call_, text)
        sub.add_argument("registry", metavar="WHERE", help=WHERE)
        sub.add_argument("--pipe", help="of this pipe only")
        sub.add_argument("--keys", metavar="FILE", help=KEYS)
        sub.add_argument("--json", action="store_true", help="print JSON")
        if name == "top":
            sub.add_argument("--every", type=float, metavar="S", help="again every S seconds, until Ctrl-C")
    sub = verb("registry", _registry, "serve the registry until Ctrl-C")
    sub.add_argument(
        "--bind", default="tcp://127.0.0.1:7571", metavar="ADDRESS", help="tcp://HOST:PORT, port 0 for any"
    )
    sub.add_argument("--keys", metavar="FILE", help=KEYS)
    sub = verb("keys", _keys, "make a file of keys, once for a cluster")
    sub.add_argument("file", metavar="FILE", type=Path)


def _open(args: argparse.Namespace) -> Registry:
    from stepvideo.pipes.config import PipeConfig
    from stepvideo.pipes.errors import PipeError
    from stepvideo.pipes.registry import open_registry

    if not args.registry.startswith("tcp://") and not Path(args.registry).is_dir():
        raise PipeError(f"{args.registry} is no folder; give the one that producers and consumers were given")
    return open_registry(args.registry, PipeConfig(keys=args.keys))


def _ls(args: argparse.Namespace) -> int:
    registry = _open(args)
    members = registry.members(args.pipe)
    registry.close()
    if args.json:
        print(json.dumps([m.to_dict() for m in members], indent=1))
        return 0
    for m in members:
        where = f"job {m.job} rank {m.rank} at {m.address}" if m.job else f"to {', '.join(m.metrics.get('jobs', {}))}"
        print(f"{m.pipe:20} {m.role:9} {m.name:20} {where}{' (finished)' if m.finished else ''}")
    return 0 if members else _nobody()


def _top(args: argparse.Namespace) -> int:
    from stepvideo.pipes.metrics import who_waits

    registry = _open(args)
    while True:
        flows = who_waits(registry.members(args.pipe))
        if args.json:
            print(json.dumps([asdict(f) for f in flows]), flush=True)
        else:
            _table([asdict(f) for f in flows])
        if not args.every:
            registry.close()
            return 0 if flows else _nobody()
        time.sleep(args.every)


def _table(rows: list[dict]) -> None:
    print(f"{'pipe → job':28} {'members':>8} {'items/s':>9} {'MB/s':>8} {'in flight':>9} {'dropped':>8} {'lost':>5}")
    for r in rows:
        print(
            f"{r['pipe'] + ' → ' + r['job']:28} {r['producers']:>3} → {r['consumers']:<2} {r['acked_per_s']:>9.1f} "
            f"{r['bytes_per_s'] / 1e6:>8.1f} {r['in_flight']:>9} {r['dropped']:>8} {r['lost']:>5}  {r['verdict']}"
        )


def _nobody() -> int:
    print("nobody is at a pipe here", file=sys.stderr)
    return 0


def _registry(args: argparse.Namespace) -> int:
    from stepvideo.pipes.config import PipeConfig
    from stepvideo.pipes.registry_server import RegistryServer

    server = RegistryServer(PipeConfig(bind=args.bind, keys=args.keys))
    print(f"registry at {server.address}", flush=True)
    try:
        server.serve()
    finally:
        server.close()
    return 0


def _keys(args: argparse.Namespace) -> int:
    from stepvideo.pipes import keys

    keys.create(args.file)
    print(f"{args.file}: give it, mode 0600, to every member of these pipes")
    return 0
