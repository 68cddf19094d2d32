"""Kind "ranked": preference pairs of the policy as it is now, scored and ranked by a reward model (report §4.4).

Old pairs show what earlier models did wrong; these are the policy's own. The output is that of `pairs`, for `dpo` to
train on. The oracle's fidelity is kept beside the reward: a policy that pleases the reward model only would show.

    pairs.safetensors, pairs.jsonl   as of `pairs`, with reward_winner, reward_loser and probability
    samples.jsonl                    a row a sample: prompt number, sample number, fidelity, reward
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from stepvideo.diffusion.pipeline import Pipeline, best_device
from stepvideo.errors import StepVideoError
from stepvideo.stage import StageContext
from stepvideo.training.dpo_config import RankedConfig
from stepvideo.training.flow import TEXT_KEYS
from stepvideo.training.pairs import ask, row_of, sample, write_rows
from stepvideo.training.reward_model import RewardModel, load_reward, preference


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: model (the policy), vae, text, reward. A killed run continues after the last finished batch.

    Raises:
        StepVideoError: the reward model is sure of no pair.
    """
    cfg: RankedConfig = ctx.config
    if ctx.rank:
        return {}
    asked = ask(cfg)
    pipe = Pipeline.load(ctx.inputs["model"], ctx.inputs["vae"], ctx.inputs["text"], cfg.runtime.device)
    latents, fidelity = sample(ctx, pipe, asked)
    text = {k: v.cpu() for k, v in pipe.encode_prompts([p.text for p in asked]).items()}
    net, calibration = load_reward(ctx.inputs["reward"], best_device(cfg.runtime.device))
    rewards = score(net, latents, text, cfg.samples, cfg.batch_size) / calibration.temperature
    rows, chosen = [], []
    for n, mine in enumerate(rewards.reshape(-1, cfg.samples)):
        best, worst = int(mine.argmax()), int(mine.argmin())
        probability = float(preference(mine[best] - mine[worst]))
        if best != worst and probability >= cfg.confidence:
            pair = {"winner": best, "loser": worst, "probability": round(probability, 6)}
            said: dict[str, Any] = row_of(asked[n], n, pair, fidelity[n * cfg.samples : (n + 1) * cfg.samples])
            rows.append(said | {"reward_winner": float(mine[best]), "reward_loser": float(mine[worst])})
            chosen.append((n, n * cfg.samples + best, n * cfg.samples + worst))
    if not rows:
        raise StepVideoError(
            f"the reward model gives no pair a probability of confidence={cfg.confidence}; "
            "lower it, give more prompts or samples, or refresh the reward model with new votes"
        )
    numbers, winners, losers = (list(column) for column in zip(*chosen, strict=True))
    tensors = {"winner": latents[winners], "loser": latents[losers], **{k: text[k][numbers] for k in TEXT_KEYS}}
    save_file({k: v.contiguous() for k, v in tensors.items()}, ctx.out / "pairs.safetensors")
    write_rows(ctx, "pairs.jsonl", rows)
    samples = [
        {"prompt": i // cfg.samples, "sample": i % cfg.samples, "fidelity": f, "reward": round(float(r), 6)}
        for i, (f, r) in enumerate(zip(fidelity, rewards, strict=True))
    ]
    write_rows(ctx, "samples.jsonl", samples)
    decided = [row["fidelity_winner"] - row["fidelity_loser"] for row in rows]
    return {
        "pairs": float(len(rows)),
        "mean_reward": float(rewards.mean()),
        "mean_fidelity": float(np.mean(fidelity)),
        "oracle_agrees": float(np.mean([d > 0 for d in decided])),
        "oracle_ties": float(np.mean([d == 0 for d in decided])),
    }


@torch.no_grad()
def score(
    net: RewardModel, latents: torch.Tensor, text: dict[str, torch.Tensor], samples: int, batch_size: int
) -> torch.Tensor:
    """Rewards [N] on the CPU of latents [N, f, z, h, w], `samples` of every prompt of `text` in turn."""
    device, found = net.head.weight.device, []
    for start in range(0, len(latents), batch_size):
        x = latents[start : start + batch_size]
        rows = torch.arange(start, start + len(x)) // samples
        found.append(net(x.to(device).float(), **{k: text[k][rows].to(device) for k in TEXT_KEYS})[0].cpu())
    return torch.cat(found)
