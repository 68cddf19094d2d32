"""Kind "turbo": 2-rectified-flow self-distillation (report §5) on the couplings, with U-shaped timesteps."""

from __future__ import annotations

from typing import cast

import torch
from safetensors.torch import load_file
from torch import Tensor

from stepvideo.data.draw import Sampler
from stepvideo.data.flow_draws import timesteps
from stepvideo.data.source import Batch, deal
from stepvideo.data.text_cache import TextCache
from stepvideo.diffusion.objectives import reflow_loss
from stepvideo.models.checkpoints import load_dit
from stepvideo.models.dit import DiT
from stepvideo.stage import StageContext
from stepvideo.training import lora
from stepvideo.training.config import TurboConfig
from stepvideo.training.fit import fit
from stepvideo.training.flow import predict, save_model
from stepvideo.training.module import Logs, StageModule, tail_mean, write_curve
from stepvideo.training.monitor.cost import DiTCost


class CouplingSource:
    """Couplings of noise and what the teacher made of it, each with its caption."""

    def __init__(self, cfg: TurboConfig, couplings: dict[str, Tensor], text: TextCache) -> None:
        self.cfg, self.couplings, self.text = cfg, couplings, text
        self.sampler = Sampler(len(couplings["x0"]), cfg.batch_size, cfg.seed)

    def micro_batches(self, step: int, rank: int, ranks: int, accumulate: int) -> list[Batch]:
        rows = self.sampler.batch(step)
        return [self._batch(step, rows, mine) for mine in deal(len(rows), rank, ranks, accumulate)]

    def _batch(self, step: int, rows: list[int], mine: list[int]) -> Batch:
        own, data = [rows[i] for i in mine], self.couplings
        t = timesteps(self.cfg.timesteps, self.cfg.seed, step, mine, len(rows))
        text = self.text.batch(data["caption"][own].tolist())
        ids = [f"coupling {i}" for i in own]
        return {
            "x0": data["x0"][own],
            "x1": data["x1"][own],
            "t": t,
            **text,
            "share": len(mine) / len(rows),
            "ids": ids,
        }


class TurboModule(StageModule):
    def __init__(self, cfg: TurboConfig, dit: DiT, couplings: dict[str, Tensor], text: TextCache) -> None:
        super().__init__(cfg.optim, cfg.steps)
        self.cfg, self.net, self.source = cfg, dit, CouplingSource(cfg, couplings, text)

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        v = predict(self.net, batch, batch["x0"], batch["x1"], batch["t"])
        each = reflow_loss(v, batch["x0"], batch["x1"], batch["t"], self.cfg.weight)
        batch["each"] = each.detach()
        return each.mean(), {}


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: init (the aligned model), couplings, latents (text features). Output: a model in the released layout."""
    cfg: TurboConfig = ctx.config
    dit = load_dit(ctx.inputs["init"], dtype=torch.float32)
    lora.apply(dit, cfg.lora, cfg.seed, cfg.runtime.parallel.tensor)
    couplings = load_file(ctx.inputs["couplings"] / "couplings.safetensors")
    torch.manual_seed(cfg.seed)
    module = TurboModule(cfg, dit, couplings, TextCache(ctx.inputs["latents"]))
    trained = fit(module, ctx, cfg.precision, cost=DiTCost(dit.cfg))
    if ctx.rank:
        return {}
    save_model(
        lora.hand_over(cast(DiT, trained["net"]), cfg.lora, ctx.out), ctx.out, ctx.inputs["init"], cfg.sampling, None
    )
    write_curve(module, ctx)
    return {"loss": tail_mean(module), "first_loss": module.curve[0][1]}
