"""What the studies of preference training share: a base model, pairs that annotators judged, trainings, judged samples.

Every part is computed once and kept under the study's folder with what it depends on, so that a study that was stopped
goes on. Annotators are simulated and are never people.

What limits how small an effect can be seen, and what follows (fixed before the second try, 2026-11-22; the first one's
figures are in dpo-2026-11-22.json and showed .503 [.444, .566] of 320 judgements):

labels      were right in 95 to 98 %, so they were not it; but a hundred pairs a seed, seen 16 times, were remembered.
            Now all seeds draw from the pairs of POOL x 80 prompts, a fifth of them held out by each, seen four times.
margin      a pair needs a difference of fidelity that is about one attribute (MARGIN), not .03.
judgements  160 prompts a seed in place of 64: 800 an arm. With a third of ties the error of a mean is about .014, so
            that .54 can be seen and .52 cannot. Noise is shared with the base.
rule        what counts is decided by right attributes, then by fidelity, and a difference below TIE is a tie, as for
            micro's annotators. (In the first try the strict rule counted; it is reported too.)
cost        a base of 5 layers on 48 x 48 pixels in place of micro's 6 on 64 x 64: four times as many of each for the
            processor time.
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

import torch
from dpo_findings import DEFAULT
from safetensors.torch import load_file, save_file

from stepvideo import storage
from stepvideo.config import load
from stepvideo.data.draw import rng
from stepvideo.diffusion.conditions import LLM, MASK
from stepvideo.diffusion.pipeline import Pipeline
from stepvideo.stage import StageContext, kind, resolve
from stepvideo.world import oracle
from stepvideo.world.attributes import all_combinations
from stepvideo.world.captions import prompts

ROOT = Path(__file__).resolve().parents[1]
VAE, TEXT = ROOT / "weights" / "vae", ROOT / "weights" / "text"
BASE = [
    *("sft_runs=1", "stages.world.n_clips=1500", "stages.latents.max_images=500"),
    "stages.latents.resolutions={low:[48x48],high:[48x48]}",
    *("stages.t2i.dit.num_attention_heads=3", "stages.t2i.dit.num_layers=5", "stages.t2i.steps=250"),
    *("stages.t2vi_192.steps=150", "stages.t2vi_540.steps=100", "stages.sft.steps=300"),
]
POOL, MARGIN = 5, 0.1
PAIRS = {"prompts": 80, "samples": 4, "tie": MARGIN, "keep_ties": True, "sampling": {"steps": 8, "cfg": 3.0}}
BETA, RATE = DEFAULT
OPTIM = {"lr": RATE, "warmup": 10, "ema": 0.95}  # of micro, as beta
RUNTIME = {"threads": 1, "checkpoint_every": 10_000, "telemetry": {"enabled": False}}
DPO = {"batch_size": 16, "beta": BETA, "held_out": 0.2, "watch": {"every": 10, "probes": 24}, "optim": OPTIM}
EPOCHS, EVALUATED = 4, 160
STEPS = 8  # of sampling
QUICK = {"pool": 2, "prompts": 8, "steps": 10, "evaluated": 8}  # that everything runs; its figures say nothing


class Study:
    """The parts, each computed once: what it gives is kept under `work` with what it depends on."""

    def __init__(self, base: Path, work: Path, quick: bool) -> None:
        self.base, self.work, self.quick = base, work / ("quick" if quick else "study"), quick
        weights = base / "transformer" / "diffusion_pytorch_model.safetensors"
        self.digest = storage.sha256_file(weights) if weights.exists() else storage.sampled_digest([base])
        self.pairs_cfg: dict[str, Any] = {**PAIRS, "prompts": QUICK["prompts"], "tie": 0.0} if quick else PAIRS
        self.pool = QUICK["pool"] if quick else POOL
        self.evaluated = QUICK["evaluated"] if quick else EVALUATED
        self.work.mkdir(parents=True, exist_ok=True)

    def part(self, name: str, said: dict[str, Any], compute: Callable[[], Any]) -> Any:
        """What `compute` gives, or gave when it was last run with these settings."""
        path = self.work / f"{name}.json"
        key = hashlib.sha256(json.dumps([self.digest, self.pairs_cfg, said], sort_keys=True).encode()).hexdigest()[:16]
        if path.exists() and (kept := storage.read_json(path))["key"] == key:
            return kept["result"]
        start = time.process_time()
        result = compute()
        spent = time.process_time() - start
        print(f"{name}: {spent:.0f} CPU-s", file=sys.stderr, flush=True)
        storage.write_json(path, {"key": key, "result": result, "cpu_seconds": spent})
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

    def made(self, name: str) -> Path:
        """The artifact of a stage that a part has run."""
        return self.work / "stages" / name / "out"

    def pairs(self, number: int) -> Path:
        """The pairs of one of the pool's parts, with prompts and noise of its own."""

        def compute() -> dict[str, float]:
            inputs = {"model": self.base, "vae": VAE, "text": TEXT}
            return self.stage(f"pairs-{number}", "pairs", inputs, {**self.pairs_cfg, "seed": number})[1]

        self.part(f"pairs-{number}", {"seed": number}, compute)
        return self.made(f"pairs-{number}")

    def pooled(self) -> Path:
        """All pairs."""
        return joined([self.pairs(n) for n in range(self.pool)], self.work / "stages" / "pooled")

    def steps(self, pairs: Path) -> int:
        """Of a training that sees what it does not hold out EPOCHS times."""
        if self.quick:
            return QUICK["steps"]
        count = len(load_file(pairs / "pairs.safetensors")["winner"])
        return round(EPOCHS * (1 - DPO["held_out"]) * count / DPO["batch_size"])

    def dpo(self, name: str, init: Path, pairs: Path, seed: int, **changes: Any) -> tuple[Path, dict]:
        """Train; (model, metrics)."""
        config = {**DPO, "steps": self.steps(pairs), "seed": seed, "runtime": RUNTIME, **changes}
        return self.stage(name, "dpo", {"init": init, "pairs": pairs}, config)

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
    """A small SFT model from this repository alone; kept, and gone on with if it was stopped."""
    store = work / "base"
    if not (done := sorted(store.glob("average/*/manifest.json"))):
        print("making a base model: about six minutes of one core", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "stepvideo.cli", "run", "profile=micro", "cluster=debug", "tracking=none"]
        subprocess.run(
            [*command, f"store={store}", *BASE, "--until", "average"], cwd=ROOT, check=True, stdout=sys.stderr
        )
        done = sorted(store.glob("average/*/manifest.json"))
    return done[-1].parent / "out"


def arguments(about: str | None, seeds: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "dpo-study")
    for flag in ("quick", "json", "check"):
        parser.add_argument(f"--{flag}", action="store_true")
    return parser
