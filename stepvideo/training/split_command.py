"""`stepvideo emulate split`: GPUs that encode clips and prompts beside those that train (report §6.1). Torch-free."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepvideo.training.fits import Stage

HELP = "how many GPUs must run the VAE and the text encoders so that those that train never wait"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, for example profile=30b")
    parser.add_argument("--gpu", default="", metavar="NAME", help="that trains; the profile's by default")
    parser.add_argument(
        "--encoder-gpu", default="", metavar="NAME", help="that encodes; the one that trains by default"
    )
    parser.add_argument(
        "--step-s", type=float, metavar="S", help="seconds of a step as measured, in place of predicted"
    )
    parser.add_argument("--measured", type=float, default=0.0, metavar="N", help="samples a second of one encoding GPU")
    parser.add_argument(
        "--vae-efficiency", type=float, default=0.25, metavar="X", help="else: its share of peak (0.25)"
    )
    parser.add_argument("--text-efficiency", type=float, default=0.4, metavar="X", help="the same of Step-LLM (0.4)")
    parser.add_argument("--pipe-gbs", type=float, default=1.0, metavar="GB", help="GB/s from an encoding GPU (1.0)")
    parser.add_argument(
        "--margin", type=float, default=0.2, metavar="X", help="more than needed, so that none waits (0.2)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def call(args: argparse.Namespace, stages: Callable[[list[str]], tuple[Iterable[Stage], str]]) -> int:
    """Prints a row a stage.

    Raises:
        ConfigError: ranks that do not divide, an unknown GPU, a rate or share that is none.
    """
    from stepvideo.emulator.hardware import find
    from stepvideo.emulator.machine import target
    from stepvideo.emulator.split import Demand, Encoding, Stream, split
    from stepvideo.errors import ConfigError
    from stepvideo.training.fits import settings
    from stepvideo.training.predict import predictions, streams

    composed, named = stages(args.overrides)
    composed = list(composed)
    aim = target(args.gpu or named)
    gpu = find(args.encoder_gpu) if args.encoder_gpu else aim.gpu
    encoding = Encoding(gpu, args.measured, args.vae_efficiency, args.text_efficiency, args.pipe_gbs, args.margin)
    if args.step_s is not None and not args.step_s > 0:
        raise ConfigError(f"--step-s {args.step_s:g}: give more than 0")
    try:
        found = predictions(composed, aim)
        taken = streams(composed)
    except ValueError as e:
        raise ConfigError(str(e)) from e
    _, vae = settings(composed)
    rows = []
    for p in found:
        seconds = args.step_s or p.seconds.total
        sizes = tuple(Stream(n / seconds, b.frames, b.height, b.width) for b, n in taken[p.stage].items())
        result = split(Demand(p.ranks, sizes), encoding, vae)
        rows.append({"stage": p.stage, "training_gpus": p.ranks, "samples_per_s": sum(s.samples_per_s for s in sizes),
                     "step_s": seconds, **result.row()})  # fmt: skip
    if args.json:
        print(json.dumps({"step": "measured" if args.step_s else aim.basis, "rows": rows}, indent=1))
        return 0
    head = f"{'stage':13} {'train':>6} {'samples/s':>9} {'TFLOP each':>10} {'encode':>7} {'share':>6}"
    print(f"{head} {'limit':>8} {'GB/s':>7}")
    for r in rows:
        each = r["vae_tflop"] + r["text_tflop"]
        print(
            f"{r['stage']:13} {r['training_gpus']:6} {r['samples_per_s']:9.4g} {each:10.4g} {r['encoders']:7} "
            f"{r['share']:6.1%} {r['limit']:>8} {r['stream_gbs']:7.3g}"
        )
    step = "steps as measured" if args.step_s else f"steps predicted, {aim.basis}"
    if rows:
        print(f"{step}; encoding {rows[0]['basis']}; margin {args.margin:.0%}; CLIP not counted")
    return 0
