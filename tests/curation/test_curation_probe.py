"""Every broken file is refused with a reason that names its fault; sound files of every kind pass."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from known_videos import encode, numbers, shot

from stepvideo.curation.config import HealthConfig
from stepvideo.curation.probe import FrameReader, Health, Unfit, check


def read(path: Path) -> tuple[np.ndarray, Health]:
    reader = FrameReader(path)
    frames = list(reader.frames())
    check(reader.health, HealthConfig())
    return np.stack(frames)[..., ::-1], reader.health


def fault(path: Path) -> tuple[str, str]:
    with pytest.raises(Unfit) as e:
        read(path)
    return e.value.reason, e.value.detail


@pytest.mark.parametrize(
    ("name", "codec", "form", "pix_fmt"),
    [
        ("a.mp4", "libx264", "mp4", "yuv420p"),
        ("a.mkv", "libx264", "matroska", "yuv444p"),
        ("a.ts", "libx264", "mpegts", "yuv420p"),
        ("a.webm", "libvpx", "webm", "yuv420p"),
        ("a.mov", "libx265", "mov", "yuv420p10le"),
        ("a.avi", "mpeg4", "avi", "yuv420p"),
    ],
)
def test_sound_files_give_every_frame(tmp_path: Path, name: str, codec: str, form: str, pix_fmt: str) -> None:
    path = encode(tmp_path / name, shot(0, 40), codec, form, pix_fmt)
    video, health = read(path)
    assert numbers(video) == list(range(40))
    assert (health.frames, health.bad_packets, health.vfr) == (40, 0, False)
    assert (health.width, health.height, health.fps) == (64, 64, 24.0)


def test_a_variable_rate_is_noticed_and_loses_nothing(tmp_path: Path) -> None:
    times = [i + (i // 5) * 2 for i in range(40)]
    video, health = read(encode(tmp_path / "v.mp4", shot(0, 40), times=times))
    assert health.vfr
    assert numbers(video) == list(range(40))


def test_odd_sizes(tmp_path: Path) -> None:
    video, _ = read(encode(tmp_path / "o.mp4", shot(0, 20, height=65, width=71), pix_fmt="yuv444p"))
    assert video.shape == (20, 65, 71, 3)


def test_zero_bytes(tmp_path: Path) -> None:
    (tmp_path / "z.mp4").touch()
    assert fault(tmp_path / "z.mp4")[0] == "empty"


def test_not_a_video(tmp_path: Path) -> None:
    (tmp_path / "n.mp4").write_text("hello " * 500)
    assert fault(tmp_path / "n.mp4")[0] == "unreadable"


def test_mp4_cut_off_before_its_index(tmp_path: Path) -> None:
    path = encode(tmp_path / "t.mp4", shot(0, 60))
    path.write_bytes(path.read_bytes()[:-2500])
    reason, detail = fault(path)
    assert reason == "truncated"
    assert "moov" in detail


def test_mp4_with_the_index_first_cut_in_the_middle(tmp_path: Path) -> None:
    path = encode(tmp_path / "t.mp4", shot(0, 60), options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    reason, detail = fault(path)
    assert reason == "truncated"
    assert "of 60 frames" in detail


@pytest.mark.parametrize(("where", "length"), [(0.33, 10), (0.2, 60), (0.33, 200), (0.66, 200)])
def test_damage_inside_is_noticed_and_the_rest_recovered(tmp_path: Path, where: float, length: int) -> None:
    """Short damage gives every frame, patched up by the decoder: only its flag tells."""
    path = encode(tmp_path / "d.mp4", shot(0, 60))
    data = bytearray(path.read_bytes())
    at = int(len(data) * where)
    data[at : at + length] = bytes(b ^ 0x5A for b in data[at : at + length])
    path.write_bytes(data)
    reader = FrameReader(path)
    frames = list(reader.frames())
    assert len(frames) >= 54
    with pytest.raises(Unfit, match="damaged"):
        check(reader.health, HealthConfig(min_frame_share=0.5))
    check(reader.health, HealthConfig(max_bad_packets=60, max_corrupt_frames=60, min_frame_share=0.5))


def test_sound_without_pictures(tmp_path: Path) -> None:
    path = tmp_path / "s.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        tone.sample_rate = 16000
        container.mux(stream.encode(tone))
        container.mux(stream.encode(None))
    reason, detail = fault(path)
    assert reason == "no_video"
    assert "audio" in detail


@pytest.mark.parametrize(
    ("pix_fmt", "transfer", "bits", "hdr"),
    [("yuv420p10le", 16, 10, True), ("yuv420p10le", 1, 10, False), ("yuv420p", 1, 8, False)],
)
def test_depth_and_dynamic_range(tmp_path: Path, pix_fmt: str, transfer: int, bits: int, hdr: bool) -> None:
    path = tmp_path / "h.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=24)
        stream.height, stream.width, stream.pix_fmt = 64, 64, pix_fmt
        stream.codec_context.color_trc = transfer
        for i, frame in enumerate(shot(0, 10)):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = i
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    _, health = read(path)
    assert (health.bits, health.hdr, health.audio) == (bits, hdr, "")


def test_keyframes_and_the_last_frames_time(tmp_path: Path) -> None:
    _, health = read(encode(tmp_path / "a.mp4", shot(0, 40)))  # a keyframe every 12 frames
    assert health.keyframes == [0, 12, 24, 36]
    assert health.last_time == pytest.approx(39 / 24)
    assert health.duration == pytest.approx(40 / 24, abs=0.01)
