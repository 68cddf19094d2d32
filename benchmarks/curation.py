"""What the curation costs by step, in CPU-seconds a clip, and what the pipeline adds to its parts.

    OMP_NUM_THREADS=1 python benchmarks/curation.py [--json] [--check] [--only decode,steps,workers] [--film NAME]

decode    frames per CPU-second of our reader, which also takes health and damage down, beside bare PyAV's; in turns
steps     the stages `curate` and `tags` over one film in one process: CPU-seconds a clip by step, and the rest, which
          is rows, Parquet, hashes and links; networks are loaded once a worker, and counted apart
workers   wall time of `curate` with one worker and with two; needs two cores that nobody else uses

Beside them stand the figures of the study (shared/notes/data.md, 5), where there are some for the same work. They were
measured on other days: only ratios of one run are held against bars.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2

from stepvideo.curation import cut, measure, parts, raw, stage, tagging, tags
from stepvideo.curation.backends.registry import backend
from stepvideo.curation.clip_frames import ClipFrames, Window
from stepvideo.curation.config import CurateConfig, PartsRuntime, RawConfig, RawRuntime
from stepvideo.curation.pool import PRELOAD
from stepvideo.curation.probe import FrameReader
from stepvideo.curation.segment import CutDetector
from stepvideo.curation.tagging_config import TaggingConfig
from stepvideo.curation.verify import Ends
from stepvideo.data.clips import load_catalog
from stepvideo.data.video_io import VideoWriter
from stepvideo.stage import StageContext

VIDEOS = Path(os.environ.get("STEPVIDEO_SHARED", Path(__file__).parents[2] / "shared")) / "videos"
DECODED = ("pyscenedetect_testvideo_720p.mp4", "bbb_480p_30s.mp4", "bbb_1080p60_2s.mp4")
FILM = "pyscenedetect_testvideo_720p.mp4"
COPIED, COPIES = "frog_toy_480p.mp4", 8
BARS = {"decode": 1.10, "overhead": 0.10, "workers": 1.6}
STUDY = {  # CPU-seconds: a frame, a pair of frames, or a clip
    "decode": "1/733 a 720p frame",
    "segmentation": "1/612 - 1/733 a 720p frame",
    "quality": ".040 a clip",
    "motion": "1/290 to 1/213 a pair",
    "tag text": "2.5 to 4.8 a clip",
    "tag nsfw": ".18 a clip",
}


class Clock:
    """CPU time by step; what a step spends inside another is the other's."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        self._inside = [0.0]

    def step(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            self._inside.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                took = time.process_time() - start
                self.spent[name] += took - self._inside.pop()
                self._inside[-1] += took

        return timed

    def steps(self, name: str, function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """The same for every step of an iterator."""

        def timed(*args: Any, **kwargs: Any) -> Iterator[Any]:
            following = self.step(name, partial(next, function(*args, **kwargs), None))
            while (item := following()) is not None:
                yield item

        return timed


def bare(path: Path) -> int:
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return sum(1 for _ in container.decode(stream))


def decode(repeats: int = 3) -> dict[str, float]:
    """The fastest of some runs each: a shared machine only ever slows down."""
    ours = lambda path: sum(1 for _ in FrameReader(path).pictures())  # noqa: E731
    found: dict[str, float] = {}
    for name in DECODED:
        took: dict[Any, list[float]] = {bare: [], ours: []}
        frames = 0
        for _ in range(repeats):
            for read, times in took.items():
                start = time.process_time()
                frames = read(VIDEOS / name)
                times.append(time.process_time() - start)
        best = {read: min(times) for read, times in took.items()}
        short = name.split(".")[0]
        found |= {f"{short}_bare": round(frames / best[bare]), f"{short}_ours": round(frames / best[ours])}
        found["ratio"] = round(max(found.get("ratio", 0.0), best[ours] / best[bare]), 3)
    return found


def context(folder: Path, name: str, config: Any, **inputs: Path) -> StageContext:
    out, work = folder / name, folder / f"{name}.work"
    for place in (out, work):
        place.mkdir(parents=True)
    return StageContext(config, inputs, out, work)


def indexed(folder: Path, media: Path) -> Path:
    ctx = context(folder, "raw", RawConfig(content=raw.content_digest(media), runtime=RawRuntime(path=str(media))))
    raw.run(ctx)
    return ctx.out


def here(work: Callable[[list[Any]], list[Any]], todo: list[tuple[int, list[Any]]], **_: Any) -> Iterator[Any]:
    """An executor without processes."""
    return ((i, work(items)) for i, items in todo)


def steps(film: str) -> dict[str, float]:
    for module in PRELOAD:  # as the server that workers are forked from does
        importlib.import_module(module)
    start = time.process_time()
    for table, name in TaggingConfig().backends.items():  # what is imported and planned once is not a clip's
        if name:
            backend(table, name)()
    found = {"loaded once": round(time.process_time() - start, 4)}
    clock = Clock()
    named = [
        (FrameReader, "pictures", "decode", clock.steps),
        (CutDetector, "add", "segmentation", clock.step),
        (CutDetector, "finish", "segmentation", clock.step),
        (cut, "frame_array", "pixels", clock.step),
        (tags, "bright_shares", "border", clock.step),
        (tags, "border_crop", "border", clock.step),
        (tags, "scores", "quality", clock.step),
        (tags.MotionMeter, "add", "motion", clock.step),
        (VideoWriter, "add", "cut", clock.step),
        (VideoWriter, "close", "cut", clock.step),
        (Ends, "add", "verify", clock.step),
        (Ends, "check", "verify", clock.step),
        (Window, "pictures", "tag decode", clock.steps),
        (ClipFrames, "of", "tag frames", clock.step),
    ]
    made = clock.step("tag load", measure._made)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "media").mkdir()
        shutil.copy(VIDEOS / film, folder / "media" / film)
        source = indexed(folder, folder / "media")
        patches = [patch.object(owner, what, how(step, getattr(owner, what))) for owner, what, step, how in named]
        patches += [
            patch.object(parts, "_executor", lambda ctx: here),
            patch.object(measure, "_made", lambda table: clock.step(f"tag {table.name}", made(table))),
        ]
        for each in patches:
            each.start()
        try:
            curate = context(folder, "curate", CurateConfig(), raw=source)
            start = time.process_time()
            stage.run(curate)
            tagging.run(context(folder, "tags", TaggingConfig(), curate=curate.out))
            total = time.process_time() - start
        finally:
            for each in patches:
                each.stop()
        clips = sum(c.kind == "clip" for c in load_catalog(curate.out))
    known = sum(clock.spent.values())
    found |= {"clips": float(clips)} | {k: round(v / clips, 4) for k, v in clock.spent.items()}
    return found | {"rest": round((total - known) / clips, 4), "overhead": round(total / known - 1, 4)}


def workers() -> dict[str, float]:
    """Copies of one file that differ in bytes nobody reads, so that there is equal work for both."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        media = Path(name) / "media"
        media.mkdir()
        data = (VIDEOS / COPIED).read_bytes()
        for i in range(COPIES):
            padding = i + 1
            (media / f"{i}.mp4").write_bytes(data + (8 + padding).to_bytes(4, "big") + b"free" + bytes(padding))
        source = indexed(Path(name), media)
        with patch.object(stage, "chunked", lambda sources: [[s] for s in sources]):
            for n in (1, 2):
                config = CurateConfig(runtime=PartsRuntime(workers=n))
                start = time.perf_counter()
                stage.run(context(Path(name), f"curate{n}", config, raw=source))
                found[f"wall_{n}"] = round(time.perf_counter() - start, 2)
    return found | {"ratio": round(found["wall_1"] / found["wall_2"], 2)}


def missed(found: dict[str, dict[str, float]]) -> list[str]:
    told = []
    if "decode" in found and found["decode"]["ratio"] > BARS["decode"]:
        told.append(f"our decoding takes {found['decode']['ratio']} of bare PyAV's time; the bar is {BARS['decode']}")
    if "steps" in found and found["steps"]["overhead"] > BARS["overhead"]:
        told.append(
            f"the pipeline adds {found['steps']['overhead']:.1%} to its steps; the bar is {BARS['overhead']:.0%}"
        )
    if "workers" in found and found["workers"]["ratio"] < BARS["workers"]:
        told.append(f"two workers are {found['workers']['ratio']} × one; the bar is {BARS['workers']}")
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    parser.add_argument("--only", default="decode,steps,workers")
    parser.add_argument("--film", default=FILM, help="one of STEPVIDEO_SHARED/videos (default: %(default)s)")
    args = parser.parse_args()
    if not VIDEOS.is_dir():
        parser.error(f"needs the clips in {VIDEOS}; set STEPVIDEO_SHARED")
    cv2.setNumThreads(1)
    measures = {"decode": decode, "steps": partial(steps, args.film), "workers": workers}
    found = {part: measures[part]() for part in args.only.split(",")}
    told = missed(found)
    if args.json:
        print(json.dumps(found | {"study": STUDY, "missed": told}))
    else:
        for part, values in found.items():
            print(part)
            for name, value in values.items():
                print(f"  {name:32s}{value:10g}   {STUDY.get(name, '') if part == 'steps' else ''}")
        print("\n".join(told) or "every bar holds")
    return int(args.check and bool(told))


if __name__ == "__main__":
    sys.exit(main())
