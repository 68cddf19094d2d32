"""Does Video-DPO improve the small world's SFT model, and where does it explode? (report §4.4, Eq. 8 and 9)

    OMP_NUM_THREADS=1 python benchmarks/dpo.py [--seeds 5] [--quick] [--only seeds,grid] [--json] [--check]
                                               [--base DIR] [--work DIR]

seeds   `dpo_study.py` says what is done and why. Arms: `dpo` at the default's beta, which is the claim; `small` at a
        tenth of it, a hint of the first try's grid, which is reported and decides nothing; `shuffled`, as dpo with half
        of the labels swapped; `aa`, the base against itself at other noise. The oracle compares each with the base,
        prompt by prompt, at equal noise. A seed has its own order, noise, held-out pairs and prompts to be judged on;
        the pairs and the base are shared. Intervals resample seeds, and within them prompts.
grid    beta × learning rate on all pairs, 40 steps: gradient norms before clipping beside Eq. 9's factor, and whether
        the run exploded: an alarm of `watch`, a loss that is not finite, or a fidelity that fell by more than 0.1.

`--base` is a model in the released layout, its VAE and text encoders those of weights/. Without it the benchmark makes
one under `--work` by profile `micro`, cut short: about six minutes of one core, once. `--check` fails where a control's
interval leaves out 0.5, or the default explodes. It does not ask for a preference: that is what is measured.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dpo_findings import DIFFUSION_DPO, mean_of, missed, preferences, table, verdicts
from dpo_study import BETA, DPO, EPOCHS, OPTIM, QUICK, RATE, Study, arguments, make_base, shuffled

from stepvideo import storage
from stepvideo.errors import StepVideoError

ARMS: dict[str, float] = {"dpo": BETA, "shuffled": BETA, "small": BETA / 10}
GRID_EVALUATED, GRID_STEPS = 24, 40
BETAS, RATES = (20.0, 200.0, 5000.0), (1e-5, 1e-4, 1e-3, 1e-2)
QUICK_BETAS, QUICK_RATES = (200.0, 5000.0), (1e-4, 1e-2)
EXPLODED = 0.1  # loss of fidelity


class Arms(Study):
    def seed(self, seed: int) -> dict[str, Any]:
        """Qualities of the arms of a seed, and how its trainings went."""
        n = self.evaluated
        still = {
            name: self.part(f"{name}-{seed}", {"n": n}, lambda k=k: self.qualities(self.base, seed, k, n))
            for k, name in enumerate(("base", "aa"))
        }
        trained = {arm: self.arm(arm, seed) for arm in ARMS}
        return {
            "qualities": still | {arm: t["qualities"] for arm, t in trained.items()},
            **{arm: t["metrics"] for arm, t in trained.items()},
        }

    def arm(self, arm: str, seed: int) -> dict[str, Any]:
        def compute() -> dict[str, Any]:
            pairs = self.pooled()
            if arm == "shuffled":
                pairs = shuffled(pairs, self.work / "stages" / f"shuffled-pairs-{seed}", seed)
            model, metrics = self.dpo(f"{arm}-{seed}", self.base, pairs, seed, beta=ARMS[arm])
            return {"qualities": self.qualities(model, seed, 0, self.evaluated), "metrics": metrics}

        said = {"beta": ARMS[arm], "dpo": DPO, "epochs": EPOCHS, "pool": self.pool, "n": self.evaluated}
        return self.part(f"{arm}-{seed}", said, compute)

    def grid(self) -> list[dict[str, Any]]:
        """A row a (beta, learning rate)."""
        betas, rates = (QUICK_BETAS, QUICK_RATES) if self.quick else (BETAS, RATES)
        cells = [(b, lr) for b in betas for lr in rates] + [DIFFUSION_DPO]
        pairs, count = self.pooled(), min(self.evaluated, GRID_EVALUATED)
        still = self.part("grid-base", {"n": count}, lambda: self.qualities(self.base, 0, 0, count))
        return [
            self.part(
                f"grid-{beta:g}-{lr:g}",
                {"steps": GRID_STEPS, "n": count, "interval": "prompts"},
                lambda b=beta, r=lr: self.cell(pairs, b, r, still),
            )
            for beta, lr in cells
        ]

    def cell(self, pairs: Path, beta: float, lr: float, still: list[list[float]]) -> dict[str, Any]:
        row: dict[str, Any] = {"beta": beta, "lr": lr}
        changes = {"optim": {**OPTIM, "lr": lr}, "steps": QUICK["steps"] if self.quick else GRID_STEPS}
        try:
            out, metrics = self.dpo("cell", self.base, pairs, 0, beta=beta, watch={"probes": 4}, **changes)
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
        gaps = np.subtract(now, still)[:, 1].tolist()
        change = mean_of(gaps, range(len(gaps)))
        row |= {f"fidelity_change{end}": change[k] for end, k in (("", "value"), ("_low", "low"), ("_high", "high"))}
        row["exploded"] = bool(row["alarms"]) or row["fidelity_change"] < -EXPLODED
        return row


def main() -> int:
    parser = arguments(__doc__, seeds=5)
    parser.add_argument("--only", type=lambda said: said.split(","), default=["seeds", "grid"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    study = Arms(args.base or make_base(args.work), args.work, args.quick)
    start = time.process_time()
    found: dict[str, Any] = {"base": study.digest, "quick": args.quick, "rate": RATE}
    if "seeds" in args.only:
        found["preference"] = preferences([study.seed(s) for s in range(args.seeds)])
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
