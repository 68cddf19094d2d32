"""`stepvideo suite world`: hard cases of the small world as a suite, and their truth as videos. Light until called."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

HELP = "make the suite of the small world's hard cases: action sequences, rare combinations, bouncing, falling"
WORDINGS = ("natural", "known")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl")
    parser.add_argument("--per-category", type=int, default=40, metavar="N", help="prompts of each category (40)")
    parser.add_argument("--seed", type=int, default=0, metavar="INT")
    text = "of events: natural, or known: words that encoders trained without hard scenes can spell"
    parser.add_argument("--wording", choices=WORDINGS, default="natural", help=text)
    text = "with a model's text encoders (weights/text): say how many prompts they cannot spell"
    parser.add_argument("--text", type=Path, metavar="DIR", help=text)
    text = "also render what every prompt asks for, with a manifest: what the metrics say of a perfect model"
    parser.add_argument("--truth", type=Path, metavar="DIR", help=text)
    parser.add_argument("--size", type=int, default=64, metavar="PIXELS", help="of the truth (64)")
    parser.add_argument("--frames", type=int, default=17, metavar="N", help="of the truth (17)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def call(args: argparse.Namespace) -> int:
    """0; 1 if encoders were given and cannot spell every prompt."""
    from stepvideo.evaluation.suites.adopt import adopt
    from stepvideo.evaluation.suites.schema import write
    from stepvideo.evaluation.suites.world import truth, world_suite
    from stepvideo.world import media

    suite = world_suite(args.per_category, args.seed, args.wording)
    write(args.out, suite)
    found = {"suite": suite.name, "prompts": len(suite.prompts), "sha256": suite.digest}
    if args.text:
        from stepvideo.models.text_encoders import load_tokenizers

        both = load_tokenizers(args.text)
        for lang in suite.languages:
            bad = [p for p in suite.prompts if not both.readable(p.text(lang))]
            found[f"unspelled_{lang}"] = dict(Counter(p.category for p in bad))
    if args.truth:
        for number, p in enumerate(suite.prompts):
            media.write_mp4(args.truth / f"{p.id}.mp4", truth(p, number, args.size, args.frames), 25)
        adopt(args.truth, suite, "{id}")
        found["truth"] = str(args.truth)
    if args.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        print(f"{args.out}: {len(suite.prompts)} prompts, sha256 {suite.digest[:16]}")
        for lang in suite.languages if args.text else ():
            bad = found[f"unspelled_{lang}"]
            print(f"{args.text} cannot spell in {lang}: " + (", ".join(f"{k} {n}" for k, n in bad.items()) or "none"))
        score = f"stepvideo evaluate videos {args.truth} --metrics events,oracle"
        print(f"next: {score if args.truth else f'stepvideo suite generate {args.out} --out DIR --seeds 1'}")
    return int(any(v for k, v in found.items() if k.startswith("unspelled")))
