"""`stepvideo mind`: nodes in StepMind's care. Light: what a verb needs is imported when it is called.

Exit codes: 0 in order; 1 a check or a test failed, or the breaker is open (`status --check`); 2 a user's mistake.
"""

from __future__ import annotations

import argparse
import importlib
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stepvideo.errors import StepVideoError

HELP = "the cluster's nodes: health, stress tests, quality, repair and return; faults and effective time"
FOLDER = "folder on a file system that all nodes share; $STEPVIDEO_MIND by default"
REPAIRS = ("reboot", "inspect", "replace")


Call = Callable[[argparse.Namespace], int]


@dataclass(frozen=True)
class Above:
    """What the layer above does, which knows the scheduler."""

    watch: Call
    links: Call
    reserve: Call


def add_arguments(parser: argparse.ArgumentParser, above: Above | None = None) -> None:
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, call: str | Call, text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        sub.set_defaults(call=_later(call) if isinstance(call, str) else call)
        sub.add_argument("--json", action="store_true", help="print JSON")
        return sub

    sub = verb("status", "fleet_command:status", "every node: state, score, its last fault; and the circuit breaker")
    sub.add_argument("--folder", metavar="DIR", help=FOLDER)
    sub.add_argument("--check", action="store_true", help="exit 1 if the breaker is open")
    sub.add_argument("--node", metavar="NAME", help="one node, with its whole history")

    sub = verb(
        "check",
        "node_command:check",
        "health checks of this machine, with the command that mends what they find",
    )
    sub.add_argument("names", nargs="*", metavar="CHECK", help="some of them; all by default (--list)")
    sub.add_argument("--list", action="store_true", help="what there is to check")
    sub.add_argument(
        "--uniform", action="store_true", help="instead: nodes whose software or firmware differs from most"
    )
    sub.add_argument("--slurm", action="store_true", help="as Slurm's HealthCheckProgram: report to the folder")
    sub.add_argument("--overlay", type=Path, metavar="DIR", help="files that stand for the machine's own, for tests")
    _add_node(sub)

    sub = verb("stress", "node_command:stress", "stress tests of this machine, held against what the fleet reaches")
    sub.add_argument("--profile", metavar="NAME", help="quick, short (default) or long: 3 hours, the load test")
    sub.add_argument("--device", default="auto", metavar="KIND", help="auto (a GPU if there is one), cpu or cuda")
    sub.add_argument("--tolerance", type=float, default=0.1, metavar="SHARE", help="below the fleet's median (0.1)")
    sub.add_argument("--learn", action="store_true", help="instead: expectations from what nodes have reported")
    sub.add_argument("--since", type=float, help=argparse.SUPPRESS)  # of the state that the health program saw
    _add_node(sub)

    sub = verb(
        "admit",
        "fleet_command:admit",
        "a node was repaired: checks, stress test, and then back; or close the circuit breaker",
    )
    sub.add_argument("nodes", nargs="*", metavar="NODE")
    how = "what was done: " + ", ".join(REPAIRS) + " (inspect)"
    sub.add_argument("--repaired", choices=REPAIRS, default="inspect", help=how)
    sub.add_argument("--category", metavar="PART", help="of what was replaced: GPU, Network or Host")
    sub.add_argument("--note", default="", metavar="TEXT", help="for its history")
    sub.add_argument("--close-breaker", action="store_true", help="the cause of many drains was found: drains again")
    sub.add_argument("--folder", metavar="DIR", help=FOLDER)

    sub = verb(
        "report",
        "fleet_command:report",
        "where the time of runs went, and what their restarts were for (Tables 4 and 5)",
    )
    sub.add_argument("--store", default="runs/store", metavar="DIR", help="the artifact store (runs/store)")

    sub = verb(
        "month", "month_command:month", "simulated months: StepMind's decisions beside naive ones, with intervals"
    )
    sub.add_argument("--gpus", type=int, default=4096, metavar="N", help="of one job (4096)")
    sub.add_argument("--days", type=float, default=31.0, metavar="N", help="(31)")
    sub.add_argument(
        "--times", type=float, nargs="+", default=[1.0, 10.0], metavar="X", help="the report's rates (1 10)"
    )
    sub.add_argument("--noise", type=float, default=5.0, metavar="N", help="misleading events a day (5)")
    sub.add_argument("--spares", type=int, default=12, metavar="N", help="nodes in the buffer (12)")
    sub.add_argument("--months", type=int, default=20, metavar="N", help="each of a seed of its own (20)")
    sub.add_argument("--check", action="store_true", help="exit 1 below 99 %% at the report's rates, or without a gain")

    if above:
        _add_above(verb, above)


def _add_above(verb: Callable[[str, Call, str], argparse.ArgumentParser], above: Above) -> None:
    sub = verb("watch", above.watch, "keep nodes in order, and restart jobs that are stuck; until it is interrupted")
    sub.add_argument("--folder", metavar="DIR", help=FOLDER)
    sub.add_argument("--store", metavar="DIR", help="watch the Slurm jobs of this artifact store, too")
    sub.add_argument("--every", type=float, default=2.0, metavar="S", help="between two looks at nodes (2)")
    sub.add_argument("--rounds", type=int, default=0, metavar="N", help="of looks, for example from cron; 0: no end")
    sub = verb("links", above.links, "find bad nodes and bad links by exchanges among small groups of nodes")
    sub.add_argument("nodes", nargs="+", metavar="NODE", help="that take jobs of yours")
    sub.add_argument("--partition", default="", help="of Slurm, that they are all in")
    sub.add_argument("--reservation", default="", help="of Slurm, for nodes under maintenance")
    sub.add_argument("--share", type=float, default=0.7, metavar="S", help="of the usual bandwidth, at least (0.7)")
    sub.add_argument("--seconds", type=float, default=1.0, metavar="S", help="of each pattern (1)")
    sub.add_argument("--timeout", type=float, default=120.0, metavar="S", help="of a group (120)")
    sub.add_argument("--cuda", action="store_true", help="by NCCL between GPUs")

    sub = verb("reserve", above.reserve, "keep nodes from jobs for maintenance; StepMind leaves them alone meanwhile")
    sub.add_argument("nodes", nargs="*", metavar="NODE")
    sub.add_argument("--minutes", type=int, default=120, metavar="N", help="(120)")
    sub.add_argument("--name", default="stepvideo", help="of Slurm's reservation (stepvideo)")
    sub.add_argument("--release", action="store_true", help="give them back")


def _add_node(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", metavar="DIR", help=FOLDER)
    here = os.environ.get("SLURMD_NODENAME") or socket.gethostname().partition(".")[0]
    parser.add_argument("--node", default=here, metavar="NAME", help="this machine's name for the scheduler")


def _later(where: str) -> Call:
    module, _, name = where.partition(":")
    return lambda args: getattr(importlib.import_module(f"stepvideo.mind.{module}"), name)(args)


def main(argv: Sequence[str] | None = None) -> int:
    """For a node's own programs, which start it often: no other command is imported."""
    parser = argparse.ArgumentParser(prog="stepvideo mind", description=HELP)
    add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        return args.call(args)
    except StepVideoError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
