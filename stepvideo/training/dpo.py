"""Kind "dpo": Video-DPO for flow matching (report §4.4): winner and loser share noise and timestep; full parameters."""

from __future__ import annotations

import copy
from typing import cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stepvideo.data.draw import Sampler
from stepvideo.data.flow_draws import gaussian, timesteps
from stepvideo.data.source import Batch, deal
from stepvideo.diffusion.objectives import dpo_loss, velocity_loss
from stepvideo.diffusion.path import velocity
from stepvideo.models.checkpoints import load_dit
from stepvideo.models.dit import DiT
from stepvideo.stage import StageContext
from stepvideo.training import lora
from stepvideo.training.config import DPOConfig
from stepvideo.training.fit import fit
from stepvideo.training.flow import TEXT_KEYS, predict, save_model
from stepvideo.training.module import Logs, StageModule, tail_mean, write_curve
from stepvideo.training.monitor.cost import TRAINED, DiTCost


class PairSource:
    """Preference pairs with the noise and timestep that winner and loser share."""

    def __init__(self, cfg: DPOConfig, pairs: dict[str, Tensor]) -> None:
        self.cfg, self.pairs = cfg, pairs
        self.sampler = Sampler(len(pairs["winner"]), cfg.batch_size, cfg.seed)

    def micro_batches(self, step: int, rank: int, ranks: int, accumulate: int) -> list[Batch]:
        rows = self.sampler.batch(step)
        return [self._batch(step, rows, mine) for mine in deal(len(rows), rank, ranks, accumulate)]

    def _batch(self, step: int, rows: list[int], mine: list[int]) -> Batch:
        seed, shape, own = self.cfg.seed, self.pairs["winner"].shape[1:], [rows[i] for i in mine]
        noise = torch.stack([gaussian(shape, seed, "noise", step, i) for i in mine])
        t = timesteps(self.cfg.timesteps, seed, step, mine, len(rows))
        pairs = {k: v[own] for k, v in self.pairs.items()}
        return {"noise": noise, "t": t, **pairs, "share": len(mine) / len(rows), "ids": [f"pair {i}" for i in own]}


class DPOModule(StageModule):
    """The policy, trained; the reference, fixed."""

    def __init__(self, cfg: DPOConfig, policy: DiT, pairs: dict[str, Tensor]) -> None:
        super().__init__(cfg.optim, cfg.steps)
        self.cfg, self.net, self.source = cfg, policy, PairSource(cfg, pairs)
        # with adapters the policy without them is the reference
        self.reference = None if cfg.lora.rank else copy.deepcopy(policy).requires_grad_(False).eval()

    def fixed(self) -> dict[str, nn.Module]:
        return {} if self.reference is None else {"reference": self.reference}

    def _reference(self, both: Batch, x1: Tensor) -> Tensor:
        off = lora.adapters_off(self.net) if self.reference is None else torch.no_grad()
        with off:
            return predict(self.reference or self.net, both, both["noise"], x1, both["t"])

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        both = {k: torch.cat([batch[k], batch[k]]) for k in (*TEXT_KEYS, "noise", "t")}
        x1 = torch.cat([batch["winner"], batch["loser"]])
        target = velocity(both["noise"], x1)
        ref_w, ref_l = velocity_loss(self._reference(both, x1), target).chunk(2)
        policy_w, policy_l = velocity_loss(predict(self.net, both, both["noise"], x1, both["t"]), target).chunk(2)
        dpo = dpo_loss(policy_w, policy_l, ref_w, ref_l, self.cfg.beta)
        batch["each"] = dpo.loss.detach()
        return dpo.loss.mean(), dpo.logs()


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: init (the averaged SFT model, also the reference), pairs. Output: a model in the released layout."""
    cfg: DPOConfig = ctx.config
    pairs = load_file(ctx.inputs["pairs"] / "pairs.safetensors")
    policy = load_dit(ctx.inputs["init"], dtype=torch.float32)
    lora.apply(policy, cfg.lora, cfg.seed, cfg.runtime.parallel.tensor)
    module = DPOModule(cfg, policy, pairs)
    trained = fit(module, ctx, cfg.precision, cost=DiTCost(policy.cfg, 2 * (TRAINED + 1), "winner"))
    if ctx.rank:
        return {}
    policy = lora.hand_over(cast(DiT, trained["net"]), cfg.lora, ctx.out)
    save_model(policy, ctx.out, ctx.inputs["init"], None, None)
    write_curve(module, ctx)
    drift = _distance(policy, load_dit(ctx.inputs["init"], dtype=torch.float32))
    return {"loss": tail_mean(module), "pairs": len(pairs["winner"]), "drift": drift}


@torch.no_grad()
def _distance(a: DiT, b: DiT) -> float:
    """Relative distance of the parameters from those of `b`."""
    moved = sum(float((p - q).square().sum()) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    return (moved / sum(float(q.square().sum()) for q in b.parameters())) ** 0.5
