"""Kind "dpo": Video-DPO for flow matching (report §4.4): winner and loser share noise and timestep.

All parameters learn, or adapters (`lora`). The reference is a frozen copy, or the policy without its adapters.
"""

from __future__ import annotations

from typing import cast

import torch
from safetensors.torch import load_file
from torch import Tensor

from stepvideo.data.flow_draws import gaussian
from stepvideo.diffusion.guidance import sample
from stepvideo.diffusion.pipeline import best_device
from stepvideo.diffusion.schedule import sigmas
from stepvideo.models.checkpoints import load_dit
from stepvideo.models.dit import DiT
from stepvideo.stage import StageContext
from stepvideo.training import lora
from stepvideo.training.dpo_config import DPOConfig
from stepvideo.training.dpo_module import DPOModule
from stepvideo.training.dpo_watch import DPOWatch
from stepvideo.training.fit import fit
from stepvideo.training.flow import TEXT_KEYS, save_model
from stepvideo.training.module import tail_mean, write_curve
from stepvideo.training.monitor.cost import TRAINED, DiTCost


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: init (the averaged SFT model, also the reference), pairs. Output: a model in the released layout; its
    `loss_curve.json` has the columns of `dpo_watch` too.
    """
    cfg: DPOConfig = ctx.config
    pairs = load_file(ctx.inputs["pairs"] / "pairs.safetensors")
    policy = load_dit(ctx.inputs["init"], dtype=torch.float32)
    lora.apply(policy, cfg.lora, cfg.seed, cfg.runtime.parallel.tensor)
    module = DPOModule(cfg, policy, pairs)
    watch = DPOWatch(cfg.watch, bool(module.source.held_out))
    trained = fit(module, ctx, cfg.precision, callbacks=[watch], cost=DiTCost(policy.cfg, 2 * (TRAINED + 1), "winner"))
    if ctx.rank:
        return {}
    policy = lora.hand_over(cast(DiT, trained["net"]), cfg.lora, ctx.out)
    save_model(policy, ctx.out, ctx.inputs["init"], None, None)
    rows = {step: dict(zip(watch.columns, row, strict=True)) for step, row in watch.rows.items()}
    write_curve(module, ctx, more=rows)
    before = load_dit(ctx.inputs["init"], dtype=torch.float32)
    found = {k: rows[max(rows)][k] for k in ("implicit_accuracy", "reward_margin", *watch.measured)}
    found |= {"loss": tail_mean(module), "pairs": len(pairs["winner"]), "drift": _distance(policy, before)}
    found |= {"alarms": float(len(watch.raised))}
    if cfg.watch.diversity:
        device = best_device(cfg.runtime.device)
        nets = (("diversity_before", before), ("diversity_after", policy))
        found |= {name: diversity(net.to(device), pairs, cfg) for name, net in nets}
    return found


@torch.no_grad()
def diversity(net: DiT, pairs: dict[str, Tensor], cfg: DPOConfig) -> float:
    """Mean distance of two samples of a prompt, as a share of the samples' own size, over `cfg.watch.diversity` prompts
    of the pairs and all couples of `cfg.watch.samples` samples; no guidance, the same noise for every network.
    """
    watch, device = cfg.watch, next(net.parameters()).device
    count = len(pairs["winner"])
    found = []
    for row in range(0, count, max(1, count // watch.diversity))[: watch.diversity]:
        shape = pairs["winner"].shape[1:]
        noise = torch.stack([gaussian(shape, cfg.seed, "diversity", row, i) for i in range(watch.samples)])
        text = {k: pairs[k][[row] * watch.samples].to(device) for k in TEXT_KEYS}
        x = sample(net.eval(), noise.to(device), sigmas(watch.steps, 1.0), text).latents.flatten(1)
        found.append(torch.pdist(x).mean() / x.norm(dim=1).mean())
    return float(torch.stack(found).mean())


@torch.no_grad()
def _distance(a: DiT, b: DiT) -> float:
    """Relative distance of the parameters from those of `b`."""
    moved = sum(float((p - q).square().sum()) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    return (moved / sum(float(q.square().sum()) for q in b.parameters())) ** 0.5
