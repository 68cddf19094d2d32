"""A reward model that ranks the policy's own samples against the old pairs, at equal labels (report §4.4).

    OMP_NUM_THREADS=1 python benchmarks/on_policy.py [--seeds 3] [--quick] [--json] [--check] [--base DIR] [--work DIR]

Each seed: simulated annotators (never people) judge pairs sampled from the base, once; DPO trains on them. From there
the same number of steps again, on
    stale     the same pairs
    ranked    the policy's own new samples, ranked by a reward model that was trained on the same labels
    fresh     the policy's own new samples, judged by the annotators anew: more labels, hence a bound and no rival
The oracle compares each with where they started from and with `stale`, prompt by prompt at equal noise; intervals
resample seeds, and within them prompts. The reward model is judged on prompts that it was not trained on, and by how
often the oracle agrees with its ranking of new samples: rewards that rise while the oracle's fidelity does not are
what a reward model that is pleased, not good, looks like.

`--check` fails where the reward model does no better than a coin on its test prompts, all seeds together.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dpo import DPO, QUICK, ROOT, TEXT, VAE, Study, make_base
from dpo_findings import TIE, nested_bootstrap, outcomes, verdict

from stepvideo import storage
from stepvideo.evaluation.stats import wilson

REWARD = {"steps": 150, "batch_size": 16, "held_out": 0.3, "optim": {"lr": 3e-4, "warmup": 10, "decay": "cosine"}}
RUNTIME = {"threads": 1, "checkpoint_every": 10_000, "telemetry": {"enabled": False}}
CONFIDENCE = 0.5  # the best and the worst of every prompt's samples
ARMS = ("stale", "ranked", "fresh")


class Rounds(Study):
    """Two rounds of preference training."""

    def __init__(self, base: Path, work: Path, quick: bool) -> None:
        super().__init__(base, work, quick)
        self.pairs_cfg = {**self.pairs_cfg, "keep_ties": True}

    def more(self, name: str, seed: int, init: Path, pairs: Path) -> Path:
        config = {**DPO, "steps": self.steps, "seed": seed, "runtime": RUNTIME}
        return self.stage(name, "dpo", {"init": init, "pairs": pairs}, config)[0]

    def rounds(self, seed: int) -> dict[str, Any]:
        """Qualities of the arms, the reward model's figures, and its judgements on test prompts."""

        def compute() -> dict[str, Any]:
            labels = self.pairs(seed)
            first = self.more(f"first-{seed}", seed, self.base, labels)
            settings = {**REWARD, "seed": seed, "runtime": RUNTIME} | ({"steps": QUICK["steps"]} if self.quick else {})
            reward, judged = self.stage(f"reward-{seed}", "reward", {"init": self.base, "pairs.1": labels}, settings)
            nets = {"model": first, "vae": VAE, "text": TEXT}
            new = {**self.pairs_cfg, "seed": seed + 1000}
            ranked, by_reward = self.stage(
                f"ranked-{seed}",
                "ranked",
                {**nets, "reward": reward},
                {**new, "keep_ties": False, "confidence": CONFIDENCE},
            )
            fresh, by_people = self.stage(f"fresh-{seed}", "pairs", nets, new)
            models = {"base": self.base, "first": first}
            for arm, pairs in zip(ARMS, (labels, ranked, fresh), strict=True):
                models[arm] = self.more(f"policy-{arm}-{seed}", seed + 1000, first, pairs)
            rows = [json.loads(line) for line in (reward / "judged.jsonl").read_text("utf-8").splitlines()]
            return {
                "qualities": {name: self.qualities(model, seed, 0, self.evaluated) for name, model in models.items()},
                "reward": judged,
                "ranked": by_reward,
                "fresh": by_people,
                "test": [r for r in rows if r["part"] == "test" and r["votes"][0] != r["votes"][2]],
            }

        return self.part(f"rounds-{seed}", {"seed": seed, "dpo": DPO, "reward": REWARD, "n": self.evaluated}, compute)


def findings(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for against in ("base", "first", "stale"):
        for k, arm in enumerate(("first", *ARMS)):
            if arm == against or (against == "stale" and arm == "first"):
                continue
            pairs = [(s["qualities"][arm], s["qualities"][against]) for s in seeds]
            table = np.array([outcomes(a, b, TIE) for a, b in pairs])
            change = np.mean([np.mean(a, 0) - np.mean(b, 0) for a, b in pairs], 0)
            interval = {n: float(v) for n, v in nested_bootstrap(table, np.random.default_rng(k)).items()}
            found[f"{arm} against {against}"] = interval | {"right": float(change[0]), "fidelity": float(change[1])}
    test = [row["difference"] > 0 for s in seeds for row in s["test"]]
    return {
        "preference": found,
        "reward_accuracy": wilson(sum(test), len(test)).as_dict(),
        "reward": {k: float(np.mean([s["reward"][k] for s in seeds])) for k in ("nll", "nll_uncalibrated", "ece")},
        "ranked": {k: float(np.mean([s["ranked"][k] for s in seeds])) for k in seeds[0]["ranked"]},
        "fresh": {k: float(np.mean([s["fresh"][k] for s in seeds])) for k in seeds[0]["fresh"]},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "dpo-study")
    for flag in ("quick", "json", "check"):
        parser.add_argument(f"--{flag}", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    base = args.base or make_base(args.work)
    work = args.work / ("rounds-quick" if args.quick else "rounds")
    work.mkdir(parents=True, exist_ok=True)
    start = time.process_time()
    study = Rounds(base, work, args.quick)
    found = findings([study.rounds(seed) for seed in range(args.seeds)])
    learned = found["reward_accuracy"]["low"] > 0.5
    found["verdict"] = verdict(found["preference"]["ranked against stale"], testable=learned)
    found |= {"base": study.digest, "quick": args.quick, "cpu_seconds": time.process_time() - start}
    storage.write_json(work / "found.json", found)
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        for name, e in found["preference"].items():
            print(f"{name:22} {e['value']:.3f} [{e['low']:.3f}, {e['high']:.3f}] of {e['n']:.0f}; "
                  f"fidelity {e['fidelity']:+.4f}, right {e['right']:+.3f} of 5")  # fmt: skip
        for name in ("reward_accuracy", "reward", "ranked", "fresh"):
            print(name, {k: round(v, 4) for k, v in found[name].items()})
        print(f"{found['verdict']}: on-policy pairs by a reward model beat the old pairs at equal labels")
    if args.check and not learned:
        print("missed: the reward model does no better than a coin", file=sys.stderr)
    return int(args.check and not learned)


if __name__ == "__main__":
    sys.exit(main())
