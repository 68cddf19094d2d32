"""Kind "turbo": 2-rectified-flow self-distillation (report §5) on the couplings, with U-shaped timesteps."""

from __future__ import annotations

import torch
from safetensors.torch import load_file
from torch import Tensor

from stepvideo.data.draw import Sampler
from stepvideo.data.latents import TextCache
from stepvideo.diffusion.objectives import reflow_loss
from stepvideo.models.checkpoints import load_dit
from stepvideo.models.dit import DiT
from stepvideo.stage import StageContext
from stepvideo.training.config import TurboConfig
from stepvideo.training.fit import Batch, StageModule, fit, tail_mean, write_curve
from stepvideo.training.flow import predict, save_model, timesteps


class TurboModule(StageModule):
    def __init__(self, cfg: TurboConfig, dit: DiT, couplings: dict[str, Tensor], text: TextCache) -> None:
        super().__init__(cfg.optim, cfg.steps)
        self.cfg, self.net, self.couplings, self.text = cfg, dit, couplings, text
        self.sampler = Sampler(len(couplings["x0"]), cfg.batch_size, cfg.seed)

    def batch(self, step: int, rank: int, world_size: int) -> Batch:
        rows = self.sampler.batch(step)
        mine = list(range(rank, len(rows), world_size))
        own = [rows[i] for i in mine]
        t = timesteps(self.cfg.timesteps, self.cfg.seed, step, mine, len(rows))
        captions = self.couplings["caption"][own].tolist()
        return {"x0": self.couplings["x0"][own], "x1": self.couplings["x1"][own], "t": t, **self.text.batch(captions)}

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        v = predict(self.net, batch, batch["x0"], batch["x1"], batch["t"])
        each = reflow_loss(v, batch["x0"], batch["x1"], batch["t"], self.cfg.weight)
        return each.mean(), {}


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: init (the aligned model), couplings, latents (text features). Output: a model in the released layout."""
    cfg: TurboConfig = ctx.config
    dit = load_dit(ctx.inputs["init"])
    couplings = load_file(ctx.inputs["couplings"] / "couplings.safetensors")
    torch.manual_seed(cfg.seed)
    module = TurboModule(cfg, dit, couplings, TextCache(ctx.inputs["latents"]))
    fit(module, ctx, cfg.precision)
    if ctx.rank:
        return {}
    save_model(dit, ctx.out, ctx.inputs["init"], cfg.sampling, None)
    write_curve(module, ctx)
    return {"loss": tail_mean(module), "first_loss": module.curve[0][1]}
