"""A training stage at toy size that can be run from the cache or streamed, and producers for it, as jobs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from clip_catalog import clip_id
from killed_stages import Forks
from latent_cache import TRAIN, context

from stepvideo.config import dump, load
from stepvideo.data import latents
from stepvideo.data.feed import Feed
from stepvideo.data.video_io import write_image, write_video
from stepvideo.fingerprint import fingerprint
from stepvideo.stage import InputRef, StageSpec, kind
from stepvideo.training.config import TrainConfig
from stepvideo.training.producer_spec import meeting_place, name_there, producer_spec

VIDEOS, IMAGES, STEPS = 12, 6, 10
LATENTS = {
    "resolutions": {"low": ["32x32", "32x64"], "high": ["32x32"]},
    "batch_size": 4,
    "text_batch_size": 7,
    "kinds": ["short"],
    "languages": ["en"],
    "precision": "32-true",
    "runtime": {"device": "cpu", "threads": 1},
}
FEED = {"lease_s": 1.0, "timeout_s": 60.0, "ahead": 3}
CONFIG = {
    **TRAIN,
    "steps": STEPS,
    "subset": "s1",
    "media": "joint",
    "balance": {"packs": 2, "batch_size": 2, "video_to_image": 2.0},
    "captions": {"short": 1.0, "dense": 0.0, "title": 0.0},
    "held_out": 0.0,
    "optim": {"name": "adamw", "lr": 3e-3, "warmup": 2, "ema": 0.8},
}


def make_inputs(folder: Path, models: Path) -> dict[str, dict[str, Path]]:
    """{"cached": …, "streamed": …}: inputs of a training stage of both kinds, from the same clips and encoders."""
    from stepvideo.world.attributes import all_combinations
    from stepvideo.world.captions import prompts

    curate, subsets = folder / "curate", folder / "subsets"
    curate.mkdir(parents=True)
    subsets.mkdir()
    texts, draw, rows = [p.text for p in prompts(all_combinations(), 60, 0)], np.random.default_rng(0), []
    for i in range(VIDEOS + IMAGES):
        still = i >= VIDEOS
        width, frames = (64 if i % 3 == 0 and not still else 32), (1 if still else 17)
        pixels = draw.integers(0, 256, (frames, 4, width // 8, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
        file = f"{i}.png" if still else f"{i}.mp4"
        write_image(curate / file, pixels[0]) if still else write_video(curate / file, pixels, 25)
        row = {"clip_id": clip_id(i), "kind": "image" if still else "clip", "file": file, "first_frame": 0, "fps": 25.0}
        row |= {"frames": frames, "height": 32, "width": width, "crop": None, "caption_source": "sidecar"}
        rows.append(row | {"captions": json.dumps({"short": {"en": [texts[i]]}}), "attributes": None, "parent": None})
    pq.write_table(pa.Table.from_pylist(rows), curate / "catalog.parquet")
    for name, numbers in (("s1", range(VIDEOS)), ("images", range(VIDEOS, VIDEOS + IMAGES))):
        pq.write_table(pa.table({"clip_id": [clip_id(i) for i in numbers]}), subsets / f"{name}.parquet")
    sources = {"curate": curate, "subsets": subsets, "vae": models, "text": models}
    made = {}
    for name, on_the_fly in (("cached", False), ("streamed", True)):
        ctx = context("latents", sources, {**LATENTS, "on_the_fly": on_the_fly}, folder / name)
        latents.run(ctx)
        made[name] = ctx.out
    return {
        "cached": {"latents": made["cached"], "subsets": subsets},
        "streamed": {"latents": made["streamed"], **sources},
    }


def prepare(inputs: Mapping[str, Path], store: Path, name: str = "t2vi", lr: float = 3e-3, **runtime: Any) -> Path:
    """The directory of a training stage; streamed if its inputs are."""
    fed = {"data": "streamed", "feed": {**FEED, **runtime.pop("feed", {})}} if "text" in inputs else {}
    changed = {"runtime": {**CONFIG["runtime"], **fed, **runtime}, "optim": {**CONFIG["optim"], "lr": lr}}
    config = load(TrainConfig, {**CONFIG, **changed}, name)
    return _spec(inputs, store, name, "train", dump(config), store / name / "key")


def producer(stage: Path, name: str) -> Path:
    """The directory of a producer for such a stage."""
    served = StageSpec.read(stage / "spec.json")
    spec = producer_spec(served, name, fingerprint(kind("produce").run.split(":")[0]))
    Feed(meeting_place(served), FEED["lease_s"])
    spec.write(stage / "producers" / name / "spec.json")
    return stage / "producers" / name


def _spec(inputs: Mapping[str, Path], store: Path, name: str, kind_name: str, config: dict, directory: Path) -> Path:
    for role, source in inputs.items():
        target = store / role / "k" / "out"
        if not os.path.lexists(target):
            target.parent.mkdir(parents=True)
            target.symlink_to(source)
    refs = {role: InputRef(role, "k", "d") for role in inputs}
    code = fingerprint(kind(kind_name).run.split(":")[0])
    StageSpec(name, kind_name, "key", config, refs, str(store), code).write(directory / "spec.json")
    return directory


class Producers:
    """Producers as processes, killed at the end."""

    def __init__(self, stage: Path, *names: str) -> None:
        self.stage, self.jobs = stage, {}
        for name in names:
            self.start(name)

    def start(self, name: str) -> None:
        self.jobs[name] = Forks(producer(self.stage, name))

    def kill(self, name: str) -> None:
        """With -9, once it has sent something."""
        until = time.monotonic() + 60
        while not self.said(name).get("sent"):
            assert time.monotonic() < until and not self.jobs[name].ended(), f"producer {name} sends nothing"
            time.sleep(0.02)
        self.jobs[name].kill()
        self.jobs[name].codes()

    def said(self, name: str) -> dict[str, float]:
        """What it last said of itself."""
        stage = StageSpec.read(self.stage / "spec.json")
        beat = meeting_place(stage) / "producers" / f"{name_there(stage, name)}.json"
        return json.loads(beat.read_text()) if beat.exists() else {}

    def __enter__(self) -> Producers:
        return self

    def __exit__(self, *_: object) -> None:
        for job in self.jobs.values():
            job.kill()
            job.codes()
