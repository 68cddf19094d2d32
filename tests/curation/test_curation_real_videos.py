"""Real clips (third-party data: read from STEPVIDEO_SHARED, never committed), a few of each kind of trouble."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from stepvideo.curation import raw, stage
from stepvideo.curation.config import CurateConfig, PartsRuntime, RawConfig, RawRuntime, SegmentConfig, TagsConfig
from stepvideo.curation.probe import FrameReader
from stepvideo.curation.segment import CutDetector
from stepvideo.data.clips import load_catalog, read_clip
from stepvideo.data.video_io import read_video

SHARED = Path(os.environ.get("STEPVIDEO_SHARED", Path(__file__).parents[3] / "shared"))
VIDEOS = SHARED / "videos"
pytestmark = pytest.mark.skipif(not VIDEOS.is_dir(), reason=f"needs the real clips in {VIDEOS} (set STEPVIDEO_SHARED)")

UNICODE = "made name with spaces & ünïcode 空.mp4"  # 10-bit hevc, too
SOUND = (UNICODE, "made_rotated90.mp4", "made_vfr.mp4", "made_blackborder_480x360+80+60.mp4")
BROKEN = {
    "broken_truncated_60pct.mp4": "truncated",
    "broken_no_moov.mp4": "truncated",
    "broken_bitflips.mp4": "damaged",
    "broken_audio_only.mp4": "no_video",
    "broken_zero_bytes.mp4": "empty",
    "broken_not_a_video.mp4": "unreadable",
}


@pytest.fixture
def curated(tmp_path: Path, context) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in (*SOUND, *BROKEN):
        shutil.copyfile(VIDEOS / name, folder / name)
    first = context("raw", RawConfig(content=raw.content_digest(folder), runtime=RawRuntime(path=str(folder))))
    raw.run(first)
    config = CurateConfig(tags=TagsConfig(motion_pairs=4), runtime=PartsRuntime(workers=2))
    ctx = context("curate", config, raw=first.out)
    metrics = stage.run(ctx)
    assert (metrics["files"], metrics["quarantined"]) == (len(SOUND) + len(BROKEN), len(BROKEN))
    return ctx.out


def test_each_kind_of_trouble_ends_where_it_belongs(curated: Path) -> None:
    refused = {r["file"]: r for r in pq.read_table(curated / "quarantine.parquet").to_pylist()}
    assert {name: r["reason"] for name, r in refused.items()} == BROKEN
    assert refused["broken_bitflips.mp4"]["frames"] >= 236  # of 248: recovered, and recorded

    clips = {c.source["file"]: c for c in load_catalog(curated) if c.kind == "clip"}
    assert set(clips) == set(SOUND)
    for name, clip in clips.items():
        video = read_clip(curated, clip, 0, 6)
        source = read_video(VIDEOS / name, clip.source["start"], 6)
        if clip.source["crop"]:
            x, y, w, h = clip.source["crop"]
            source = source[:, y : y + h, x : x + w]
        assert video.shape == source.shape
        assert np.abs(video.astype(int) - source).mean() < 4, name

    rotated = clips["made_rotated90.mp4"]
    assert (rotated.height, rotated.width) == (704, 480)  # upright, without the camera's 8 black lines at each end
    x, y, w, h = clips["made_blackborder_480x360+80+60.mp4"].source["crop"]
    assert np.abs(np.subtract((x, y, w, h), (80, 60, 480, 360))).max() <= 2
    assert clips[UNICODE].captions["title"] == {"zh": ["made name with spaces ünïcode 空"]}
    assert all(c.source["start"] >= 3 for c in clips.values())


def detected(name: str) -> CutDetector:
    reader, detector = FrameReader(VIDEOS / name), CutDetector(SegmentConfig())
    for picture in reader.pictures():
        detector.add(picture)
    return detector.finish()


@pytest.mark.parametrize("name", ["made_montage_hardcuts.mp4", "made_montage_mpegts.ts", "made_flash_handheld.mp4"])
def test_hard_cuts_with_known_truth(name: str) -> None:
    truth = json.loads((VIDEOS / "GROUND_TRUTH_made.json").read_text())[name]["hard_cuts"]
    found = detected(name)
    assert len(found.cuts) == len(truth) and all(abs(a - b) <= 1 for a, b in zip(found.cuts, truth))
    assert found.transitions == []


def test_a_dissolve_in_an_old_film() -> None:
    found = detected("nasa_13013_180p.mp4")
    assert found.cuts == [202]
    (dissolve,) = found.transitions
    assert abs(dissolve.start - 126) <= 3 and abs(dissolve.end - 150) <= 3


@pytest.mark.parametrize(("name", "least"), [("broken_bitflips.mp4", 236), ("decord_corrupted_720p.mp4", 49)])
def test_damaged_files_give_back_what_can_be_decoded(name: str, least: int) -> None:
    """Bars of the study: frames that a packet-by-packet decoder gets out of them (OpenCV stops at 75 and 28)."""
    reader = FrameReader(VIDEOS / name)
    assert sum(1 for _ in reader.pictures()) >= least
    assert reader.health.bad_packets > 0
    (unsound,) = reader.unsound()
    assert unsound[1] in (*reader.health.keyframes, reader.health.frames)
