"""`stepvideo average MODEL_DIR … --out DIR`: the mean of models, without a pipeline."""

from __future__ import annotations

import argparse
from pathlib import Path

from stepvideo.errors import ConfigError
from stepvideo.subcommands import MODEL_DIR, needs

HELP = "average models of one start: uniform, by weights, or the greedy choice that held-out clips make"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text = "folders in the released layout: models, runs (their last model), snapshots of runs"
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL_DIR", help=text)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--method", choices=("uniform", "weighted", "greedy"), help="by default what the others imply")
    parser.add_argument("--weights", metavar="W,W,…", help="how much each model counts, in the order given")
    parser.add_argument("--validate", type=Path, metavar="LATENTS_DIR", help="latent cache whose clips judge (greedy)")
    parser.add_argument("--resolution", choices=("low", "high"), default="low", help="of those clips")
    parser.add_argument("--held-out", type=float, default=0.02, metavar="SHARE", help="share that training left out")
    parser.add_argument("--clips", type=int, default=32, metavar="N", help="clips that judge")


def call(args: argparse.Namespace) -> int:
    """Prints what was averaged; of a greedy choice also every trial."""
    method = args.method or ("weighted" if args.weights else "greedy" if args.validate else "uniform")
    if (method == "weighted") != bool(args.weights) or (method == "greedy") != bool(args.validate):
        raise ConfigError(
            f"--method {method}: weighted needs --weights, greedy needs --validate, and none other has them"
        )
    weights = _weights(args.weights, len(args.models)) if args.weights else [1.0] * len(args.models)
    if len({path.resolve() for path in args.models}) < len(args.models):
        raise ConfigError("a model is named twice; let it count more by --weights")
    if args.out.exists() and any(args.out.iterdir()):
        raise ConfigError(f"--out {args.out} is not empty; choose another folder")

    for path in args.models:
        needs(path, "transformer/config.json", MODEL_DIR)

    from stepvideo.sink import NullSink
    from stepvideo.stage import StageContext
    from stepvideo.training import average
    from stepvideo.training.config import AverageConfig

    roles = [f"{i:03d}" for i in range(len(args.models))]
    try:
        cfg = AverageConfig(
            method=method,
            weights=dict(zip(roles, weights)) if method == "weighted" else {},
            after_peak=False,
            resolution=args.resolution,
            held_out=args.held_out,
            clips=args.clips,
        )
    except ValueError as e:
        raise ConfigError(str(e)) from e
    inputs = dict(zip(roles, args.models)) | ({"latents": args.validate} if args.validate else {})
    metrics = average.run(StageContext(cfg, inputs, args.out, args.out, NullSink()))
    print(_told(args, metrics))
    return 0


def _weights(text: str, count: int) -> list[float]:
    try:
        found = [float(w) for w in text.split(",")]
    except ValueError as e:
        raise ConfigError(f"--weights {text}: give numbers with commas between them") from e
    if len(found) != count:
        raise ConfigError(f"--weights {text}: {len(found)} weights for {count} models")
    return found


def _told(args: argparse.Namespace, metrics: dict[str, float]) -> str:
    from stepvideo import storage

    record = storage.read_json(args.out / "choice.json")
    lines = []
    for trial in record["trials"]:
        names = " + ".join(str(args.models[i]) for i in trial["parts"])
        lines.append(f"{trial['value']:.6f}  {'kept' if trial['kept'] else '-':4}  {names}")
    lines.append(f"{args.out}: the mean of {len(record['models'])} models")
    lines += [f"  {m['weight']:g} x {args.models[int(m['role'])]}" for m in record["models"]]
    if "loss" in metrics:
        lines.append(f"held-out loss {metrics['loss']:.6f}, the best model by itself {metrics['loss_best_single']:.6f}")
    return "\n".join(lines)
