"""VAE trainings on moving ramps, alone and as ranks, for test_vae_training.py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from stepvideo.config import load
from stepvideo.data.clips import Clip
from stepvideo.models.clip import CLIPImageEncoder
from stepvideo.models.config import CLIPImageConfig
from stepvideo.models.video_vae import VideoVAE
from stepvideo.sink import JsonlSink
from stepvideo.stage import StageContext
from stepvideo.training import vae_frames
from stepvideo.training.config import VAETrainConfig
from stepvideo.training.fit import fit
from stepvideo.training.vae import VAEModule

CLIPS = 24
SHAPE = {"enc_ch": 4, "dec_ch": 4, "enc_ch_mult": [1, 1, 1, 1], "dec_ch_mult": [1, 1, 1, 1], "num_res_blocks": 1}
TINY: dict[str, Any] = {
    "vae": {**SHAPE, "num_groups": 2, "z_channels": 4, "dual_path": False},
    "discriminator": {"ch": 4, "ch_mult": [1, 2], "num_groups": 2},
    "optim": {"name": "adamw", "lr": 1e-3, "warmup": 2},
    "precision": "32-true",
    **{"steps": 4, "batch_size": 4, "sizes": [16], "lengths": [5], "images_per_clip": 1, "image_share": 0.0},
    **{"perceptual": 0.1, "perceptual_frames": 2, "gan": 0.5},
}


def config(**changes: Any) -> VAETrainConfig:
    return load(VAETrainConfig, {**TINY, **changes})


def clips() -> list[Clip]:
    return [mock.Mock(clip_id=f"clip {i}") for i in range(CLIPS + vae_frames.VALIDATION)]


def video(side: int = 16) -> np.ndarray:
    draw = np.random.default_rng(0)
    return draw.integers(0, 256, (CLIPS + vae_frames.VALIDATION, vae_frames.FRAMES, side, side, 3), dtype=np.uint8)


def source(cfg: VAETrainConfig) -> vae_frames.ClipFrames:
    with mock.patch.object(vae_frames, "windows", lambda *_: video(max(cfg.sizes))):
        return vae_frames.ClipFrames(Path("anywhere"), clips(), cfg)


def module(cfg: VAETrainConfig) -> VAEModule:
    torch.manual_seed(0)
    vae = VideoVAE(cfg.vae)
    with torch.no_grad():
        for p in vae.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return VAEModule(cfg, vae, source(cfg), CLIPImageEncoder(CLIPImageConfig(widths=[8, 8], projection_dim=4)))


def context(cfg: VAETrainConfig, folder: Path, rank: int = 0, ranks: int = 1) -> StageContext:
    (folder / "out").mkdir(parents=True, exist_ok=True)
    sink = JsonlSink(folder / f"events-{rank}.jsonl")
    return StageContext(cfg, {}, folder / "out", folder / "work", sink, rank=rank, world_size=ranks)


Result = tuple[list[list[float]], dict[str, dict[str, Tensor]]]


def train(changes: dict[str, Any], folder: Path, ranks: int = 1) -> Result | None:
    """Curve and the parameters of the VAE and its discriminator, from rank 0."""
    rank = int(os.environ["RANK"]) if ranks > 1 else 0
    cfg = config(**changes)
    made = module(cfg)
    nets = fit(made, context(cfg, folder, rank, ranks), cfg.precision)
    if rank:
        return None
    return made.curve, {part: {n: p.detach() for n, p in net.named_parameters()} for part, net in nets.items()}


def train_counting(changes: dict[str, Any], folder: Path, ranks: int) -> tuple[Result | None, int]:
    """`train`, and how often ranks exchanged parts of a clip."""
    with mock.patch.object(dist, "all_to_all_single", wraps=dist.all_to_all_single) as exchange:
        return train(changes, folder, ranks), exchange.call_count


class Alone:
    """`TrainParallel` of one process, as far as a loss asks."""

    data_size = 1

    def mean(self, x: Tensor) -> Tensor:
        return x

    def micro_batch(self, nets: Any, first: bool, last: bool) -> None:
        pass
