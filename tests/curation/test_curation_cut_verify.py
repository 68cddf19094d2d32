"""Cut files are looked at again; damaged files give clips that never span a gap; no reader of raw files seeks."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
from known_videos import encode, montage, numbers, shot

from stepvideo.curation import cut
from stepvideo.curation.config import CurateConfig, EncodeConfig, HealthConfig
from stepvideo.curation.probe import FrameReader
from stepvideo.curation.records import Result, Source
from stepvideo.curation.verify import Ends, WrongCut
from stepvideo.data.video_io import VideoWriter, iter_frames, read_video, write_video


def process(path: Path, root: Path, **options: object) -> Result:
    config = CurateConfig(**({"frames_per_clip": 0} | options))  # type: ignore[arg-type]
    return cut.process(Source("raw", path.name, path, "video", "ab" * 32, path.stat().st_size), config, root)


def ends_of(video: np.ndarray, start: int, end: int) -> Ends:
    """What a cut of frames [start, end) is held against."""
    ends = Ends(end - start)
    for i in range(start - 1, end + 1):
        ends.add(i - start, video[i][..., ::-1])
    return ends


def test_a_right_cut_passes(tmp_path: Path) -> None:
    video = shot(1, 60, height=72, width=128)
    write_video(tmp_path / "a.mp4", video[5:50], 24.0)
    ends_of(video, 5, 50).check(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    ("start", "end", "said"), [(4, 49, "first"), (6, 51, "first"), (5, 49, "44 frames"), (4, 50, "46 frames")]
)
def test_a_cut_that_is_one_frame_off_is_refused(tmp_path: Path, start: int, end: int, said: str) -> None:
    video = shot(1, 60, height=72, width=128)
    write_video(tmp_path / "a.mp4", video[start:end], 24.0)
    with pytest.raises(WrongCut, match=said):
        ends_of(video, 5, 50).check(tmp_path / "a.mp4")


def test_a_last_frame_that_is_shown_twice_is_refused(tmp_path: Path) -> None:
    video = shot(1, 60, height=72, width=128)
    write_video(tmp_path / "a.mp4", np.concatenate([video[5:49], video[48:49]]), 24.0)
    with pytest.raises(WrongCut, match="last picture"):
        ends_of(video, 5, 50).check(tmp_path / "a.mp4")


def test_a_file_that_cannot_be_read_back_is_refused(tmp_path: Path) -> None:
    video = shot(1, 40)
    write_video(tmp_path / "a.mp4", video[5:30], 24.0)
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[: len(data) // 3])
    with pytest.raises(WrongCut, match="read back"):
        ends_of(video, 5, 30).check(tmp_path / "a.mp4")


def test_pictures_that_stand_still_pass(tmp_path: Path) -> None:
    video = np.repeat(shot(1, 1), 40, axis=0)
    write_video(tmp_path / "a.mp4", video[5:30], 24.0)
    ends_of(video, 5, 30).check(tmp_path / "a.mp4")


def test_a_clip_that_was_cut_wrongly_is_no_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that loses a frame costs the clips that it lost it in, with the reason, and leaves no file."""
    path = encode(tmp_path / "in.mp4", montage([30, 40]))
    plain = VideoWriter.add
    calls = iter(range(1000))
    monkeypatch.setattr(VideoWriter, "add", lambda self, *a: None if next(calls) == 10 else plain(self, *a))
    result = process(path, tmp_path / "out")
    assert (result.file["status"], result.file["clips"], result.file["failed_cuts"]) == ("accepted", 1, 1)
    assert "frames 3 to 26 were cut wrongly: the file has 23 frames instead of 24" in result.file["detail"]
    (row,) = result.clips
    assert row["source_start"] == 33
    assert [p.name for p in (tmp_path / "out").rglob("*.mp4")] == [Path(row["file"]).name]


def test_when_every_cut_is_wrong_the_file_is_quarantined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "in.mp4", shot(1, 40))
    plain = VideoWriter.add
    monkeypatch.setattr(VideoWriter, "add", lambda self, f, *a: plain(self, np.ascontiguousarray(f[:, ::-1]), *a))
    result = process(path, tmp_path / "out", encode=EncodeConfig(keep_source=False))
    assert (result.file["status"], result.file["reason"]) == ("quarantined", "wrong_cut")
    assert "first picture" in result.file["detail"]


def damaged(path: Path, frames: int = 120) -> Path:
    encode(path, shot(2, frames))
    data = bytearray(path.read_bytes())
    at = len(data) // 2
    data[at : at + 300] = bytes(b ^ 0x5A for b in data[at : at + 300])
    path.write_bytes(data)
    return path


def test_damaged_files_are_refused_unless_asked_for(tmp_path: Path) -> None:
    result = process(damaged(tmp_path / "in.mp4"), tmp_path / "out")
    assert (result.file["status"], result.file["reason"]) == ("quarantined", "damaged")


