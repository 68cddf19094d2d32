"""A latent cache of random numbers: DiT stages train on it in a second, without VAE, curation or text encoders."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from stepvideo import storage
from stepvideo.config import load
from stepvideo.data.latent_cache import FORMAT
from stepvideo.data.shards import hand_over, save, shard_name
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
    "balance": {"batch_size": 4, "image_batch_size": 4},
    "precision": "32-true",
    "optim": {"name": "muon", "lr": 3e-3, "warmup": 2, "ema": 0.8},
    "sampling": {"steps": 2, "cfg": 1.5},
    "runtime": {"checkpoint_every": 2, "log_every": 1, "threads": 1, "device": "cpu"},
}


def fake_cache(
    folder: Path,
    lengths: Sequence[int] = (17,),
    low: Sequence[str] = ("32x32",),
    high: Sequence[str] = ("48x48",),
    clips: int = CLIPS,
    shard_clips: int = 10,
) -> Path:
    """What the latents stage writes, with random latents whose mean depends on the caption.

    Clip i is in bucket i % n.
    """
    folder.mkdir(parents=True)
    work = folder.with_name(f"{folder.name}.work")
    draw = torch.Generator().manual_seed(0)
    ids = [f"{i:032x}" for i in range(clips)]
    shards, shapes = [], {}
    sets = [(media, resolution) for media in ("video", "image") for resolution in ("low", "high")]
    for media, resolution in sets:
        sizes = low if resolution == "low" else high
        names = [f"{n}x{size}" for n in (lengths if media == "video" else (1,)) for size in sizes]
        placed: list[dict] = [{} for _ in ids]
        for k, bucket in enumerate(names):
            mine = list(range(k, clips, len(names)))
            shape = shapes[bucket] = latent_shape(bucket)
            for n, first in enumerate(range(0, len(mine), shard_clips)):
                rows = mine[first : first + shard_clips]
                mean = 0.1 * torch.randn(len(rows), *shape, generator=draw)
                mean += 2.0 + (torch.tensor(rows) % (CAPTIONS - 1)).view(-1, 1, 1, 1, 1) / CAPTIONS
                shards.append(shard_name(f"{media}_{resolution}/{bucket}", n))
                save({"moments": torch.cat([mean, torch.full_like(mean, -4.0)], 2).bfloat16()}, work / shards[-1])
                for row, i in enumerate(rows):
                    placed[i] = {"bucket": bucket, "shard": n, "row": row}
        said = [{"short": [1 + i % (CAPTIONS - 1)], "dense": [1]} for i in range(clips)]
        table = [{"clip_id": c, "group": c, **place, **s} for c, place, s in zip(ids, placed, said, strict=True)]
        pq.write_table(pa.Table.from_pylist(table), folder / f"{media}_{resolution}.parquet")
    counts = [3 + i % 4 for i in range(CAPTIONS)]
    text = {
        "text": ["", *(f"caption {i}" for i in range(1, CAPTIONS))],
        "shard": [0] * CAPTIONS,
        "row": list(range(CAPTIONS)),
        "first": [sum(counts[:i]) for i in range(CAPTIONS)],
        "tokens": counts,
    }
    pq.write_table(pa.table(text), folder / "captions.parquet")
    embeddings = {
        "llm": torch.randn(sum(counts), WIDTH, generator=draw).bfloat16(),
        "clip": torch.randn(CAPTIONS, 5, WIDTH, generator=draw).bfloat16(),
    }
    shards.append(shard_name("text/captions", 0))
    save(embeddings, work / shards[-1])
    hand_over(work, folder, shards)
    storage.write_json(folder / "latent_stats.json", {"mean": [0.5] * Z, "std": [1.0] * Z})
    settings = {"format": FORMAT, "vae": "toy", "z_channels": Z, "on_the_fly": False, "buckets": shapes}
    settings |= {"lengths": list(lengths), "resolutions": {"low": list(low), "high": list(high)}}
    storage.write_json(folder / "cache.json", settings)
    return folder


def latent_shape(bucket: str) -> list[int]:
    """[f, z, h, w] of a VAE that makes 3 latents of 17 frames and one of 16 pixels a side."""
    frames, height, width = map(int, bucket.split("x"))
    return [3 * frames // 17 or 1, Z, height // 16, width // 16]


IMAGES = {"media": "images"}
JOINT = {"media": "joint", "balance": {"batch_size": 4, "video_to_image": 2.0}}


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
