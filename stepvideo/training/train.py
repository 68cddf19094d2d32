"""Kind "train": flow matching on the latent cache (report §4.3.1, §8) — T2I, T2VI at two resolutions, SFT."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stepvideo import storage
from stepvideo.data.clips import load_ids
from stepvideo.data.draw import Sampler, rng
from stepvideo.data.latents import LatentSet, TextCache
from stepvideo.emulator.flops import flops
from stepvideo.models.checkpoints import load_dit, save_dit
from stepvideo.models.dit import DiT
from stepvideo.stage import StageContext
from stepvideo.training.config import TrainConfig
from stepvideo.training.fit import Batch, StageModule, fit, tail_mean, write_curve
from stepvideo.training.flow import flow_loss, gaussian, save_model, timesteps

EMPTY_CAPTION = 0  # its number in every latent cache


class TrainModule(StageModule):
    """Batches of videos or, in a share of the steps, of images; both from the cache."""

    def __init__(self, cfg: TrainConfig, dit: DiT, videos: LatentSet | None, images: LatentSet | None, text: TextCache):
        super().__init__(cfg.optim, cfg.steps)
        self.cfg, self.net, self.text = cfg, dit, text
        self.sets = {"video": videos, "image": images}
        sizes = {"video": cfg.batch_size, "image": cfg.image_batch_size}
        self.samplers = {k: Sampler(len(s), sizes[k], cfg.seed) for k, s in self.sets.items() if s is not None}
        self.turn = _turns(cfg)
        before = np.cumsum(self.turn) - self.turn
        self.nth = [int(n if image else i - n) for i, (n, image) in enumerate(zip(before, self.turn, strict=True))]

    def batch(self, step: int, rank: int, world_size: int) -> Batch:
        cfg, kind = self.cfg, "image" if self.turn[step] else "video"
        data = self.sets[kind]
        assert data is not None
        rows = self.samplers[kind].batch(self.nth[step])
        mine = list(range(rank, len(rows), world_size))
        x1, captions = [], []
        for i in mine:
            eps = gaussian(data.shape, cfg.seed, "posterior", step, i) if cfg.sample_posterior else None
            x1.append(data.latent(rows[i], eps))
            drop, which_kind, which = rng(cfg.seed, "caption", step, i).random(3)
            captions.append(
                EMPTY_CAPTION if drop < cfg.drop_captions else data.caption(rows[i], which_kind, which, cfg.captions)
            )
        x0 = torch.stack([gaussian(data.shape, cfg.seed, "noise", step, i) for i in mine])
        t = timesteps(cfg.timesteps, cfg.seed, step, mine, len(rows))
        return {"x0": x0, "x1": torch.stack(x1), "t": t, "kind": kind, **self.text.batch(captions)}

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        each = flow_loss(self.net, batch)
        return each.mean(), {f"loss_{batch['kind']}": float(each.mean().detach())}


def _turns(cfg: TrainConfig) -> np.ndarray:
    """Which steps show images: evenly spread in any stretch of the run, `image_share` of them in all."""
    steps = np.arange(cfg.steps + 1)
    return np.diff(np.floor(steps * cfg.image_share + 1e-9)).astype(int)


class Snapshots:
    """Keeps `cfg.snapshots` models evenly spaced, with averaged weights where there are any; the last is the result."""

    def __init__(self, module: TrainModule, ctx: StageContext) -> None:
        self.module, self.ctx = module, ctx
        count = module.cfg.snapshots
        self.at = [module.steps * (i + 1) // count for i in range(count)][:-1]

    def __call__(self, step: int) -> None:
        if step in self.at and self.ctx.rank == 0 and not self.path(step).exists():
            dit = self.module.net
            assert isinstance(dit, DiT)
            live = [p.detach().clone() for p in dit.parameters()]
            if self.module.ema is not None:
                self.module.ema.copy_to_module()
            tmp = self.ctx.work / "snapshot.tmp"
            shutil.rmtree(tmp, ignore_errors=True)
            save_dit(dit, tmp)
            self.path(step).parent.mkdir(exist_ok=True)
            tmp.rename(self.path(step))
            with torch.no_grad():
                for p, v in zip(dit.parameters(), live, strict=True):
                    p.copy_(v)

    def path(self, step: int) -> Path:
        return self.ctx.work / "snapshots" / f"step-{step:07d}"


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: latents, subsets; optional init (the stage before). Output: a model in the released layout."""
    cfg: TrainConfig = ctx.config
    cache = ctx.inputs["latents"]
    stats = storage.read_json(cache / "cache.json")
    videos = images = None
    if cfg.image_share < 1:
        videos = LatentSet(cache, "video", cfg.resolution, load_ids(ctx.inputs["subsets"] / f"{cfg.subset}.parquet"))
    if cfg.image_share > 0:
        images = LatentSet(cache, "image", cfg.resolution)
    text = TextCache(cache)
    torch.manual_seed(cfg.seed)
    if "init" in ctx.inputs:
        dit = load_dit(ctx.inputs["init"], dtype=torch.float32)  # released weights are bfloat16
    else:
        dit = DiT(cfg.dit)
        dit.init_weights(torch.Generator().manual_seed(cfg.seed))
    module = TrainModule(cfg, dit, videos, images, text)
    snapshots = Snapshots(module, ctx)
    module.before_step = snapshots  # type: ignore[method-assign]
    fit(module, ctx, cfg.precision)
    if ctx.rank:
        return {}
    size = stats["resolutions"][cfg.resolution]
    frames = stats["frames"] if videos is not None else 1
    like = ctx.inputs.get("init", cache)
    save_model(dit, ctx.out, like, cfg.sampling, {"frames": frames, "height": size, "width": size})
    for step in snapshots.at:
        folder = ctx.out / "snapshots" / f"step-{step:07d}"
        folder.parent.mkdir(exist_ok=True)
        snapshots.path(step).rename(folder)
    write_curve(module, ctx)
    shape = (videos or images).shape  # type: ignore[union-attr]
    return {
        "loss": tail_mean(module),
        "grad_norm_peak_step": float(max(module.curve, key=lambda row: row[2])[0]),
        "samples": float(sum(len(module.samplers["image" if t else "video"].batch(0)) for t in module.turn)),
        "parameters": float(sum(p.numel() for p in dit.parameters())),
        **_flops(dit, shape, text),
    }


def _flops(dit: DiT, shape: tuple[int, ...], text: TextCache) -> dict[str, float]:
    clip = text.data["clip"].shape[1]
    return {"gflop_forward": flops(dit.cfg, shape[0], shape[2], shape[3], clip + max(text.tokens), clip) / 1e9}
