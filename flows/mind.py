"""`stepvideo mind watch | links`: keeper of nodes, watch over jobs, tests of the network, with Slurm in hand."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import threading
from dataclasses import asdict
from pathlib import Path

from stepvideo.errors import ConfigError
from stepvideo.mind.bisect import FastEnough, bisect
from stepvideo.mind.fleet_command import keep
from stepvideo.mind.settings import Folder
from tasks.mind_watch import Watch
from tasks.slurm_groups import SlurmGroups
from tasks.slurm_nodes import SlurmNodes
from tasks.stage_rates import StageRates


def watch_command(args: argparse.Namespace) -> int:
    """Until it is interrupted, or for so many rounds.

    Raises:
        ConfigError: no folder, a store that is not there, or no Slurm.
    """
    _needs("scontrol")
    folder, manager = Folder.asked(args.folder), SlurmNodes()
    if args.every <= 0:
        raise ConfigError(f"--every is {args.every:g}; give more than 0 seconds")
    stop = threading.Event()
    with contextlib.ExitStack() as ending:
        if args.store:
            if not (store := Path(args.store)).is_dir():
                raise ConfigError(f"there is no store {store}")
            watch = Watch(store, manager, folder.root, said=_say)
            thread = threading.Thread(target=watch.run, args=(stop,), daemon=True)
            thread.start()
            ending.callback(thread.join)
            ending.callback(stop.set)
        loads = StageRates(Path(args.store)) if args.store else tuple
        return keep(folder, manager, args.every, args.rounds, _say, loads)


def links_command(args: argparse.Namespace) -> int:
    """Finds bad nodes and links among nodes; 1 if there is one.

    Raises:
        ConfigError: fewer than two nodes, or no Slurm.
    """
    _needs("srun")
    groups = SlurmGroups(args.partition, args.reservation, args.seconds, args.timeout, args.cuda)
    test = FastEnough(groups, args.share)
    try:
        found = bisect(args.nodes, test)
    except ValueError as e:
        raise ConfigError(str(e)) from e
    if args.json:
        print(json.dumps({**asdict(found), "usual_gbs": test.usual}, indent=1))
    else:
        print(f"{len(args.nodes)} nodes, {found.rounds} rounds, {found.tests} groups; usual {test.usual or 0:.3g} GB/s")
        for words, bad in (("bad nodes", found.nodes), ("bad links", found.links), ("nobody passed", found.unsure)):
            if bad:
                print(f"{words}: {', '.join(b if isinstance(b, str) else ' – '.join(b) for b in bad)}")
    return int(bool(found.nodes or found.links or found.unsure))


def reserve_command(args: argparse.Namespace) -> int:
    """Keeps nodes for maintenance, or gives them back."""
    _needs("scontrol")
    manager = SlurmNodes()
    if args.release:
        manager.release(args.name)
    elif args.nodes:
        manager.reserve(args.name, args.nodes, args.minutes)
        print(f"{', '.join(args.nodes)}: reserved as {args.name} for {args.minutes} min; running jobs go on")
        print(f"next: stepvideo mind links {' '.join(args.nodes)} --reservation {args.name}")
    else:
        raise ConfigError("which nodes? Or give --release")
    return 0


def _needs(command: str) -> None:
    if not shutil.which(command):
        raise ConfigError(f"{command} is not in PATH: install Slurm's commands, or do this where `sinfo` answers")


def _say(text: str) -> None:
    print(text, flush=True, file=sys.stderr)
