"""A latent cache of random numbers: DiT stages train on it in a second, without VAE, curation or text encoders."""

from __future__ import annotations

import copy
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from stepvideo import storage
from stepvideo.config import load
from stepvideo.sink import JsonlSink
from stepvideo.stage import StageContext, kind, resolve

Z, WIDTH, CLIPS, CAPTIONS = 4, 16, 24, 10
DIT = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 1,
    "in_channels": Z,
    "out_channels": Z,
    "caption_channels": [WIDTH, WIDTH],
}
TRAIN = {
    "dit": DIT,
    "steps": 6,
    "batch_size": 4,
    "image_batch_size": 4,
    "precision": "32-true",
    "optim": {"name": "muon", "lr": 3e-3, "warmup": 2, "ema": 0.8},
    "sampling": {"steps": 2, "cfg": 1.5},
    "runtime": {"checkpoint_every": 2, "log_every": 1, "threads": 1, "device": "cpu"},
}


def fake_cache(folder: Path) -> Path:
    """What the latents stage writes, with random latents whose mean depends on the caption."""
    folder.mkdir(parents=True)
    draw = torch.Generator().manual_seed(0)
    for name, frames, side in (("video_low", 3, 2), ("video_high", 3, 3), ("image_low", 1, 2), ("image_high", 1, 3)):
        mean = 0.1 * torch.randn(CLIPS, frames, Z, side, side, generator=draw)
        mean += 2.0 + (torch.arange(CLIPS) % (CAPTIONS - 1)).view(-1, 1, 1, 1, 1) / CAPTIONS
        moments = torch.cat([mean, torch.full_like(mean, -4.0)], 2).bfloat16()
        save_file({"moments": moments}, folder / f"{name}.safetensors")
    ids = [f"{i:032x}" for i in range(CLIPS)]
    rows = [{"clip_id": c, "short": [1 + i % (CAPTIONS - 1)], "dense": [1]} for i, c in enumerate(ids)]
    for name in ("videos", "images"):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    counts = [3 + i % 4 for i in range(CAPTIONS)]
    first = [sum(counts[:i]) for i in range(CAPTIONS)]
    table = {"text": ["", *(f"caption {i}" for i in range(1, CAPTIONS))], "first": first, "tokens": counts}
    pq.write_table(pa.table(table), folder / "captions.parquet")
    text = {
        "llm": torch.randn(sum(counts), WIDTH, generator=draw).bfloat16(),
        "clip": torch.randn(CAPTIONS, 5, WIDTH, generator=draw).bfloat16(),
    }
    save_file(text, folder / "text.safetensors")
    storage.write_json(folder / "latent_stats.json", {"mean": [0.5] * Z, "std": [1.0] * Z})
    shape = {"resolutions": {"low": 32, "high": 48}, "frames": 17, "z_channels": Z}
    storage.write_json(folder / "cache.json", shape)
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    return fake_cache(tmp_path_factory.mktemp("latents") / "cache")


@pytest.fixture(scope="session")
def subsets(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("subsets")
    for name, count in (("s1", CLIPS), ("s6", 12), ("sft_1", 6), ("sft_2", 6)):
        pq.write_table(pa.table({"clip_id": [f"{i:032x}" for i in range(count)]}), folder / f"{name}.parquet")
    return folder


@pytest.fixture
def stage(tmp_path):
    """`stage(kind, inputs, config, name)` runs a stage in tmp_path/name and returns (its output folder, metrics)."""

    def run(kind_name: str, inputs: dict[str, Path], config: dict, name: str = ""):
        ctx = context(kind_name, inputs, config, tmp_path / (name or kind_name))
        return ctx.out, resolve(kind(kind_name).run)(ctx)

    return run


def context(kind_name: str, inputs: dict[str, Path], config: dict, folder: Path) -> StageContext:
    typed = load(resolve(kind(kind_name).config), copy.deepcopy(config), kind_name)
    for part in ("out", "work"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    return StageContext(typed, inputs, folder / "out", folder / "work", JsonlSink(folder / "events.jsonl"))
