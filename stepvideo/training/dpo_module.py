"""Video-DPO for flow matching (report §4.4): where pairs come from, and the loss against the reference."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from stepvideo.data.draw import Sampler, rng
from stepvideo.data.flow_draws import gaussian, timesteps
from stepvideo.data.source import Batch, deal
from stepvideo.diffusion.objectives import dpo_loss, velocity_loss
from stepvideo.diffusion.path import velocity
from stepvideo.models.dit import DiT
from stepvideo.training import lora
from stepvideo.training.dpo_config import DPOConfig
from stepvideo.training.flow import TEXT_KEYS, predict
from stepvideo.training.module import Logs, StageModule


class PairSource:
    """Preference pairs with the noise and timestep that winner and loser share."""

    def __init__(self, cfg: DPOConfig, pairs: dict[str, Tensor]) -> None:
        self.cfg, self.pairs = cfg, pairs
        count = len(pairs["winner"])
        order = rng(cfg.seed, "held out pairs").permutation(count).tolist()
        out = round(cfg.held_out * count)
        self.held_out, self.rows = sorted(order[:out]), sorted(order[out:])
        self.sampler = Sampler(len(self.rows), cfg.batch_size, cfg.seed)

    def micro_batches(self, step: int, rank: int, ranks: int, accumulate: int) -> list[Batch]:
        rows = [self.rows[i] for i in self.sampler.batch(step)]
        return [self._batch(step, rows, mine) for mine in deal(len(rows), rank, ranks, accumulate)]

    def _batch(self, step: int, rows: list[int], mine: list[int]) -> Batch:
        seed, shape, own = self.cfg.seed, self.pairs["winner"].shape[1:], [rows[i] for i in mine]
        noise = torch.stack([gaussian(shape, seed, "noise", step, i) for i in mine])
        t = timesteps(self.cfg.timesteps, seed, step, mine, len(rows))
        pairs = {k: v[own] for k, v in self.pairs.items()}
        return {"noise": noise, "t": t, **pairs, "share": len(mine) / len(rows), "ids": [f"pair {i}" for i in own]}


class DPOModule(StageModule):
    """The policy, trained; the reference, fixed."""

    source: PairSource

    def __init__(self, cfg: DPOConfig, policy: DiT, pairs: dict[str, Tensor]) -> None:
        super().__init__(cfg.optim, cfg.steps)
        self.cfg, self.net, self.source = cfg, policy, PairSource(cfg, pairs)
        # with adapters the policy without them is the reference
        self.reference = None if cfg.lora.rank else copy.deepcopy(policy).requires_grad_(False).eval()
        if self.reference is not None and cfg.reference == "bf16":
            self.reference.to(torch.bfloat16)

    def fixed(self) -> dict[str, nn.Module]:
        return {} if self.reference is None else {"reference": self.reference}

    def reference_velocity(self, batch: Batch, x1: Tensor) -> Tensor:
        """The reference's prediction for x1 at the batch's noise, timesteps and text; without gradients."""
        off = lora.adapters_off(self.net) if self.reference is None else torch.no_grad()
        with off:
            return predict(self.reference or self.net, batch, batch["noise"], x1, batch["t"])

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        both = {k: torch.cat([batch[k], batch[k]]) for k in (*TEXT_KEYS, "noise", "t")}
        x1 = torch.cat([batch["winner"], batch["loser"]])
        target = velocity(both["noise"], x1)
        ref_w, ref_l = velocity_loss(self.reference_velocity(both, x1), target).chunk(2)
        policy_w, policy_l = velocity_loss(predict(self.net, both, both["noise"], x1, both["t"]), target).chunk(2)
        dpo = dpo_loss(policy_w, policy_l, ref_w, ref_l, self.cfg.beta, self.cfg.label_smoothing)
        each = dpo.loss + self.cfg.sft_anchor * policy_w if self.cfg.sft_anchor else dpo.loss
        batch["each"] = each.detach()
        return each.mean(), dpo.logs()
