"""Kind "dpo": Video-DPO for flow matching (report §4.4): winner and loser share noise and timestep; full parameters."""

from __future__ import annotations

import copy

import torch
from safetensors.torch import load_file
from torch import Tensor

from stepvideo.data.draw import Sampler
from stepvideo.diffusion.objectives import dpo_loss, velocity_loss
from stepvideo.diffusion.path import velocity
from stepvideo.models.checkpoints import load_dit
from stepvideo.models.dit import DiT
from stepvideo.stage import StageContext
from stepvideo.training.config import DPOConfig
from stepvideo.training.fit import Batch, StageModule, fit, tail_mean, write_curve
from stepvideo.training.flow import TEXT_KEYS, gaussian, predict, save_model, timesteps


class DPOModule(StageModule):
    """The policy, trained; the reference, fixed."""

    reference: DiT

    def __init__(self, cfg: DPOConfig, policy: DiT, pairs: dict[str, Tensor]) -> None:
        super().__init__(cfg.optim, cfg.steps)
        self.cfg, self.net, self.pairs = cfg, policy, pairs
        object.__setattr__(
            self, "reference", copy.deepcopy(policy).requires_grad_(False).eval()
        )  # neither trained nor saved
        self.sampler = Sampler(len(pairs["winner"]), cfg.batch_size, cfg.seed)
        self.accuracy: list[float] = []

    def batch(self, step: int, rank: int, world_size: int) -> Batch:
        rows = self.sampler.batch(step)
        mine = list(range(rank, len(rows), world_size))
        own = [rows[i] for i in mine]
        shape = self.pairs["winner"].shape[1:]
        noise = torch.stack([gaussian(shape, self.cfg.seed, "noise", step, i) for i in mine])
        t = timesteps(self.cfg.timesteps, self.cfg.seed, step, mine, len(rows))
        return {"noise": noise, "t": t, **{k: v[own] for k, v in self.pairs.items()}}

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        both = {k: torch.cat([batch[k], batch[k]]) for k in (*TEXT_KEYS, "noise", "t")}
        x1 = torch.cat([batch["winner"], batch["loser"]])
        target = velocity(both["noise"], x1)
        policy_w, policy_l = velocity_loss(predict(self.net, both, both["noise"], x1, both["t"]), target).chunk(2)
        with torch.no_grad():
            reference = self.reference.to(x1.device)
            ref_w, ref_l = velocity_loss(predict(reference, both, both["noise"], x1, both["t"]), target).chunk(2)
        dpo = dpo_loss(policy_w, policy_l, ref_w, ref_l, self.cfg.beta)
        return dpo.loss.mean(), dpo.logs()


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: init (the averaged SFT model, also the reference), pairs. Output: a model in the released layout."""
    cfg: DPOConfig = ctx.config
    pairs = load_file(ctx.inputs["pairs"] / "pairs.safetensors")
    policy = load_dit(ctx.inputs["init"])
    module = DPOModule(cfg, policy, pairs)
    fit(module, ctx, cfg.precision)
    if ctx.rank:
        return {}
    save_model(policy, ctx.out, ctx.inputs["init"], None, None)
    write_curve(module, ctx)
    drift = _distance(policy, module.reference)
    return {"loss": tail_mean(module), "pairs": len(pairs["winner"]), "drift": drift}


@torch.no_grad()
def _distance(a: DiT, b: DiT) -> float:
    """Relative distance of the parameters from the reference's."""
    moved = sum(float((p - q).square().sum()) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    return (moved / sum(float(q.square().sum()) for q in b.parameters())) ** 0.5