def test_recovered_clips_are_sound_and_span_no_gap(tmp_path: Path) -> None:
    path = damaged(tmp_path / "in.mp4")
    result = process(path, tmp_path / "out", health=HealthConfig(recover=True))
    assert result.file["status"] == "accepted" and result.file["detail"].startswith("recovered, damaged: ")
    assert len(result.clips) >= 2
    for row in result.clips:
        seen = numbers(read_video(tmp_path / "out" / row["file"]))
        assert seen == list(range(seen[0], seen[0] + row["frames"]))
    assert sum(row["frames"] for row in result.clips) >= 60


def test_a_truncated_file_gives_its_beginning_when_asked_for(tmp_path: Path) -> None:
    path = encode(tmp_path / "in.mp4", shot(2, 90), options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    assert process(path, tmp_path / "out").file["reason"] == "truncated"
    (row,) = process(path, tmp_path / "out", health=HealthConfig(recover=True)).clips
    seen = numbers(read_video(tmp_path / "out" / row["file"]))
    assert seen == list(range(3, 3 + row["frames"])) and row["frames"] > 30


@pytest.mark.parametrize(("form", "codec"), [("mpegts", "libx264"), ("matroska", "libx264"), ("webm", "libvpx")])
def test_readers_need_no_seeking(tmp_path: Path, form: str, codec: str) -> None:
    """Seeking lands elsewhere in MPEG-TS. Ours read a pipe, which cannot seek, just as well: no remux is needed."""
    data = encode(tmp_path / "a", shot(1, 50), codec, form).read_bytes()
    for read in (lambda p: [f[..., ::-1] for f in FrameReader(p).frames()], lambda p: list(iter_frames(p))):
        pipe = tmp_path / "pipe"
        pipe.unlink(missing_ok=True)
        os.mkfifo(pipe)
        writer = threading.Thread(target=pipe.write_bytes, args=[data], daemon=True)
        writer.start()
        assert numbers(np.stack(read(pipe))) == list(range(50))
        writer.join(timeout=10)


@pytest.mark.parametrize(
    ("name", "codec", "form", "times"),
    [
        ("a.mp4", "libx264", "mp4", None),
        ("a.mkv", "libx264", "matroska", None),
        ("a.webm", "libvpx", "webm", None),
        ("a.ts", "libx264", "mpegts", None),
        ("v.mp4", "libx264", "mp4", [i + (i // 5) * 2 for i in range(100)]),
    ],
)
def test_frames_of_a_dissolve_are_of_no_clip(
    tmp_path: Path, name: str, codec: str, form: str, times: list[int] | None
) -> None:
    """And what is cut beside it is exact."""
    numbered = shot(1, 100, height=144, width=256)
    a, b = (shot(seed, 1, height=144, width=256) for seed in (1, 2))
    w = ((np.arange(100) - 40) / 16).clip(0, 1)[:, None, None, None]
    video = (a * (1 - w) + b * w).astype(np.uint8)
    video[:, :6, :60] = numbered[:, :6, :60]
    result = process(encode(tmp_path / name, video, codec, form, times=times), tmp_path / "out")
    ((start, end),) = result.file["transitions"]
    assert abs(start - 40) <= 3 and abs(end - 56) <= 3
    spans = [(row["source_start"], row["source_end"]) for row in result.clips]
    assert spans == [(3, start - 3), (end + 3, 97)]
    for row, span in zip(result.clips, spans):
        assert numbers(read_video(tmp_path / "out" / row["file"])) == list(range(*span))


def turned(path: Path, video: np.ndarray) -> Path:
    """The video lying on its side, with the matrix that tells players to turn it upright."""
    encode(path, np.rot90(video, 1, axes=(1, 2)))
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44  # after the box's name, version, times, track, duration, layer and volume
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "size", "codec", "pix_fmt"),
    [
        ("odd.mp4", (65, 71), "libx264", "yuv444p"),
        ("portrait.mp4", (128, 72), "libx264", "yuv420p"),
        ("ten_bits.mp4", (72, 96), "libx265", "yuv420p10le"),
        ("turned.mp4", (72, 96), "", ""),
        ("portrait.webm", (128, 72), "libvpx", "yuv420p"),
        ("field.ts", (72, 96), "libx264", "yuv422p"),
    ],
)
def test_cuts_are_exact_in_every_kind_of_picture(
    tmp_path: Path, name: str, size: tuple[int, int], codec: str, pix_fmt: str
) -> None:
    video = montage([30, 30], *size)
    form = {".mp4": "mp4", ".webm": "webm", ".ts": "mpegts"}[Path(name).suffix]
    path = encode(tmp_path / name, video, codec, form, pix_fmt) if codec else turned(tmp_path / name, video)
    result = process(path, tmp_path / "out")
    assert [(row["source_start"], row["source_end"]) for row in result.clips] == [(3, 27), (33, 57)]
    for row, start in zip(result.clips, (3, 33)):
        seen = read_video(tmp_path / "out" / row["file"])
        assert numbers(seen) == list(range(start, start + 24))
        assert all(0 <= side - got <= 1 for side, got in zip(size, seen.shape[1:3]))  # 4:2:0 needs even sides
