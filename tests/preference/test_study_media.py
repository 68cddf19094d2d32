"""Two sides of an item differ in their picture alone: every box of their files, its place and its size are the same."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepvideo.data.video_io import read_video, write_image, write_video
from stepvideo.errors import ArtifactError
from stepvideo.preference import media, mp4
from stepvideo.preference.config import MediaConfig
from stepvideo.preference.spoil import spoil

CONTAINERS = ("moov", "trak", "mdia", "minf", "stbl", "edts", "dinf")


def noise(seed: int, frames: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3)).astype(np.uint8)


def flat(frames: int, height: int, width: int) -> np.ndarray:
    return np.full((frames, height, width, 3), 90, np.uint8)


def leaves(data: bytes, path: str = "") -> list[tuple[str, bytes]]:
    """Every innermost box with its path, in order."""
    found = []
    for kind, content in mp4.boxes(data):
        found += leaves(content, f"{path}/{kind}") if kind in CONTAINERS else [(f"{path}/{kind}", content)]
    return found


def must_be_alike(a: Path, b: Path) -> None:
    """Nothing but the content of frames, and their sizes, differs."""
    left, right = a.read_bytes(), b.read_bytes()
    assert len(left) == len(right) and a.stat().st_mtime == b.stat().st_mtime
    assert [(kind, len(box)) for kind, box in leaves(left)] == [(kind, len(box)) for kind, box in leaves(right)]
    differ = {kind for (kind, x), (_, y) in zip(leaves(left), leaves(right), strict=True) if x != y}
    assert differ <= {"/moov/trak/mdia/minf/stbl/stsz", "/mdat"}
    with av.open(str(a)) as one, av.open(str(b)) as other:
        for said in ("metadata", "duration", "size", "bit_rate", "start_time"):
            assert getattr(one, said) == getattr(other, said), said
        v, w = one.streams.video[0], other.streams.video[0]
        for said in ("average_rate", "frames", "duration", "time_base", "metadata", "profile"):
            assert getattr(v, said) == getattr(w, said), said
        for said in ("width", "height", "pix_fmt", "extradata", "has_b_frames", "color_range"):
            assert getattr(v.codec_context, said) == getattr(w.codec_context, said), said
        keys = [[p.is_keyframe for p in c.demux(video=0) if p.size] for c in (one, other)]
        assert keys[0] == keys[1]
        assert set(one.metadata) <= {"major_brand", "minor_version", "compatible_brands"}


@settings(max_examples=6)
@given(size=st.sampled_from([(32, 48), (40, 32)]), frames=st.integers(2, 20), fps=st.sampled_from([8.0, 12.5, 30.0]),
       gop=st.integers(1, 12))  # fmt: skip
def test_files_differ_in_nothing_but_pictures(tmp_path_factory, size, frames, fps, gop) -> None:
    folder = tmp_path_factory.mktemp("media")
    form = MediaConfig(*size, fps=fps, frames=frames, gop=gop)
    pictures = {"a": noise(frames, frames, *size), "b": flat(frames, *size)}
    for name, video in pictures.items():
        media.encode(folder / name, video, form)
    before = {name: read_video(folder / name) for name in pictures}
    media.equalise([folder / name for name in pictures])
    must_be_alike(folder / "a", folder / "b")
    for name in pictures:
        assert np.array_equal(read_video(folder / name), before[name])
    assert np.abs(before["b"].astype(int) - pictures["b"]).max() <= 4


def test_long_films_have_one_chunk_too(tmp_path: Path) -> None:
    form = MediaConfig(160, 160, fps=8.0, frames=36, crf=1)
    media.encode(tmp_path / "a", noise(0, 36, 160, 160), form)
    media.encode(tmp_path / "b", flat(36, 160, 160), form)
    assert (tmp_path / "a").stat().st_size > 1 << 20  # above which the muxer begins a second chunk
    media.equalise([tmp_path / "a", tmp_path / "b"])
    must_be_alike(tmp_path / "a", tmp_path / "b")
    assert len(read_video(tmp_path / "a")) == 36
    with pytest.raises(ValueError, match="bytes"):
        list(mp4.boxes((tmp_path / "a").read_bytes()[:-1]))


def test_sources_of_any_form_are_given_one(tmp_path: Path) -> None:
    write_video(tmp_path / "large.mp4", flat(30, 96, 64), 24, metadata={"title": "secret model", "comment": "seed 7"})
    write_video(tmp_path / "slow.mp4", noise(1, 9, 48, 80), 8)
    write_image(tmp_path / "still.png", flat(1, 50, 60)[0], {"parameters": "secret model"})
    paths = [tmp_path / n for n in ("large.mp4", "slow.mp4", "still.png")]
    form = media.common(MediaConfig(), [media.probe(p) for p in paths])
    assert (form.height, form.width, form.fps, form.frames) == (48, 60, 8.0, 9)
    for path in paths:
        frames = media.frames_of(path, form)
        assert frames.shape == (9, 48, 60, 3)
        media.encode(path.with_suffix(".study"), frames, form)
    media.equalise([p.with_suffix(".study") for p in paths])
    for path in paths[1:]:
        must_be_alike(paths[0].with_suffix(".study"), path.with_suffix(".study"))
    assert b"secret" not in b"".join(p.with_suffix(".study").read_bytes() for p in paths)
    with pytest.raises(ArtifactError, match="fewer frames"):
        media.common(MediaConfig(frames=40, fps=8.0), [media.probe(p) for p in paths])


def test_frames_are_taken_at_their_time(tmp_path: Path) -> None:
    ramp = np.arange(24, dtype=np.uint8)[:, None, None, None] * np.full((1, 16, 16, 3), 10, np.uint8)
    write_video(tmp_path / "a.mp4", ramp, 24, crf=0)
    half = media.frames_of(tmp_path / "a.mp4", MediaConfig(16, 16, fps=12.0, frames=12))
    assert np.abs(half.mean((1, 2, 3)) - 10 * np.arange(1, 24, 2)).max() < 3
    twice = media.frames_of(tmp_path / "a.mp4", MediaConfig(16, 16, fps=48.0, frames=48))
    assert np.abs(twice.mean((1, 2, 3)) - 10 * np.repeat(np.arange(24), 2)).max() < 3


def test_known_bad_videos_look_bad() -> None:
    moving, still = noise(3, 12, 16, 16), flat(12, 16, 16)
    for video, name in ((moving, "shuffled"), (still, "noisy"), (still[:1], "noisy")):
        bad, treatment = spoil(video, seed=1)
        assert treatment == name and bad.shape == video.shape and not np.array_equal(bad, video)
        assert np.array_equal(bad, spoil(video, seed=1)[0])
    assert sorted(f.tobytes() for f in spoil(moving, 1)[0]) == sorted(f.tobytes() for f in moving)
