"""A reward model that ranks the policy's own samples against the old pairs, at equal labels (report §4.4).

    OMP_NUM_THREADS=1 python benchmarks/on_policy.py [--seeds 3] [--quick] [--json] [--check] [--base DIR] [--work DIR]

It goes on from `dpo.py`, whose base, pairs and models it takes where they are there. All labels are those of
simulated annotators (never people) on the pairs and ties of the pool, some seven hundred comparisons of three votes.
    reward    trained on these, and on MADE pairs of rendered clips that cost no label (made_pairs.py); tested on
              comparisons of the policy's samples whose prompts it has not seen. `labels only` is the same without them.
Then each seed's policy of `dpo.py` is trained for MORE steps, on
    stale     the old pairs, which is what the labels are worth without a reward model
    ranked    its own new samples, the best and the worst of every prompt by the reward model
    by_labels the same by the reward model without made pairs; added when `reward` had been seen to do no better than a
              coin and `labels only` better, so that its verdict is of a choice made with its test at hand
The oracle compares each with where they started from and with `stale`, prompt by prompt at equal noise, by the rule of
`dpo_study.py`; intervals resample seeds, and within them prompts. How often the oracle agrees with the ranking is said
beside it: rewards that rise while the oracle's fidelity does not are what a reward model that is pleased looks like.

`--check` fails where the reward model does no better than a coin on its test prompts.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from dpo import Arms
from dpo_findings import changes, compared, mean_of, over_seeds, verdict
from dpo_study import DPO, QUICK, RUNTIME, TEXT, VAE, arguments, make_base
from made_pairs import make

from stepvideo import storage
from stepvideo.diffusion.pipeline import Pipeline
from stepvideo.evaluation.stats import wilson
from stepvideo.training.reward import quality
from stepvideo.training.reward_model import Calibration

MADE, QUICK_MADE = 800, 12
REWARD = {"steps": 300, "batch_size": 32, "held_out": 0.4, "optim": {"lr": 3e-4, "warmup": 20, "decay": "cosine"}}
RANKED = {"prompts": 240, "samples": 4, "confidence": 0.5, "sampling": {"steps": 8, "cfg": 3.0}}
MORE = 60
REWARDS = {"reward": "reward", "labels only": "reward-labels"}  # name in the findings: part
RANKERS = {"ranked": "reward", "by_labels": "labels only"}
ARMS = ("stale", *RANKERS)
ANNOTATORS = 3


class Rounds(Arms):
    def reward(self, name: str, made: bool) -> dict[str, Any]:
        """A reward model's metrics, and its judgements on held-out comparisons of the policy's samples."""
        count = QUICK_MADE if self.quick else MADE
        settings = {**REWARD, "runtime": RUNTIME} | ({"steps": QUICK["steps"]} if self.quick else {})

        def compute() -> dict[str, Any]:
            labels = {f"pairs.{n + 1}": self.pairs(n) for n in range(self.pool)}
            if made:
                pipe = Pipeline.load(self.base, VAE, TEXT, "auto")
                labels["pairs.made"] = make(self.work / "stages" / "made", pipe, count)
            out, metrics = self.stage(name, "reward", {"init": self.base, **labels}, settings)
            rows = [json.loads(line) for line in (out / "judged.jsonl").read_text("utf-8").splitlines()]
            own = [r for r in rows if r["part"] == "test" and sum(r["votes"]) == ANNOTATORS]
            return {"metrics": metrics, "test": own}

        return self.part(name, {"reward": REWARD, "made": count if made else 0, "pool": self.pool}, compute)

    def rounds(self, seed: int) -> dict[str, Any]:
        """Qualities of where they start and of the arms, and how the ranking went."""
        n, more = self.evaluated, QUICK["steps"] if self.quick else MORE
        first = self.arm("dpo", seed)["qualities"]
        start = self.made(f"dpo-{seed}")
        settings = {**RANKED, "seed": seed + 1000} | ({"prompts": QUICK["prompts"]} if self.quick else {})
        nets = {"model": start, "vae": VAE, "text": TEXT}
        said = {"ranked": RANKED, "reward": REWARD, "dpo": DPO, "more": MORE, "pool": self.pool, "n": n}
        names = {arm: f"ranking-{seed}" if arm == "ranked" else f"ranking-{arm}-{seed}" for arm in RANKERS}

        def rank(arm: str) -> dict[str, Any]:
            judge = {"reward": self.made(REWARDS[RANKERS[arm]])}
            return self.stage(names[arm], "ranked", nets | judge, settings)[1]

        rankings = {arm: self.part(name, said, lambda arm=arm: rank(arm)) for arm, name in names.items()}

        def train(arm: str) -> dict[str, Any]:
            pairs = self.pooled() if arm == "stale" else self.made(names[arm])
            model, metrics = self.dpo(f"policy-{arm}-{seed}", start, pairs, seed + 1000, steps=more)
            return {"qualities": self.qualities(model, seed, 0, n), "metrics": metrics}

        trained = {arm: self.part(f"policy-{arm}-{seed}", said, lambda arm=arm: train(arm)) for arm in ARMS}
        qualities = {arm: t["qualities"] for arm, t in trained.items()} | {"first": first}
        base = self.part(f"base-{seed}", {"n": n}, lambda: self.qualities(self.base, seed, 0, n))
        return {
            "qualities": qualities | {"base": base},
            "ranking": rankings,
            **{arm: t["metrics"] for arm, t in trained.items()},
        }


def judged(reward: dict[str, Any]) -> dict[str, Any]:
    """How a reward model does on the test comparisons of the policy's samples."""
    rows = reward["test"]
    votes = torch.tensor([r["votes"] for r in rows], dtype=torch.float32)
    differences = torch.tensor([r["difference"] for r in rows])
    decided = [r for r in rows if r["votes"][0] != r["votes"][2]]
    right = [(r["difference"] > 0) == (r["votes"][0] > r["votes"][2]) for r in decided]
    calibration = Calibration(1.0, reward["metrics"]["tie"])
    each = [quality(differences[i : i + 1], votes[i : i + 1], calibration) for i in range(len(rows))]
    prompts = [r["prompt"] for r in rows]
    return {
        "accuracy": wilson(sum(right), len(right)).as_dict(),
        **{k: mean_of([e[k] for e in each], prompts) for k in ("accuracy_with_ties", "nll")},
        "nll_of_thirds": math.log(3),
        "ece": quality(differences, votes, calibration)["ece"],  # a distance of curves, no mean over comparisons
        "temperature": reward["metrics"]["temperature"],
        "comparisons": reward["metrics"]["comparisons"],
    }


