"""The `render` stage: training clips as mp4 files and stills as PNG files, with `sidecars.jsonl` (format: `sidecar`).

Every file depends on the config and its own index only, so neither the number of workers nor a restart changes a byte.
Only training combinations are rendered; they come in shuffled rounds, so that each is seen equally often unless
`rare_rate` says otherwise. Hard scenes (`hard_fraction`) are files of their own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stepvideo.errors import Preempted
from stepvideo.stage import StageContext
from stepvideo.world import media, sidecar
from stepvideo.world.attributes import Attrs, rare_combinations, train_combinations
from stepvideo.world.config import RenderConfig
from stepvideo.world.hard.scenes import plan_event, trainable
from stepvideo.world.render import NoRoom, Scene, draw, plan

CHUNK = 32  # files between two looks at should_stop()
STILLS, HARD = 1, 2  # streams of the seeds of images and of hard scenes; other videos use stream 0
FOLDERS = {0: "videos/{:06d}.mp4", STILLS: "images/{:06d}.png", HARD: "videos/hard-{:06d}.mp4"}


def choose(cfg: RenderConfig, index: int, stream: int = 0, attempt: int = 0) -> tuple[Attrs, ...]:
    """The attributes of file `index`: usually one description, sometimes two of different objects. Not of hard ones."""
    combos = train_combinations()
    turn, place = divmod(index, len(combos))
    first = combos[np.random.default_rng([cfg.seed, stream, turn, 17]).permutation(len(combos))[place]]
    if cfg.rare_rate < 1:
        first = _seldom_rare(first, cfg, index, stream)
    rng = np.random.default_rng([cfg.seed, stream, index, 18])
    if rng.random() >= cfg.two_object_fraction:
        return (first,)
    singles = [a for a in combos if a.count == 1]
    rng = np.random.default_rng([cfg.seed, stream, index, 19, attempt])
    while True:
        one, two = (singles[i] for i in rng.integers(len(singles), size=2))
        if one.colour != two.colour:
            return one, two


def _seldom_rare(chosen: Attrs, cfg: RenderConfig, index: int, stream: int) -> Attrs:
    """Another combination instead of most rare ones."""
    rng = np.random.default_rng([cfg.seed, stream, index, 20])
    if chosen not in rare_combinations() or rng.random() < cfg.rare_rate:
        return chosen
    usual = [a for a in train_combinations() if a not in rare_combinations()]
    return usual[int(rng.integers(len(usual)))]


def scene_of(cfg: RenderConfig, index: int, stream: int = 0) -> tuple[Scene, list[int]]:
    """The scene of file `index` and its seed; two objects that find no room together are replaced by two others."""
    seed = [cfg.seed, stream, index]
    if stream == HARD:
        pairs = trainable()
        turn, place = divmod(index, len(pairs))
        pair = pairs[np.random.default_rng([cfg.seed, stream, turn, 17]).permutation(len(pairs))[place]]
        return plan_event(pair[0], pair[1], seed, cfg)[0], seed
    if stream == STILLS:
        cfg = replace(cfg, frames=1, hard_fraction=0.0)
    for attempt in range(50):
        attrs = choose(cfg, index, stream, attempt)
        try:
            return plan([a.still() for a in attrs] if stream == STILLS else attrs, seed, cfg), seed
        except NoRoom:
            continue
    raise NoRoom(f"no room for the two objects of file {index} at {cfg.w}×{cfg.h}; lower two_object_fraction or frames")


def name_of(index: int, stream: int) -> str:
    return FOLDERS[stream].format(index)


def make(cfg: RenderConfig, index: int, stream: int, folder: Path) -> dict[str, Any]:
    """Write one file below `folder`, unless it is there, and return its sidecar record."""
    scene, seed = scene_of(cfg, index, stream)
    file, frames = name_of(index, stream), len(scene.bodies[0].path_t2)
    path = folder / file
    if not path.exists():
        pixels = draw(scene, cfg)
        if stream == STILLS:
            media.write_png(path, pixels[0])
        else:
            media.write_mp4(path, pixels, cfg.fps, cfg.codec)
    shots = [sidecar.shot(scene, 0, frames, seed, cfg.captions_per_kind)]
    return sidecar.record(file, shots, (frames, cfg.h, cfg.w), 0 if stream == STILLS else cfg.fps, seed)


def _make_many(cfg: RenderConfig, jobs: list[tuple[int, int]], folder: Path) -> list[dict[str, Any]]:
    cv2.setNumThreads(1)
    return [make(cfg, index, stream, folder) for index, stream in jobs]


def _records(ctx: StageContext, chunks: list[list[tuple[int, int]]], workers: int) -> Iterator[list[dict[str, Any]]]:
    """Records of the chunks as they get done; in-process for `workers` < 2."""
    if workers < 2:
        for chunk in chunks:
            if ctx.should_stop():
                raise Preempted
            yield _make_many(ctx.config, chunk, ctx.work)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(_make_many, ctx.config, chunk, ctx.work) for chunk in chunks]
        for future in as_completed(futures):
            yield future.result()
            if ctx.should_stop():
                pool.shutdown(cancel_futures=True)
                raise Preempted


def _publish(source: Path, target: Path) -> None:
    """Hard link (or copy) from the scratch to the artifact, so that a kill in between loses nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def run(ctx: StageContext) -> dict[str, float]:
    """Render into `ctx.out/{videos,images}` and `ctx.out/sidecars.jsonl`; `runtime.workers` processes share the work.

    Returns:
        clips, images, frames (of all clips), combinations (different ones seen), bytes.
    """
    cfg: RenderConfig = ctx.config
    if ctx.rank:
        return {}
    shares = {0: 1.0, STILLS: cfg.still_fraction, HARD: cfg.hard_fraction}
    jobs = [(i, stream) for stream, share in shares.items() for i in range(round(cfg.n_clips * share))]
    chunks = [jobs[i : i + CHUNK] for i in range(0, len(jobs), CHUNK)]
    records: list[dict[str, Any]] = []
    for part in _records(ctx, chunks, cfg.runtime.workers):
        records += part
        ctx.sink.progress(len(records), len(jobs), "files")
    records.sort(key=lambda r: (r["kind"] == "image", r["file"]))
    for r in records:
        _publish(ctx.work / r["file"], ctx.out / r["file"])
    sidecar.write(ctx.out, records)
    clips = [r for r in records if r["kind"] == "video"]
    seen = {tuple(sorted(a.items())) for r in clips for a in r["shots"][0]["attributes"]}
    return {
        "clips": float(len(clips)),
        "images": float(len(records) - len(clips)),
        "frames": float(sum(r["frames"] for r in clips)),
        "combinations": float(len(seen)),
        "bytes": float(sum((ctx.out / r["file"]).stat().st_size for r in records)),
    }
