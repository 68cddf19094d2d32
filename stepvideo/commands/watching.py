"""What runs, where, and whether it can: status, logs, cancel, service, worker, doctor."""

from __future__ import annotations

import argparse

from stepvideo.commands.arguments import add_json, add_overrides, add_store
from stepvideo.subcommands import Command


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reap", action="store_true", help="close what killed runs left open in MLflow and Prefect")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--all", action="store_true", help="instead: every run, its state, time, cost and disk")
    instead.add_argument("--disk", action="store_true", help="instead: bytes by stage, and what gc would free")
    add_json(parser)
    add_store(parser)


def _logs_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stage", metavar="STAGE", help="name, or name/key")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the job has ended")
    add_store(parser)


def _worker_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pool", default="stepvideo", help="the work pool; made if it is not there (stepvideo)")
    add_store(parser)


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    text = "instead, whether the Slurm cluster here takes the jobs of a run with these settings; runs a probe job"
    parser.add_argument("--slurm", nargs="*", metavar="KEY=VALUE", help=text)
    add_json(parser)
    add_store(parser)


def _status(args: argparse.Namespace) -> int:
    if args.disk:
        from flows.gc_disk import disk_command

        return disk_command(args.store, args.json)
    from flows.status import all_command, status_command

    if args.all:
        return all_command(args.store, args.json)
    return status_command(args.store, args.reap, args.json)


def _logs(args: argparse.Namespace) -> int:
    from flows.status import logs_command

    return logs_command(args.store, args.stage, args.follow)


def _cancel(args: argparse.Namespace) -> int:
    from flows.service import cancel_command

    return cancel_command(args.store)


def _service(args: argparse.Namespace) -> int:
    from flows.service import service_command

    return service_command(args.overrides)


def _worker(args: argparse.Namespace) -> int:
    from flows.service import worker_command

    return worker_command(args.pool, args.store)


def _doctor(args: argparse.Namespace) -> int:
    from flows.doctor import doctor_command

    return doctor_command(args.store, args.json, args.slurm)


COMMANDS = (
    Command("status", "the stages of the newest run and how far they are; all runs; disk", _status_arguments, _status),
    Command("logs", "output of a stage's newest attempt", _logs_arguments, _logs),
    Command("cancel", "cancel the Slurm jobs of a store, whether a driver waits for them or not", add_store, _cancel),
    Command(
        "service",
        "print a systemd unit whose service is `stepvideo run` with these settings",
        add_overrides,
        _service,
    ),
    Command("worker", "be a Prefect worker, which runs cascades from the UI or a schedule", _worker_arguments, _worker),
    Command("doctor", "what this machine has and lacks", _doctor_arguments, _doctor),
)
