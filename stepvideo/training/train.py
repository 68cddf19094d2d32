"""Kind "train": flow matching on the latent cache (report §4.3.1, §8) — T2I, T2VI at two resolutions, SFT."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from stepvideo.data.balance import Plan
from stepvideo.data.buckets import Bucket
from stepvideo.data.clips import load_ids
from stepvideo.data.flow_draws import Draws
from stepvideo.data.flow_source import FlowSource
from stepvideo.data.latent_cache import LatentCache, LatentSet
from stepvideo.data.source import Batch
from stepvideo.data.text_cache import TextCache
from stepvideo.emulator.flops import flops, video_tokens
from stepvideo.models.checkpoints import load_dit
from stepvideo.models.config import DiTConfig
from stepvideo.models.dit import DiT
from stepvideo.stage import StageContext
from stepvideo.training import lora
from stepvideo.training.config import TrainConfig
from stepvideo.training.fit import fit
from stepvideo.training.flow import flow_loss, save_model
from stepvideo.training.module import Logs, StageModule, tail_mean, write_curve
from stepvideo.training.monitor.cost import dit_cost
from stepvideo.training.monitor.held_out import HeldOut
from stepvideo.training.snapshots import Snapshots


class TrainModule(StageModule):
    """Flow matching on micro-batches of one bucket each."""

    def __init__(self, cfg: TrainConfig, dit: DiT, source: FlowSource) -> None:
        super().__init__(cfg.optim, cfg.steps)
        self.cfg, self.net, self.source = cfg, dit, source

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        each = flow_loss(self.net, batch)
        batch["each"], loss = each.detach(), each.mean()
        return loss, {f"loss_{batch['kind']}": loss.detach()}


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: latents, subsets; optional init (the stage before). Output: a model in the released layout."""
    cfg: TrainConfig = ctx.config
    cache, text = LatentCache(ctx.inputs["latents"]), TextCache(ctx.inputs["latents"])
    ids = load_ids(ctx.inputs["subsets"] / f"{cfg.subset}.parquet")
    videos = LatentSet(cache, "video", cfg.resolution, ids) if cfg.media != "images" else None
    images = LatentSet(cache, "image", cfg.resolution) if cfg.media != "videos" else None
    (videos, held), (images, stills) = _split(videos, cfg), _split(images, cfg)
    held = held or stills
    torch.manual_seed(cfg.seed)
    if "init" in ctx.inputs:
        dit = load_dit(ctx.inputs["init"], dtype=torch.float32)  # released weights are bfloat16
    else:
        dit = DiT(cfg.dit)
        dit.init_weights(torch.Generator().manual_seed(cfg.seed))
    lora.apply(dit, cfg.lora, cfg.seed, cfg.runtime.parallel.tensor)
    plan = make_plan(cfg, dit.cfg, cache, text, videos, images)
    for note in plan.notes:
        ctx.sink.event("balance", note=note)
    draws = Draws(cfg.seed, cfg.timesteps, cfg.captions, cfg.drop_captions, cfg.sample_posterior)
    module = TrainModule(cfg, dit, FlowSource(videos, images, text, plan, draws))
    snapshots = Snapshots(module, ctx, cfg.snapshots)
    most = cfg.runtime.monitor.validation.clips
    judges = HeldOut(held, len(held), most, text, cfg.captions) if held is not None and most else None
    trained = fit(module, ctx, cfg.precision, callbacks=[snapshots], cost=dit_cost(dit.cfg), held_out=judges)
    if ctx.rank:
        return {}
    dit = lora.hand_over(cast(DiT, trained["net"]), cfg.lora, ctx.out)
    longest = max((videos or images).buckets, key=Bucket.parse)  # type: ignore[union-attr]
    size = Bucket.parse(longest)
    like = ctx.inputs.get("init", cache.root)
    shape = {"frames": size.frames, "height": size.height, "width": size.width}
    save_model(dit, ctx.out, Path(like), cfg.sampling, shape)
    snapshots.hand_over()
    write_curve(module, ctx)
    return {
        "loss": tail_mean(module),
        "grad_norm_peak_step": float(max(module.curve, key=lambda row: row[2])[0]),
        "samples": float(plan.samples(cfg.steps)),
        "parameters": float(sum(p.numel() for p in dit.parameters())),
        "gflop_forward": sample_flops(dit.cfg, cache, text, longest) / 1e9,
    }


def _split(data: LatentSet | None, cfg: TrainConfig) -> tuple[LatentSet | None, LatentSet | None]:
    """(to train on, held out); too few clips to hold any out are all trained on."""
    train, held_out = data.split(cfg.held_out) if data is not None else (None, None)
    return (train, held_out) if train is not None else (data, None)


def make_plan(
    cfg: TrainConfig,
    dit: DiTConfig,
    cache: LatentCache,
    text: TextCache,
    videos: LatentSet | None,
    images: LatentSet | None,
) -> Plan:
    """Which samples every step has, balanced by what they cost this network."""
    sizes = {b: len(rows) for b, rows in videos.buckets.items()} if videos else {}
    # images of several aspects cost about the same: the dearest stands for all
    still = max(images.buckets, key=lambda b: sample_flops(dit, cache, text, b)) if images else None
    buckets = [*sizes, *([still] if still else [])]
    costs = {b: float(sample_flops(dit, cache, text, b)) for b in buckets}
    tokens = {b: video_tokens(dit, *_latent(cache, b)) for b in buckets}
    return Plan(costs, sizes, len(images) if images else 0, cfg.balance, cfg.seed, tokens)


def sample_flops(dit: DiTConfig, cache: LatentCache, text: TextCache, bucket: str) -> int:
    """Operations of a forward of one sample of a bucket with the longest caption there is."""
    return flops(dit, *_latent(cache, bucket), text.clip_length + int(text.tokens.max()), text.clip_length)


def _latent(cache: LatentCache, bucket: str) -> tuple[int, int, int]:
    frames, _, height, width = cache.shape(bucket)
    return frames, height, width
