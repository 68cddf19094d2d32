"""The whole `curate` stage on files with known truth: what comes out is exact, complete, and the same every time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from known_videos import encode, montage, numbers, shot

from stepvideo.artifact import content_digest
from stepvideo.curation import stage
from stepvideo.curation.config import CurateConfig, EncodeConfig, PartsRuntime
from stepvideo.data.clips import Clip, load_catalog, read_clip
from stepvideo.data.video_io import write_image
from stepvideo.errors import Preempted, StepVideoError
from stepvideo.storage import checksums

ROOT = Path(__file__).parents[2]
BORDER = (8, 12, 64, 48)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A little of everything; laid out as any tree of media files."""
    root = tmp_path_factory.mktemp("media")
    encode(root / "single.mp4", shot(11, 40))
    encode(root / "montage.mp4", montage([30, 25, 40]))
    encode(root / "montage.mkv", montage([26, 34]), form="matroska", pix_fmt="yuv444p")
    encode(root / "stream.ts", montage([33, 31]), form="mpegts")
    encode(root / "vfr.mp4", montage([30, 30]), times=[i + (i // 7) * 2 for i in range(60)])
    encode(root / "web.webm", shot(12, 40), codec="libvpx", form="webm")
    encode(root / "odd.mkv", shot(13, 40, height=65, width=71), form="matroska", pix_fmt="yuv444p")
    x, y, w, h = BORDER
    framed = np.zeros((40, 72, 80, 3), np.uint8)
    framed[:, y : y + h, x : x + w] = shot(14, 40, height=h, width=w)
    encode(root / "framed.mp4", framed, pix_fmt="yuv444p")
    encode(root / "short.mp4", shot(15, 12))
    write_image(root / "still.png", shot(16, 1)[0])
    write_image(root / "tiny.png", shot(16, 1, height=16, width=60)[0])
    (root / "copy of single.mp4").write_bytes((root / "single.mp4").read_bytes())
    (root / "zero.mp4").touch()
    (root / "half.png").write_bytes((root / "still.png").read_bytes()[:-200])
    (root / "text.mp4").write_text("not a video" * 100)
    data = (root / "montage.mp4").read_bytes()
    (root / "cut off.mp4").write_bytes(data[: len(data) // 2])
    shots = [
        {
            "start": a,
            "end": b,
            "captions": {"short": {"en": [f"shot {i}"], "zh": [f"镜头 {i}"]}},
            "attributes": [{"n": i}],
        }
        for i, (a, b) in enumerate([(0, 30), (30, 55), (55, 95)])
    ]
    (root / "sidecars.jsonl").write_text(json.dumps({"file": "montage.mp4", "shots": shots}) + "\n")
    return root


def curate(context: Callable, folder: Path, name: str = "curate", **options: object) -> tuple[Path, dict[str, float]]:
    ctx = context(name, CurateConfig(**({"runtime": PartsRuntime(workers=2)} | options)), media=folder)
    return ctx.out, stage.run(ctx)


@pytest.fixture(scope="module")
def curated(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from stepvideo.stage import StageContext

    root = tmp_path_factory.mktemp("curated")
    for name in ("out", "work"):
        (root / name).mkdir()
    stage.run(
        StageContext(CurateConfig(runtime=PartsRuntime(workers=2)), {"media": folder}, root / "out", root / "work")
    )
    return root / "out"


def clips_of(curated: Path, file: str, kind: str = "clip") -> list[Clip]:
    return [c for c in load_catalog(curated) if c.source["file"] == file and c.kind == kind]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("copy of single.mp4", [(3, 37)]),
        ("montage.mp4", [(3, 27), (33, 52), (58, 92)]),
        ("montage.mkv", [(3, 23), (29, 57)]),
        ("stream.ts", [(3, 30), (36, 61)]),
        ("vfr.mp4", [(3, 27), (33, 57)]),
        ("web.webm", [(3, 37)]),
        ("odd.mkv", [(3, 37)]),
    ],
)
def test_clips_hold_exactly_the_frames_of_their_shot(curated: Path, file: str, expected: list[tuple[int, int]]) -> None:
    clips = clips_of(curated, file)
    assert [(c.source["start"], c.source["end"]) for c in clips] == expected
    for c in clips:
        video = read_clip(curated, c)
        assert video.shape == (c.frames, c.height, c.width, 3)
        assert numbers(video) == list(range(c.source["start"], c.source["end"]))
        assert numbers(read_clip(curated, c, 5, 7)) == list(range(c.source["start"] + 5, c.source["start"] + 12))


def test_pictures_survive_the_cut(curated: Path, folder: Path) -> None:
    """Near-lossless: compared with the source's own decoded frames."""
    from stepvideo.data.video_io import read_video

    for file in ("montage.mp4", "montage.mkv"):
        source = read_video(folder / file)
        for c in clips_of(curated, file):
            want = source[c.source["start"] : c.source["end"]].astype(float)
            error = np.abs(read_clip(curated, c) - want).mean()
            assert error < 3.0, (file, error)


def test_a_single_shot_keeps_its_file_and_its_bytes(curated: Path, folder: Path) -> None:
    clip, *_ = clips_of(curated, "copy of single.mp4")
    assert clip.first_frame == 3
    assert (curated / clip.file).read_bytes() == (folder / "single.mp4").read_bytes()


def test_black_borders_are_cut_off(curated: Path) -> None:
    (clip,) = clips_of(curated, "framed.mp4")
    assert np.abs(np.subtract(clip.source["crop"], BORDER)).max() <= 2
    assert read_clip(curated, clip)[..., -3:, :].mean() > 60
    assert abs(clip.width - BORDER[2]) <= 2


def test_captions_come_from_the_shot_or_from_the_file_name(curated: Path) -> None:
    first, second, third = clips_of(curated, "montage.mp4")
    assert third.captions == {"short": {"zh": ["镜头 2"], "en": ["shot 2"]}}
    assert (second.caption_source, second.attributes) == ("sidecar", [{"n": 1}])
    (other,) = clips_of(curated, "framed.mp4")
    assert (other.caption_source, other.captions) == ("filename", {"title": {"en": ["framed"]}})
    assert other.attributes is None


def test_single_frames_and_stills_are_in_the_catalog(curated: Path) -> None:
    parent = clips_of(curated, "montage.mp4")[1]
    frame = clips_of(curated, "montage.mp4", "frame")[1]
    image = read_clip(curated, frame)
    assert image.shape == (1, 64, 64, 3)
    assert numbers(image) == [frame.source["start"]]
    assert parent.source["start"] < frame.source["start"] < parent.source["end"]
    assert frame.captions == parent.captions
    (still,) = clips_of(curated, "still.png", "image")
    assert (read_clip(curated, still) == shot(16, 1)).all()


def test_no_file_is_lost_and_every_refusal_has_its_reason(curated: Path, folder: Path) -> None:
    files = {r["file"]: r for r in pq.read_table(curated / "files.parquet").to_pylist()}
    assert sorted(files) == sorted(p.name for p in folder.iterdir() if p.suffix != ".jsonl")
    refused = {r["file"]: r["reason"] for r in pq.read_table(curated / "quarantine.parquet").to_pylist()}
    assert refused == {
        "cut off.mp4": "truncated",
        "half.png": "unreadable",
        "short.mp4": "too_short",
        "single.mp4": "duplicate",
        "text.mp4": "unreadable",
        "tiny.png": "too_small",
        "zero.mp4": "empty",
    }
    funnel = json.loads((curated / "funnel.json").read_text())
    assert funnel["files"] == funnel["accepted"] + sum(funnel["quarantined"].values()) == len(files)
    assert all(files[f]["detail"] for f in refused)
    assert not any(str(folder) in f["detail"] for f in files.values())  # the same bytes wherever the files lie


def test_ids_are_unique_and_name_the_content(curated: Path, folder: Path, context) -> None:
    ids = [c.clip_id for c in load_catalog(curated)]
    assert len(set(ids)) == len(ids)
    moved = folder.parent / "renamed"
    moved.mkdir(exist_ok=True)
    (moved / "other.mp4").write_bytes((folder / "montage.mp4").read_bytes())
    out, _ = curate(context, moved)
    assert {c.clip_id for c in load_catalog(out)} == {
        c.clip_id for k in ("clip", "frame") for c in clips_of(curated, "montage.mp4", k)
    }


def test_the_result_does_not_depend_on_workers_or_chunks(curated: Path, folder: Path, context, monkeypatch) -> None:
    want = content_digest(checksums(curated))
    monkeypatch.setattr("stepvideo.curation.sources.CHUNK_FILES", 3)
    out, _ = curate(context, folder, runtime=PartsRuntime(workers=1))
    assert content_digest(checksums(out)) == want


def test_a_killed_run_goes_on_from_its_parts_to_the_same_bytes(
    curated: Path, folder: Path, context, monkeypatch
) -> None:
    monkeypatch.setattr("stepvideo.curation.sources.CHUNK_FILES", 4)
    first = context("resumed", CurateConfig(runtime=PartsRuntime(workers=1)), media=folder)
    asked = iter([False, False, True])
    monkeypatch.setattr(first, "should_stop", lambda: next(asked, True))
    with pytest.raises(Preempted):
        stage.run(first)
    parts = sorted((first.work / "parts").glob("[0-9]*.files.parquet"))
    assert 1 <= len(parts) < 4
    before = {p: p.stat().st_mtime_ns for p in parts}
    first.out.rmdir()
    second = context("resumed", CurateConfig(runtime=PartsRuntime(workers=2)), media=folder)
    stage.run(second)
    assert content_digest(checksums(second.out)) == content_digest(checksums(curated))
    assert {p: p.stat().st_mtime_ns for p in parts} == before  # reused, not made again


def test_every_clip_can_be_encoded(folder: Path, context, tmp_path: Path) -> None:
    only = tmp_path / "only"
    only.mkdir()
    (only / "single.mp4").write_bytes((folder / "single.mp4").read_bytes())
    out, _ = curate(context, only, encode=EncodeConfig(keep_source=False))
    (clip,) = clips_of(out, "single.mp4")
    assert clip.first_frame == 0
    assert numbers(read_clip(out, clip)) == list(range(3, 37))


def test_a_folder_of_broken_files_only_is_an_error_with_the_reasons(context, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.mp4").touch()
    (broken / "b.mp4").write_text("x" * 100)
    with pytest.raises(StepVideoError, match=r"1 empty, 1 unreadable"):
        curate(context, broken)


def test_memory_is_bounded(context, tmp_path: Path) -> None:
    """A picture bomb is refused in its worker; its neighbours are kept."""
    import struct
    import zlib

    media = tmp_path / "bomb"
    media.mkdir()
    write_image(media / "good.png", shot(1, 1)[0])
    side = 28_000  # 28,000² RGB = 2.4 GB decoded
    raw = zlib.compressobj(1)
    rows = b"".join(raw.compress(bytes(1 + 3 * side)) for _ in range(side)) + raw.flush()

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (media / "bomb.png").write_bytes(png)
    config = CurateConfig(runtime=PartsRuntime(workers=1))
    config.health.memory_limit_mb = 1500
    ctx = context("bomb", config, media=media)
    stage.run(ctx)
    rows_out = {r["file"]: r for r in pq.read_table(ctx.out / "files.parquet").to_pylist()}
    assert rows_out["good.png"]["status"] == "accepted"
    assert rows_out["bomb.png"]["status"] == "quarantined"
    assert rows_out["bomb.png"]["reason"] == "memory"


def test_ranks_share_the_files_out_to_the_same_bytes(context, tmp_path: Path, monkeypatch) -> None:
    """Two jobs on one `work`, as `runtime.nproc=2` or a Slurm array starts them; the later one finds half done."""
    monkeypatch.setattr("stepvideo.curation.sources.CHUNK_FILES", 2)
    media = tmp_path / "many"
    for i in range(12):
        encode(media / f"{i:02d}.mp4", shot(i, 30))
    alone = context("alone", CurateConfig(), media=media)
    stage.run(alone)
    first = context("shared", CurateConfig(), media=media)
    second = replace(first, rank=1, world_size=2)
    assert stage.run(second) == {} and not any(first.out.iterdir())
    theirs = {p: p.stat().st_mtime_ns for p in (first.work / "parts").iterdir()}
    assert len(theirs) == 2 * 3
    stage.run(replace(first, world_size=2))
    assert content_digest(checksums(first.out)) == content_digest(checksums(alone.out))
    assert {p: p.stat().st_mtime_ns for p in theirs} == theirs


def test_kill_9_leaves_no_process_and_loses_no_finished_part(context, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("stepvideo.curation.sources.CHUNK_FILES", 2)
    media = tmp_path / "many"
    for i in range(40):
        encode(media / f"{i:02d}.mp4", shot(i, 40))
    whole = context("whole", CurateConfig(runtime=PartsRuntime(workers=2)), media=media)
    stage.run(whole)
    killed = context("killed", CurateConfig(), media=media)
    code = (
        "import sys; from pathlib import Path; from stepvideo.curation import sources, stage\n"
        "from stepvideo.curation.config import CurateConfig, PartsRuntime\n"
        "from stepvideo.stage import StageContext; sources.CHUNK_FILES = 2\n"
        "media, out, work = map(Path, sys.argv[1:])\n"
        "stage.run(StageContext(CurateConfig(runtime=PartsRuntime(workers=2)), {'media': media}, out, work))\n"
    )
    argv = [sys.executable, "-c", code, str(media), str(killed.out), str(killed.work)]
    driver = subprocess.Popen(argv, cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(killed.work.glob("parts/[0-9]*.files.parquet"))) < 2:
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    driver.kill()
    driver.wait()
    while members := [p for p in psutil.process_iter() if _session(p) == driver.pid]:
        assert time.monotonic() < deadline, members
        time.sleep(0.1)
    assert not (killed.out / "catalog.parquet").exists()
    parts = {p: p.stat().st_mtime_ns for p in killed.work.glob("parts/[0-9]*.files.parquet")}
    shutil.rmtree(killed.out)
    again = context("killed", CurateConfig(runtime=PartsRuntime(workers=2)), media=media)
    stage.run(again)
    assert content_digest(checksums(again.out)) == content_digest(checksums(whole.out))
    assert {p: p.stat().st_mtime_ns for p in parts} == parts


def _session(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return 0
