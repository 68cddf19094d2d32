"""Which model is the champion: retrain, trigger, challenge, promote, rollback, promotions."""

from __future__ import annotations

import argparse

from stepvideo.commands.arguments import REF, add_json, add_overrides, add_store
from stepvideo.subcommands import Command

VERSION = "a version's number, " + REF


def _retrain_arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser)
    text = "only when this schedule is due ('0 3 * * 1': Mondays at 03:00) or a trigger waits; missed times count once"
    parser.add_argument("--cron", default="", help=text)
    parser.add_argument("--timezone", default="UTC", metavar="NAME", help="of the schedule, such as Europe/Berlin")
    parser.add_argument("--triggered", action="store_true", help="only when a trigger waits")
    parser.add_argument("--watch", action="store_true", help="stay, and retrain whenever there is a reason")
    parser.add_argument("--approve", action="store_true", help="a person has the last word before a promotion")
    parser.add_argument("--approve-timeout", type=float, default=7 * 24 * 3600.0, metavar="S", help="seconds to wait")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be trained, and why")
    _add_rules(parser)
    add_json(parser)


def _add_rules(parser: argparse.ArgumentParser) -> None:
    text = "of the comparison: metric=all, level=0.95, margin=0.02, guards=[attribute,split,language], strict=true"
    parser.add_argument("--rule", action="append", default=[], metavar="KEY=VALUE", help=text)


def _trigger_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reason", metavar="REASON", choices=("data", "drift", "labels", "manual"), help="of four: "
                        "data, drift, labels, manual")  # fmt: skip
    add_overrides(parser, "settings that belong to it, such as raw=DIR of the new data")
    parser.add_argument("--detail", default="", help="in words, for the record")
    add_store(parser)


def _challenge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ref", metavar="REF", help=VERSION)
    parser.add_argument("--against", default="@champion", metavar="REF", help="the champion by default")
    _add_rules(parser)
    add_json(parser)
    add_store(parser)


def _promote_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ref", metavar="REF", help=VERSION)
    parser.add_argument("--alias", default="champion", help="champion by default")
    text = "a decision (its folder or decision.json), or a file to be kept beside it; by default the store's decision"
    parser.add_argument("--evidence", action="append", default=[], metavar="PATH", help=text)
    parser.add_argument("--approved-by", default="", metavar="NAME", help="who has seen the evidence and says yes")
    parser.add_argument("--note", default="", help="what they say to it")
    parser.add_argument("--force", default="", metavar="REASON", help="promote without evidence for it; is recorded")
    add_store(parser)


def _rollback_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", type=int, metavar="VERSION", help="by default the champion before this one")
    parser.add_argument("--reason", default="", help="for the record; a retraining does not promote it again")
    parser.add_argument("--approved-by", default="", metavar="NAME")
    add_store(parser)


def _promotions_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)
    add_store(parser)


def _retrain(args: argparse.Namespace) -> int:
    from flows.retrain_command import retrain_command
    from flows.retrain_work import Asked

    asked = Asked(
        args.overrides, args.rule, args.cron, args.timezone, args.triggered, args.approve, args.approve_timeout
    )
    return retrain_command(asked, args.dry_run, args.watch, args.json)


def _trigger(args: argparse.Namespace) -> int:
    from flows.retrain_command import trigger_command

    return trigger_command(args.store, args.reason, args.detail, args.overrides)


def _challenge(args: argparse.Namespace) -> int:
    from flows.promote_command import challenge_command

    return challenge_command(args.store, args.ref, args.against, args.rule, args.json)


def _promote(args: argparse.Namespace) -> int:
    from flows.promote_command import promote_command

    given = (args.alias, args.evidence, args.approved_by, args.note, args.force)
    return promote_command(args.store, args.ref, *given)


def _rollback(args: argparse.Namespace) -> int:
    from flows.promote_command import rollback_command

    return rollback_command(args.store, args.to, args.reason, args.approved_by)


def _promotions(args: argparse.Namespace) -> int:
    from flows.promote_command import promotions_command

    return promotions_command(args.store, args.json)


COMMANDS = (
    Command(
        "retrain",
        "train what new data, labels or code touch, and promote the model if it beats the champion",
        _retrain_arguments,
        _retrain,
    ),
    Command("trigger", "leave a reason to retrain in the store", _trigger_arguments, _trigger),
    Command("challenge", "compare a model with the champion, with intervals", _challenge_arguments, _challenge),
    Command("promote", "make a model the champion, with evidence", _promote_arguments, _promote),
    Command("rollback", "give the champion's place back to the model before it", _rollback_arguments, _rollback),
    Command("promotions", "every promotion and rollback of a store", _promotions_arguments, _promotions),
)