def findings(seeds: list[dict[str, Any]], rewards: dict[str, dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    pairs = [("first", "base"), *((arm, against) for against in ("base", "first") for arm in ARMS)]
    pairs += [(arm, "stale") for arm in RANKERS]
    for k, (arm, against) in enumerate(pairs):
        runs = [(s["qualities"][arm], s["qualities"][against]) for s in seeds]
        found[f"{arm} against {against}"] = compared(runs, k)
    reward = {name: judged(r) for name, r in rewards.items()}
    right = {name: r["accuracy"] for name, r in reward.items()}
    return {
        "preference": found,
        "reward": reward,
        "ranking": {arm: over_seeds([s["ranking"][arm] for s in seeds]) for arm in RANKERS},
        "training": {arm: over_seeds([s[arm] for s in seeds]) for arm in ARMS},
        "verdicts": {f"a reward model ({name}) learns": verdict(e, testable=True, rule="") for name, e in right.items()}
        | {
            f"pairs {arm} by it ({name}) beat the old pairs at equal labels": verdict(
                found[f"{arm} against stale"], testable=right[name]["low"] > 0.5
            )
            for arm, name in RANKERS.items()
        },
    }


def main() -> int:
    args = arguments(__doc__, seeds=3).parse_args()
    torch.set_num_threads(1)
    study = Rounds(args.base or make_base(args.work), args.work, args.quick)
    start = time.process_time()
    rewards = {name: study.reward(part, made=name == "reward") for name, part in REWARDS.items()}
    found = findings([study.rounds(seed) for seed in range(args.seeds)], rewards)
    found |= {"base": study.digest, "quick": args.quick, "cpu_seconds": time.process_time() - start}
    storage.write_json(Path(study.work) / "on_policy.json", found)
    print(json.dumps(found, indent=1) if args.json else told(found))
    learned = found["reward"]["reward"]["accuracy"]["low"] > 0.5
    if args.check and not learned:
        print("missed: the reward model does no better than a coin", file=sys.stderr)
    return int(args.check and not learned)


def told(found: dict[str, Any]) -> str:
    lines = [
        f"{name:22} {e['value_with_ties']:.3f} [{e['low_with_ties']:.3f}, {e['high_with_ties']:.3f}] of {e['n']:.0f}; "
        f"{changes(e)}"
        for name, e in found["preference"].items()
    ]
    lines += [f"{name}: {e}" for name, e in found["reward"].items()]
    lines += [f"{arm}: {e}" for arm, e in found["ranking"].items()]
    lines += [*(f"{v:12} {k}" for k, v in found["verdicts"].items())]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
