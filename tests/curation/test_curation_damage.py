"""Files hit at random: as many frames come back as ffmpeg itself gets out of them, and what lost frames is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from known_videos import encode, shot

from stepvideo.curation.config import HealthConfig
from stepvideo.curation.probe import FrameReader, Unfit, check

FRAMES, HITS = 60, 4
NAMED = ("damaged", "truncated", "undecodable", "unreadable", "no_video", "empty")
ENCODINGS = {
    "h264-mp4": ("libx264", "mp4"),
    "h264-ts": ("libx264", "mpegts"),
    "h265-mkv": ("libx265", "matroska"),
    "vp8-webm": ("libvpx", "webm"),
    "mpeg4-avi": ("mpeg4", "avi"),
}


@pytest.fixture(scope="module", params=ENCODINGS)
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    codec, form = ENCODINGS[request.param]
    return encode(tmp_path_factory.mktemp(request.param) / "sound", shot(2, FRAMES, height=96, width=128), codec, form)


def hit(data: bytes, seed: int) -> bytes:
    """Up to 400 bytes anywhere are replaced, or what follows them is lost."""
    rng = np.random.default_rng(seed)
    start, length = int(rng.uniform(0.02, 0.95) * len(data)), int(rng.integers(4, 400))
    noise = rng.integers(0, 256, min(length, len(data) - start), np.uint8).tobytes()
    return data[:start] + noise + (b"" if seed % HITS == HITS - 1 else data[start + len(noise) :])


def by_ffmpeg(path: Path) -> int:
    """Frames that ffmpeg's own program decodes; it goes on after errors."""
    ffmpeg = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    passed_on = ["-map", "0:v:0", "-fps_mode", "passthrough", "-max_error_rate", "1", "-f", "framecrc", "-"]
    command = [ffmpeg, "-v", "quiet", "-threads", "1", "-i", str(path), *passed_on]
    lines = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.splitlines()
    return sum(not line.startswith("#") for line in lines)


@pytest.mark.parametrize("seed", range(HITS))
def test_as_many_frames_as_ffmpeg_finds(sound: Path, tmp_path: Path, seed: int) -> None:
    path = tmp_path / f"hit{seed}"
    path.write_bytes(hit(sound.read_bytes(), seed))
    reader = FrameReader(path)
    try:
        frames = sum(1 for _ in reader.pictures())
        check(reader.health, HealthConfig())
        refused = ""
    except Unfit as e:
        frames, refused = reader.health.frames, e.reason
    assert frames >= by_ffmpeg(path)
    assert refused in NAMED if frames < FRAMES else refused in ("", *NAMED)
