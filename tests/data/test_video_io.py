from __future__ import annotations

import time
import uuid
from pathlib import Path

import cv2
import numpy as np
import pytest

from stepvideo.data.video_io import (
    VideoWriter,
    iter_frames,
    read_image,
    read_image_metadata,
    read_video,
    video_fps,
    write_gif,
    write_image,
    write_video,
)
from stepvideo.errors import ArtifactError


def moving(frames: int = 20, height: int = 48, width: int = 64) -> np.ndarray:
    big = np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    return np.stack([np.roll(big, i, axis=1)[:height, :width] for i in range(frames)])


@pytest.mark.parametrize(("pix_fmt", "worst"), [("yuv420p", 20.0), ("yuv444p", 3.0)])
def test_written_frames_come_back_in_number_rate_and_colour(tmp_path: Path, pix_fmt: str, worst: float) -> None:
    path, video = tmp_path / "a.mp4", moving()
    write_video(path, video, 30000 / 1001, crf=6, pix_fmt=pix_fmt)
    back = read_video(path)
    assert back.shape == video.shape
    assert back.dtype == np.uint8
    assert np.abs(back.astype(int) - video).mean() < worst
    assert video_fps(path) == pytest.approx(30000 / 1001)
    for i, frame in enumerate(back):  # in order: each frame is nearest to its own original
        assert np.argmin([np.abs(frame.astype(int) - v).mean() for v in video]) == i


def test_equal_frames_give_equal_bytes(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving(), 25)
    time.sleep(1.1)  # a clock in the header would show
    write_video(tmp_path / "b.mp4", moving(), 25)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_windows_are_exact(tmp_path: Path) -> None:
    path = tmp_path / "name with spaces & ünïcode 空\n'.mp4"
    write_video(path, moving(40), 25)
    whole = read_video(path)
    for start, frames in ((0, 1), (7, 9), (24, 5), (39, 1), (31, None)):
        want = whole[start:] if frames is None else whole[start : start + frames]
        assert (read_video(path, start, frames) == want).all()
    assert len(list(iter_frames(path))) == 40


def test_reading_past_the_end_or_nothing_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, moving(10), 25)
    with pytest.raises(ArtifactError, match="has 10 frames; 8 to 11 were asked for"):
        read_video(path, 8, 4)
    with pytest.raises(ArtifactError, match="no video frame from 10"):
        read_video(path, 10)
    with pytest.raises(ArtifactError, match="nope.mp4 cannot be read"):
        read_video(tmp_path / "nope.mp4")
    (tmp_path / "text.mp4").write_text("x" * 100)
    with pytest.raises(ArtifactError, match="text.mp4 cannot be read"):
        video_fps(tmp_path / "text.mp4")


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with pytest.raises(RuntimeError), VideoWriter(path, 48, 64, 25) as writer:
        writer.add(moving(1)[0])
        raise RuntimeError
    with pytest.raises(ValueError, match="no frame"), VideoWriter(path, 48, 64, 25):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="cannot write"):
        write_video(tmp_path / "file" / "a.mp4", moving(2), 25)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_a_full_disk_is_an_error_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full refuses every write, as a full disk does."""
    monkeypatch.setattr("uuid.uuid4", lambda: uuid.UUID(int=0))
    (tmp_path / ".a.mp4.tmp-00000000").symlink_to("/dev/full")
    with pytest.raises(ArtifactError, match="No space left"):
        write_video(tmp_path / "a.mp4", moving(20), 25)
    assert not list(tmp_path.iterdir())


def test_wrong_arrays_are_refused(tmp_path: Path) -> None:
    for bad in (moving()[0], moving().astype(np.float32), moving()[..., :2]):
        with pytest.raises(ValueError, match=r"uint8 \[T, H, W, 3\]"):
            write_video(tmp_path / "a.mp4", bad, 25)
    with pytest.raises(ValueError, match="even sides"):
        write_video(tmp_path / "a.mp4", moving(height=47), 25)
    write_video(tmp_path / "odd.mp4", moving(height=47), 25, pix_fmt="yuv444p")
    assert read_video(tmp_path / "odd.mp4").shape[1:3] == (47, 64)


def test_rotation_is_applied_as_other_readers_do(tmp_path: Path) -> None:
    """The display matrix of an mp4, set by hand in its track header."""
    path = tmp_path / "a.mp4"
    write_video(path, moving(5), 25, pix_fmt="yuv444p")
    upright = read_video(path)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes of fields
    quarter = [0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30]
    data[at : at + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in quarter)
    path.write_bytes(data)
    turned = read_video(path)
    assert turned.shape[1:3] == (64, 48)
    capture = cv2.VideoCapture(str(path))
    ok, other = capture.read()
    assert ok
    assert np.abs(turned[0].astype(int) - other[..., ::-1]).mean() < 3
    assert (turned[0] == np.rot90(upright[0], -1)).all()


def test_images(tmp_path: Path) -> None:
    image = moving(1)[0]
    write_image(tmp_path / "ü.png", image)
    assert (read_image(tmp_path / "ü.png") == image).all()
    (tmp_path / "bad.png").write_bytes(b"\x89PNG nonsense")
    for name in ("bad.png", "none.png"):
        with pytest.raises(ArtifactError, match=name):
            read_image(tmp_path / name)


@pytest.mark.parametrize("error", [KeyboardInterrupt, UnicodeEncodeError("utf-8", "x", 0, 1, "no")])
def test_a_failure_while_closing_leaves_nothing(tmp_path, monkeypatch, error):
    def fail(*_: object) -> None:
        raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        with VideoWriter(tmp_path / "a.mp4", 32, 32, 25) as writer:
            writer.add(np.zeros((32, 32, 3), np.uint8))
            monkeypatch.setattr(writer, "_mux", fail)
    assert not list(tmp_path.iterdir())


def test_a_gif_tells_its_comment_and_half_an_image_is_an_error(tmp_path):
    comment = "红" * 10_000
    write_gif(tmp_path / "a.gif", np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8), 10, comment)
    assert read_image_metadata(tmp_path / "a.gif")["comment"] == comment
    write_image(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8), {"comment": "x"})
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="a.png cannot be read as an image"):
        read_image_metadata(tmp_path / "a.png")
