"""Does Video-DPO improve the small world's SFT model, and where does it explode? (report §4.4, Eq. 8 and 9)

    OMP_NUM_THREADS=1 python benchmarks/dpo.py [--seeds 5] [--quick] [--only seeds,pooled,grid] [--json] [--check]
                                               [--base DIR] [--work DIR]

seeds   each has pairs, noise and prompts of its own: pairs are sampled from the base and judged by three simulated
        annotators (never people) who err in 15 % of votes; DPO trains on them, and on the same pairs with half of the
        labels swapped. The oracle then compares, prompt by prompt and with the same noise, each model with the base:
        more right attributes win, among equals the higher fidelity. A/A compares the base with itself at other noise.
        Intervals resample seeds, and within them prompts.
pooled  the same with the pairs of all seeds together, a tenth of them held out: are there too few pairs, or is it DPO?
grid    beta × learning rate on the pairs of seed 0: gradient norms before clipping beside Eq. 9's factor, and whether
        the run exploded: an alarm of `watch`, a loss that is not finite, or a fidelity that fell by more than 0.1.

`--base` is a model in the released layout, its VAE and text encoders those of weights/. Without it the benchmark makes
one under `--work` by profile `micro`, cut short (BASE below): about 10 minutes on two quiet cores, once. Finished
parts are kept in `--work`, and a run that was stopped goes on from them. `--check` fails where a control's interval
leaves out 0.5, or the default explodes. It does not ask for a preference: that is what is measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dpo_findings import DEFAULT, DIFFUSION_DPO, TIE, missed, preferences, table, verdicts
from safetensors.torch import load_file, save_file

from stepvideo import storage
from stepvideo.config import load
from stepvideo.data.draw import rng
from stepvideo.diffusion.conditions import LLM, MASK
from stepvideo.diffusion.pipeline import Pipeline
from stepvideo.errors import StepVideoError
from stepvideo.stage import StageContext, kind, resolve
from stepvideo.world import oracle
from stepvideo.world.attributes import all_combinations
from stepvideo.world.captions import prompts

ROOT = Path(__file__).resolve().parents[1]
VAE, TEXT = ROOT / "weights" / "vae", ROOT / "weights" / "text"
BASE = ["sft_runs=1", "stages.t2i.steps=400", "stages.t2vi_192.steps=100", "stages.t2vi_540.steps=500"]
PAIRS = {"prompts": 72, "samples": 4, "tie": TIE, "sampling": {"steps": 8, "cfg": 3.0}}
BETA, RATE = DEFAULT
DPO = {"steps": 100, "batch_size": 16, "beta": BETA, "optim": {"lr": RATE, "warmup": 10, "ema": 0.95}}  # of micro
EVALUATED, GRID_EVALUATED, GRID_STEPS = 64, 24, 40
BETAS, RATES = (20.0, 200.0, 5000.0), (1e-5, 1e-4, 1e-3, 1e-2)
STEPS = 8  # of sampling
QUICK = {"prompts": 16, "steps": 20, "evaluated": 12, "betas": (200.0, 5000.0), "rates": (1e-4, 1e-2)}
EXPLODED = 0.1  # loss of fidelity
POOLED = 3  # seeds


class Study:
    """The parts, each computed once: what it gives is kept under `work` with what it depends on."""

    def __init__(self, base: Path, work: Path, quick: bool) -> None:
        self.base, self.work, self.quick = base, work, quick
        weights = base / "transformer" / "diffusion_pytorch_model.safetensors"
        self.digest = storage.sha256_file(weights) if weights.exists() else storage.sampled_digest([base])
        self.pairs_cfg = {**PAIRS, "prompts": QUICK["prompts"]} if quick else PAIRS
        self.steps = QUICK["steps"] if quick else DPO["steps"]
        self.evaluated = QUICK["evaluated"] if quick else EVALUATED

    def part(self, name: str, said: dict[str, Any], compute: Callable[[], Any]) -> Any:
        """What `compute` gives, or gave when it was last run with these settings."""
        path = self.work / f"{name}.json"
        key = hashlib.sha256(json.dumps([self.digest, self.pairs_cfg, said], sort_keys=True).encode()).hexdigest()[:16]
        if path.exists() and (kept := storage.read_json(path))["key"] == key:
            return kept["result"]
        start = time.process_time()
        result = compute()
        print(f"{name}: {time.process_time() - start:.0f} CPU-s", file=sys.stderr)
        storage.write_json(path, {"key": key, "result": result})
        return result

    def stage(self, name: str, kind_name: str, inputs: dict[str, Path], config: dict[str, Any]) -> tuple[Path, dict]:
        """Run a stage in this process; (its artifact, its metrics)."""
        folder = self.work / "stages" / name
        shutil.rmtree(folder, ignore_errors=True)
        for part in ("out", "work"):
            (folder / part).mkdir(parents=True)
        typed = load(resolve(kind(kind_name).config), json.loads(json.dumps(config)), kind_name)
        ctx = StageContext(typed, inputs, folder / "out", folder / "work")
        return ctx.out, resolve(kind(kind_name).run)(ctx)

    def pairs(self, seed: int) -> Path:
        """The pairs of a seed; sampled once."""
        out = self.work / "stages" / f"pairs-{seed}" / "out"

        def compute() -> dict[str, float]:
            inputs = {"model": self.base, "vae": VAE, "text": TEXT}
            return self.stage(f"pairs-{seed}", "pairs", inputs, {**self.pairs_cfg, "seed": seed})[1]

        self.part(f"pairs-{seed}", {"seed": seed}, compute)
        return out

    def train(self, name: str, pairs: Path, seed: int, **changes: Any) -> tuple[Path, dict]:
        runtime = {"threads": 1, "checkpoint_every": 10_000, "telemetry": {"enabled": False}}
        config = {**DPO, "steps": self.steps, "seed": seed, "runtime": runtime, **changes}
        return self.stage(name, "dpo", {"init": self.base, "pairs": pairs}, config)

    def qualities(self, model: Path, seed: int, noise: int, count: int) -> list[list[float]]:
        """[right attributes, fidelity] of one sample a prompt; prompts depend on the seed, noise on both."""
        pipe = Pipeline.load(model, VAE, TEXT, "auto")
        asked = prompts(all_combinations(), count, 1000 + seed)
        found = []
        for start in range(0, count, 32):
            part = asked[start : start + 32]
            indices = list(range(start, start + len(part)))
            done = pipe.sample([p.text for p in part], seed=10_000 * (noise + 1) + seed, indices=indices, steps=STEPS)
            for frames, prompt in zip(pipe.decode(done.latents), part, strict=True):
                reading = oracle.read(frames)
                right = oracle.score(reading, prompt.attrs)
                right.pop("all")
                found.append([float(sum(right.values())), round(oracle.fidelity(reading, prompt.attrs), 9)])
        return found

    def seed(self, seed: int) -> dict[str, Any]:
        """Qualities of the arms of a seed, and how its trainings went."""
        pairs = self.pairs(seed)

        def compute() -> dict[str, Any]:
            swapped = shuffled(pairs, self.work / "stages" / f"shuffled-{seed}", seed)
            dpo, dpo_metrics = self.train(f"dpo-{seed}", pairs, seed)
            null, null_metrics = self.train(f"null-{seed}", swapped, seed)
            arms = {"base": (self.base, 0), "dpo": (dpo, 0), "shuffled": (null, 0), "aa": (self.base, 1)}
            found = {k: self.qualities(model, seed, noise, self.evaluated) for k, (model, noise) in arms.items()}
            return {"qualities": found, "dpo": dpo_metrics, "shuffled": null_metrics}

        return self.part(f"seed-{seed}", {"seed": seed, "dpo": DPO, "n": self.evaluated}, compute)

    def pooled(self, seed: int, seeds: int) -> dict[str, Any]:
        """Qualities of a model trained on the pairs of all seeds, on the prompts and noise of this one."""

        def compute() -> dict[str, Any]:
            folder = joined([self.pairs(s) for s in range(seeds)], self.work / "stages" / "pooled")
            model, metrics = self.train(f"pooled-{seed}", folder, seed, held_out=0.1)
            return {"qualities": self.qualities(model, seed, 0, self.evaluated), "metrics": metrics}

        return self.part(f"pooled-{seed}", {"seed": seed, "seeds": seeds, "dpo": DPO, "n": self.evaluated}, compute)

    def grid(self) -> list[dict[str, Any]]:
        """A row a (beta, learning rate)."""
        betas, rates = (QUICK["betas"], QUICK["rates"]) if self.quick else (BETAS, RATES)
        cells = [(b, lr) for b in betas for lr in rates] + [DIFFUSION_DPO]
        pairs, count = self.pairs(0), min(self.evaluated, GRID_EVALUATED)
        still = self.part("grid-base", {"n": count}, lambda: self.qualities(self.base, 0, 0, count))
        return [
            self.part(
                f"grid-{beta:g}-{lr:g}",
                {"steps": GRID_STEPS, "n": count},
                lambda b=beta, r=lr: self.cell(pairs, b, r, still),
            )
            for beta, lr in cells
        ]

    def cell(self, pairs: Path, beta: float, lr: float, still: list[list[float]]) -> dict[str, Any]:
        row: dict[str, Any] = {"beta": beta, "lr": lr}
        optim = {**DPO["optim"], "lr": lr}
        steps = min(self.steps, GRID_STEPS)
        try:
            out, metrics = self.train("cell", pairs, 0, beta=beta, optim=optim, steps=steps)
        except StepVideoError as e:  # a loss that is not finite ends the stage
            return {**row, "exploded": True, "why": str(e)}
        curve = storage.read_json(out / "loss_curve.json")
        column = {name: np.array(values) for name, values in zip(curve["columns"], zip(*curve["rows"], strict=True))}
        first = slice(0, 10)
        row |= {
            "grad_norm_first": float(np.median(column["grad_norm"][first])),
            "grad_norm_max": float(column["grad_norm"].max()),
            "gradient_ratio_first": float(np.median(column["gradient_ratio"][first])),
            "gradient_ratio_spread": float(column["gradient_ratio"].std() / column["gradient_ratio"].mean()),
            **{k: float(column[k][-5:].mean()) for k in ("loss", "implicit_accuracy", "winner_change", "loser_change")},
            **{k: metrics[k] for k in ("drift", "velocity_distance", "diversity_before", "diversity_after", "alarms")},
        }
        now = self.qualities(out, 0, 0, len(still))
        row["fidelity_change"] = float(np.mean(now, 0)[1] - np.mean(still, 0)[1])
        row["exploded"] = bool(row["alarms"]) or row["fidelity_change"] < -EXPLODED
        return row


def shuffled(pairs: Path, folder: Path, seed: int) -> Path:
    """The same pairs with the labels of half of them swapped: they say nothing."""
    tensors = load_file(pairs / "pairs.safetensors")
    count = len(tensors["winner"]) // 2 * 2
    swap = torch.from_numpy(rng(seed, "shuffled labels").permutation(count) < count // 2)
    swap = swap.view(-1, *[1] * (tensors["winner"].ndim - 1))
    tensors = {k: v[:count] for k, v in tensors.items()}
    winner, loser = tensors["winner"], tensors["loser"]
    tensors |= {"winner": torch.where(swap, loser, winner), "loser": torch.where(swap, winner, loser)}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "pairs.safetensors")
    return folder


def joined(pairs: list[Path], folder: Path) -> Path:
    """Pairs of several stages in one file; texts are padded to the longest, and masked there."""
    parts = [load_file(p / "pairs.safetensors") for p in pairs]
    for name in (LLM, MASK):
        longest = max(p[name].shape[1] for p in parts)
        for part in parts:
            rest = [0, 0] * (part[name].ndim - 2) + [0, longest - part[name].shape[1]]
            part[name] = torch.nn.functional.pad(part[name], rest)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: torch.cat([p[k] for p in parts]) for k in parts[0]}, folder / "pairs.safetensors")
    return folder


def make_base(work: Path) -> Path:
    """A small SFT model from this repository alone; kept."""
    store = work / "base"
    done = sorted(store.glob("average/*/out"))
    if not done:
        print("making a base model: about 10 minutes on two quiet cores", file=sys.stderr)
        command = [sys.executable, "-m", "stepvideo.cli", "run", "profile=micro", "cluster=debug", "tracking=none"]
        subprocess.run([*command, f"store={store}", *BASE, "--until", "average"], cwd=ROOT, check=True)
        done = sorted(store.glob("average/*/out"))
    return done[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "dpo-study")
    parser.add_argument("--only", type=lambda said: said.split(","), default=["seeds", "pooled", "grid"])
    for flag in ("quick", "json", "check"):
        parser.add_argument(f"--{flag}", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    study = Study(args.base or make_base(args.work), args.work, args.quick)
    start = time.process_time()
    found: dict[str, Any] = {"base": study.digest, "quick": args.quick}
    if "seeds" in args.only:
        seeds = [study.seed(s) for s in range(args.seeds)]
        pooled = [study.pooled(s, args.seeds) for s in range(min(POOLED, args.seeds))] if "pooled" in args.only else []
        found["preference"] = preferences(seeds, pooled)
    if "grid" in args.only:
        found["grid"] = study.grid()
    found |= {"verdicts": verdicts(found), "cpu_seconds": time.process_time() - start}
    print(json.dumps(found, indent=1) if args.json else table(found))
    wrong = missed(found)
    if found["verdicts"].get("the default does not explode") == "contradicted":
        wrong.append("the default explodes")
    if args.check and wrong:
        print(f"missed: {', '.join(wrong)}", file=sys.stderr)
    return 1 if args.check and wrong else 0


if __name__ == "__main__":
    sys.exit(main())
