"""Does saying part of a prompt twice help? (report §10.2) Paired by prompt and noise, on a trained small-world model.

    python benchmarks/repetition.py --model DIR --vae DIR --text DIR [--prompts 100] [--out FILE.json]

One sample of each prompt as it is, and one with each repetition; the oracle reads both. For each attribute: the
difference of rates with its 95 % interval over prompts, and McNemar's exact p. Nothing is asserted of its sign.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from stepvideo.config import Runtime
from stepvideo.evaluation.config import EvaluateConfig, GateConfig, SamplingRun
from stepvideo.evaluation.results import MAIN, compare, rates, read_rows
from stepvideo.evaluation.stage import run
from stepvideo.stage import StageContext
from stepvideo.storage import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for role in ("model", "vae", "text"):
        parser.add_argument(f"--{role}", type=Path, required=True, metavar="DIR")
    parser.add_argument("--prompts", type=int, default=100, help="of training combinations, and as many held out")
    parser.add_argument("--repeat", nargs="+", default=["prompt", "shape", "count"])
    parser.add_argument("--backgrounds", nargs="+", default=["plain", "gradient"], help="of the world trained on")
    parser.add_argument("--seed", type=int, default=EvaluateConfig().prompt_seed, help="of prompts and noise")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    args = parser.parse_args()
    cfg = EvaluateConfig(
        n_train=args.prompts,
        n_heldout=args.prompts,
        prompt_seed=args.seed,
        extra_runs=[SamplingRun(f"repeat-{name}", repeat=name) for name in args.repeat],
        save_videos=0,
        save_latents=False,
        gate=GateConfig(clips=96, reconstructions=96, backgrounds=args.backgrounds),
        runtime=Runtime(device="auto"),
    )
    with tempfile.TemporaryDirectory() as folder:
        out, work = Path(folder) / "out", Path(folder) / "work"
        out.mkdir()
        work.mkdir()
        run(StageContext(cfg, {"model": args.model, "vae": args.vae, "text": args.text}, out, work))
        rows = read_rows(out / "results.jsonl")
    main_rates = {k: r.as_dict() if r else None for k, r in rates(rows[MAIN]).items()}
    found = {"n": len(rows[MAIN]), "rates": main_rates, "repetitions": {}}
    for name in args.repeat:
        paired = compare(rows[f"repeat-{name}"], rows[MAIN])
        found["repetitions"][name] = {k: p.as_dict() if p else None for k, p in paired.items()}
        for k, p in paired.items():
            if p:
                d = p.difference
                print(f"repeat {name:10} {k:10} {d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}] p={p.p_value:.3f} n={d.n}")
    if args.out:
        write_json(args.out, found)


if __name__ == "__main__":
    main()
