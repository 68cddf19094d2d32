"""`stepvideo suite generate`: find the model, then hand over to the library."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from flows.generate import check_ranks, locate, open_model, progress
from stepvideo.errors import ArtifactError, ConfigError
from stepvideo.evaluation.suites.schema import LANGUAGES, Suite, read
from stepvideo.inference.arguments import memory_of, options_of, parallel_of
from stepvideo.inference.outputs import Encoding
from stepvideo.parallel.launch import exit_code, is_rank, run_ranks


def generate_command(args: argparse.Namespace) -> int:
    """Make this part's videos of a suite; on several ranks if they are asked for."""
    suite = read(args.suite)
    memory, ranks = memory_of(args), parallel_of(args)
    languages = _languages(suite, args.lang)
    folders, lineage = locate(args)
    if ranks.world_size > 1 and not is_rank():
        check_ranks(ranks, folders["model"])
        return exit_code(run_ranks(["-m", "stepvideo.cli", *sys.argv[1:]], ranks.world_size, quiet=True))
    from stepvideo.evaluation.suites.generation import Wanted, generate_suite, part_of, requests_of

    wanted = Wanted(
        languages,
        args.seeds,
        args.seed,
        args.own_noise,
        options_of(args),
        args.fps,
        Encoding(args.crf, args.pix_fmt),
        args.images,
        args.partial,
    )
    part = part_of(args.part)
    asked = [request for *_, request in requests_of(suite, wanted, args.out)]
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ArtifactError(f"--out {args.out} cannot be made: {e.strerror}; choose another folder") from e
    pipe, features = open_model(args, folders, lineage, asked, memory, ranks)
    with progress(pipe, quiet=args.json) as (say, on_step):
        complete = generate_suite(
            pipe, suite, wanted, args.out, part, lineage=lineage, features=features, say=say, on_step=on_step
        )
    if not pipe.is_main:
        return 0
    if args.json:
        print(json.dumps({"out": str(args.out), "part": list(part), "complete": complete, "videos": len(asked)}))
    elif complete:
        print(f"next: stepvideo evaluate videos {args.out}")
    else:
        print(
            f"part {part[0]} of {part[1]} is done; `stepvideo suite status {args.out}` says what other parts still owe"
        )
    return 0


def _languages(suite: Suite, given: str) -> Sequence[str]:
    """Raises ConfigError for what is no language, or one that some prompt lacks."""
    wanted = [lang.strip() for lang in given.split(",")] if given else suite.languages[:1]
    if not wanted or len(set(wanted)) != len(wanted) or not set(wanted) <= set(LANGUAGES):
        raise ConfigError(f"--lang {given!r}: give zh, en or zh,en")
    if lacking := [lang for lang in wanted if lang not in suite.languages]:
        raise ConfigError(f"--lang {given}: not every prompt of {suite.name} has a text in {lacking[0]}")
    return wanted
