"""Kind "train": flow matching (report §4.3.1, §8) — T2I, T2VI at two resolutions, SFT."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from stepvideo.data.source import Batch, Source
from stepvideo.data.streamed import StreamedSource
from stepvideo.diffusion.sampling import Sampling
from stepvideo.models.checkpoints import load_dit
from stepvideo.models.dit import DiT
from stepvideo.stage import StageContext
from stepvideo.training import lora
from stepvideo.training.config import TrainConfig
from stepvideo.training.fit import fit
from stepvideo.training.flow import flow_loss, save_model
from stepvideo.training.module import Logs, StageModule, tail_mean, write_curve
from stepvideo.training.monitor.cost import DiTCost
from stepvideo.training.monitor.samples import Samples
from stepvideo.training.snapshots import Snapshots
from stepvideo.training.streaming import streamed
from stepvideo.training.train_data import TrainData
from stepvideo.training.watermark import Watermark


class TrainModule(StageModule):
    """Flow matching on micro-batches of one bucket each.

    Args:
        encode: gives a micro-batch its latents, where it does not bring them.
    """

    def __init__(self, cfg: TrainConfig, dit: DiT, source: Source, encode: Callable[[Batch], Batch] | None = None):
        super().__init__(cfg.optim, cfg.steps)
        self.cfg, self.net, self.source, self.encode = cfg, dit, source, encode

    def sometimes(self) -> list[str]:
        return ["loss_image", "loss_video"]  # a rank may have packs of one kind only

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        each = flow_loss(self.net, self.encode(batch) if self.encode else batch)
        batch["each"], loss = each.detach(), each.mean()
        return loss, {f"loss_{batch['kind']}": loss.detach()}


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: latents, subsets; optional init (the stage before), curate and vae (to encode clips as they come), vae
    and text (to sample along the way). Output: a model in the released layout.
    """
    cfg: TrainConfig = ctx.config
    data = TrainData.open(cfg, ctx.inputs)
    torch.manual_seed(cfg.seed)
    if "init" in ctx.inputs:
        dit = load_dit(ctx.inputs["init"], dtype=torch.float32)  # released weights are bfloat16
    else:
        dit = DiT(cfg.dit)
        dit.init_weights(torch.Generator().manual_seed(cfg.seed))
    lora.apply(dit, cfg.lora, cfg.seed, cfg.runtime.parallel.tensor)
    plan = data.plan(dit.cfg)
    for note in plan.notes:
        ctx.sink.event("balance", note=note)
    source = streamed(data, plan, ctx) if cfg.runtime.data == "streamed" else data.source(plan)
    module = TrainModule(cfg, dit, source, data.encoder())
    like, size = Path(ctx.inputs.get("init", ctx.inputs["latents"])), data.longest()
    shape = {"frames": size.frames, "height": size.height, "width": size.width}
    snapshots = Snapshots(module, ctx, cfg.snapshots)
    settings = Sampling.read(like).with_({**asdict(cfg.sampling), **shape})
    samples = Samples(cfg.samples, settings, data.cache.stats()) if cfg.samples.every else None
    watching: list[Callback] = [snapshots, *([samples] if samples else [])]
    cost = DiTCost(dit.cfg, latents="x0")
    watching += [Watermark(source)] if isinstance(source, StreamedSource) else []
    with closing(source):
        trained = fit(module, ctx, cfg.precision, callbacks=watching, cost=cost, held_out=data.judges())
    if ctx.rank:
        return {}
    dit = lora.hand_over(cast(DiT, trained["net"]), cfg.lora, ctx.out)
    save_model(dit, ctx.out, like, cfg.sampling, shape)
    snapshots.hand_over()
    if samples:
        samples.hand_over(ctx.work, ctx.out)
    write_curve(module, ctx)
    return {
        "loss": tail_mean(module),
        "grad_norm_peak_step": float(max(module.curve, key=lambda row: row[2])[0]),
        "samples": float(plan.samples(cfg.steps)),
        "parameters": float(sum(p.numel() for p in dit.parameters())),
        "gflop_forward": data.flops(dit.cfg, str(size)) / 1e9,
    }
