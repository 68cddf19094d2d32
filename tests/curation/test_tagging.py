"""The stage `tags`: one decode for all backends, nothing lost, nothing done twice, and what cannot be is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from known_videos import encode, shot

from stepvideo.config import load
from stepvideo.curation import parts, stage, tagging
from stepvideo.curation.backends import Absent
from stepvideo.curation.clip_frames import ClipFrames
from stepvideo.curation.config import CurateConfig
from stepvideo.curation.tagging_config import BACKENDS, TaggingConfig
from stepvideo.curation.tags import sample_positions
from stepvideo.data.clips import load_catalog, read_clip
from stepvideo.data.video_io import write_image
from stepvideo.errors import ConfigError, Preempted, StepVideoError
from stepvideo.stage import StageContext
from stepvideo.storage import checksums


class Bright:
    """Mean of the first sampled frame, and the number of frames."""

    version, columns, note = "1", {"bright": "double", "count": "int32", "says": "list<float>"}, "a stand-in"
    calls: list[str] = []

    def __init__(self, weights: str = "") -> None:
        pass

    def __call__(self, clip: ClipFrames):
        self.calls.append(clip.clip_id)
        return {"bright": float(clip.frames[0].mean()), "count": len(clip.grey), "says": [0.5, 1.0]}


class Missing(Bright):
    columns = {"score": "double"}

    def __init__(self, weights: str = "") -> None:
        raise Absent("no weights were given; set weights.nsfw")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("tagging")
    (root / "media").mkdir()
    for i in range(5):
        encode(root / f"media/{i}.mp4", shot(i, 30 + i))
    write_image(root / "media/still.png", shot(9, 1)[0])
    for name in ("out", "work"):
        (root / name).mkdir()
    stage.run(StageContext(CurateConfig(frames_per_clip=0), {"raw": root / "media"}, root / "out", root / "work"))
    return root / "out"


@pytest.fixture
def fakes(monkeypatch):
    """Backends of this file, in this process."""
    known = {("still", "difference"): Bright, ("nsfw", "nudenet"): Missing}
    monkeypatch.setattr(tagging, "backend", lambda table, name: known[table, name])

    def in_process(work, chunks, on_failure, stop, **_):
        for number, items in chunks:
            if stop():
                raise Preempted
            yield number, work(items)

    monkeypatch.setattr(parts, "run_chunks", in_process)
    monkeypatch.setattr(Bright, "calls", [])
    tagging._made.cache_clear()


CONFIG = {"backends": {"still": "difference", "nsfw": "nudenet"}, "chunk": 2}
ONLY = dict.fromkeys(BACKENDS, "") | CONFIG["backends"]


def config(**changes) -> TaggingConfig:
    return load(TaggingConfig, {**CONFIG, "backends": ONLY, **changes})


def test_every_clip_has_its_row_and_every_table_says_what_it_is(catalog, context, fakes):
    ctx = context("a", config(), curate=catalog)
    metrics = tagging.run(ctx)
    clips = load_catalog(catalog)
    assert metrics == {"clips": 6.0, "failed": 0.0, "still": 1.0, "nsfw": 0.0}
    table = pq.read_table(ctx.out / "tables/still.parquet")
    assert table["clip_id"].to_pylist() == [c.clip_id for c in clips] == Bright.calls
    assert table["count"].to_pylist() == [c.frames for c in clips]
    assert table["says"].to_pylist() == [[0.5, 1.0]] * 6
    first = [read_clip(catalog, c)[sample_positions(c.frames, 8)[0]].mean() for c in clips]
    assert table["bright"].to_pylist() == pytest.approx(first)
    said = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
    assert said == {"backend": "difference", "version": "1", "note": "a stand-in", "absent": ""}
    absent = pq.read_table(ctx.out / "tables/nsfw.parquet")
    assert absent["score"].null_count == 6 and b"set weights.nsfw" in absent.schema.metadata[b"absent"]


def test_what_was_done_before_is_not_done_again(catalog, context, fakes):
    whole = context("whole", config(), curate=catalog)
    tagging.run(whole)
    ctx = context("stopped", config(), curate=catalog)
    Bright.calls.clear()
    ctx.should_stop = lambda: len(Bright.calls) >= 4  # type: ignore[method-assign]
    with pytest.raises(Preempted):
        tagging.run(ctx)
    ctx.should_stop = lambda: False  # type: ignore[method-assign]
    tagging.run(ctx)
    assert len(Bright.calls) == len(set(Bright.calls)) == 6
    assert checksums(ctx.out) == checksums(whole.out)


def test_a_clip_that_cannot_be_read_is_named_and_the_others_are_there(catalog, context, fakes, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(catalog, broken)
    lost = load_catalog(broken)[2]
    (broken / lost.file).write_bytes(b"nothing")
    ctx = context("b", config(), curate=broken)
    metrics = tagging.run(ctx)
    assert metrics["failed"] == 1.0 and metrics["still"] == pytest.approx(5 / 6)
    (row,) = pq.read_table(ctx.out / "failed.parquet").to_pylist()
    assert row["clip_id"] == lost.clip_id and row["reason"] == "unreadable" and str(broken) not in row["detail"]


def test_frames_are_sampled_evenly_and_small_ones_keep_their_size():
    frames = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 144, 256, 3), np.uint8)
    seen = ClipFrames.of("x", 40, iter(frames), 24.0)
    assert seen.positions == [2, 7, 12, 17, 22, 27, 32, 37] and [int(f[0, 0, 0]) for f in seen.frames] == seen.positions
    assert seen.grey.shape == (40, 128, 228) and [int(g[5, 5]) for g in seen.grey] == list(range(40))
    assert len(seen.flows) == 39 and seen.flows[0].shape == (128, 228, 2)
    assert ClipFrames.of("y", 1, iter(frames[:1, :48, :64]), 0.0).grey.shape == (1, 48, 64)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"backends": {"texts": "rapidocr"}}, "no table 'texts'; there are .*text"),
        ({"backends": {"text": "tesseract"}}, "backends.text='tesseract': give one of rapidocr"),
        ({"runtime": {"weights": {"aesthetic": "x"}}}, "runtime.weights.aesthetic: backends has no table"),
        ({"kinds": ["video"]}, "'video' is none of clip"),
        ({"chunk": 0}, "chunk=0"),
    ],
)
def test_mistakes_are_named(given, said):
    with pytest.raises(ConfigError, match=said):
        load(TaggingConfig, given)


def test_a_catalog_without_such_rows_is_an_error(catalog, context, fakes):
    with pytest.raises(StepVideoError, match="has no frame"):
        tagging.run(context("c", config(kinds=["frame"]), curate=catalog))
