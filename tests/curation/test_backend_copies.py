"""Signatures of copies, and the search for close ones among many."""

from __future__ import annotations

import resource
import time
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from stepvideo.curation.backends.copies import Signature, duplicates
from stepvideo.curation.clip_frames import ClipFrames


def video(seed: int, frames: int = 16) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 255, (18, 40, 3)).astype(np.uint8)
    wide = cv2.resize(noise, (400, 180), interpolation=cv2.INTER_CUBIC)
    return np.stack([wide[:, 5 * i : 5 * i + 320] for i in range(frames)])


def signature(frames: np.ndarray) -> str:
    return Signature()(ClipFrames.of("c", len(frames), frames, 24.0))["signature"]


def encoded(frames: np.ndarray, crf: int) -> np.ndarray:
    """Through h264 and back, in memory."""
    coder = av.CodecContext.create("libx264", "w")
    coder.width, coder.height, coder.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
    coder.framerate, coder.time_base = 24, Fraction(1, 24)
    coder.options, coder.thread_count = {"crf": str(crf)}, 1
    pictures = [av.VideoFrame.from_ndarray(np.ascontiguousarray(f), format="bgr24") for f in frames]
    for i, picture in enumerate(pictures):
        picture.pts = i
    packets = [p for picture in [*pictures, None] for p in coder.encode(picture)]
    decoder = av.CodecContext.create("h264", "r")
    decoder.extradata = coder.extradata
    found = [f for packet in [*packets, None] for f in decoder.decode(packet)]
    return np.stack([f.to_ndarray(format="bgr24") for f in found])


def test_copies_are_grouped_and_other_clips_are_not() -> None:
    first = video(0)
    copies = {
        "original": first,
        "encoded": encoded(first, 36),
        "small": np.stack([cv2.resize(f, (160, 90), interpolation=cv2.INTER_AREA) for f in first]),
        "brighter": np.clip(first * 0.8 + 45, 0, 255).astype(np.uint8),
    }
    others = {f"other{s}": video(s) for s in range(1, 6)}
    clips = {**others, **copies}
    assert duplicates(list(clips), [signature(v) for v in clips.values()]) == [list(copies)]


def test_pictures_without_contrast_are_no_copies_of_each_other() -> None:
    black = signature(np.zeros((9, 64, 64, 3), np.uint8))
    assert set(black) == {"0"}
    assert duplicates(["a", "b"], [black, black]) == []
    half = "f0f0f0f0aaaa5555" * 4 + "0" * 64
    assert duplicates(["a", "b"], [half, half[:32] + "0" * 96]) == [["a", "b"]]
    assert duplicates(["a", "b"], [half, half[:16] + "0" * 112]) == []
    assert duplicates([], []) == []
    with pytest.raises(ValueError, match="1 ids for 0"):
        duplicates(["a"], [])


def test_the_limit_is_in_bits_and_groups_are_what_pairs_connect() -> None:
    rng = np.random.default_rng(2)
    a = rng.integers(0, 2, (8, 64))
    b, c = a.copy(), a.copy()
    b[:, :6] ^= 1
    c[:, :12] ^= 1  # 6 from b, 12 from a
    texts = ["".join(f"{int(''.join(map(str, row)), 2):016x}" for row in bits) for bits in (a, b, c)]
    assert duplicates("abc", texts, limit=6) == [["a", "b", "c"]]
    assert duplicates("abc", texts, limit=5.9) == []
    assert duplicates("ac", [texts[0], texts[2]], limit=6) == []


def test_copies_among_100_000_random_signatures() -> None:
    rng = np.random.default_rng(3)
    hashes = rng.integers(0, 2**63, (100_000, 8), dtype=np.uint64)
    originals, places = np.arange(200), np.arange(50_000, 50_200)
    noise = np.zeros((200, 8), np.uint64)
    for bit in range(64):  # 4 of 64 bits differ in the mean
        noise |= (rng.random((200, 8)) < 4 / 64).astype(np.uint64) << np.uint64(bit)
    hashes[places] = hashes[originals] ^ noise
    packed = hashes.astype(">u8").tobytes().hex()
    texts = [packed[i : i + 128] for i in range(0, len(packed), 128)]
    ids = [str(i) for i in range(len(texts))]
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    groups = duplicates(ids, texts)
    seconds, grown = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{seconds:.1f} CPU-s, {grown / 1024:.0f} MiB")
    assert groups == [[str(a), str(b)] for a, b in zip(originals, places)]
    assert seconds < 20
    assert grown < 400 * 1024
