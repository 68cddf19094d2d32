"""Near-duplicates: a perceptual signature a clip, and the groups of clips whose signatures are close.

Legend: N clips, F frames of a signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stepvideo.curation.backends import Weightless
from stepvideo.curation.clip_frames import SAMPLES, ClipFrames

BITS, DIGITS = 64, 16  # of a frame; in hexadecimal
BAND = 16  # bits that must be the same in one frame for two clips to be compared at all
FLAT = 3.0  # grey levels; the hash of a picture with less contrast would be noise, it is 0


class Signature(Weightless):
    """The DCT hash of every sampled frame: the signs of its 64 lowest frequencies about their median."""

    version = "1"
    columns = {"signature": "string"}  # 16 hexadecimal digits a sampled frame; zeros for a flat one
    note = "finds copies that were re-encoded, rescaled or brightened, not mirrored, cropped or shifted in time"

    def __call__(self, clip: ClipFrames) -> dict[str, Any]:
        return {"signature": "".join(f"{frame_hash(f):0{DIGITS}x}" for f in clip.frames)}


def frame_hash(frame: np.ndarray) -> int:
    """64 bits of uint8 [H, W, 3] BGR; 0 if it is flat."""
    import cv2

    grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY).astype(np.float32)
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA)
    if small.std() < FLAT:
        return 0
    low = cv2.dct(small)[:9, :9].ravel()[1 : BITS + 1]  # without the mean brightness
    return int("".join("1" if on else "0" for on in low > np.median(low)), 2)


def duplicates(ids: Sequence[str], signatures: Sequence[str], limit: float = 8.0) -> list[list[str]]:
    """Groups of near-duplicate clips, each in the order of `ids`.

    Two clips are near-duplicates if their frames' hashes differ by at most `limit` bits of 64 in the mean; groups are
    what such pairs connect. Only clips are compared that share the same 16 bits in the same quarter of the same frame:
    of pairs 8 bits apart about one in fifty is missed, of pairs 4 bits apart none in a hundred thousand. Frames that
    are flat in either clip are left out; a pair needs half of its frames. Memory: about 100 bytes a clip and frame.
    """
    if len(ids) != len(signatures):
        raise ValueError(f"duplicates: {len(ids)} ids for {len(signatures)} signatures; give one each")
    hashes = _table(signatures)
    group = list(range(len(ids)))

    def root(i: int) -> int:
        while group[i] != i:
            group[i] = i = group[group[i]]
        return i

    for frame in range(hashes.shape[1]):
        for shift in range(0, BITS, BAND):
            keys = (hashes[:, frame] >> np.uint64(shift)).astype(np.uint16)
            for a, b in _same(keys, np.flatnonzero(hashes[:, frame])):
                close = _distances(hashes[a], hashes[b]) <= limit
                for i, j in zip(a[close].tolist(), b[close].tolist()):
                    first, second = sorted((root(i), root(j)))
                    group[second] = first
    members: dict[int, list[str]] = {}
    for i, name in enumerate(ids):
        members.setdefault(root(i), []).append(name)
    return [g for g in members.values() if len(g) > 1]


def _table(signatures: Sequence[str]) -> np.ndarray:
    """uint64 [N, F]; shorter signatures are filled up with flat frames."""
    longest = max(map(len, signatures), default=SAMPLES * DIGITS)
    packed = bytes.fromhex("".join(s.ljust(longest, "0") for s in signatures))
    return np.frombuffer(packed, ">u8").astype(np.uint64).reshape(len(signatures), longest // DIGITS)


def _same(keys: np.ndarray, rows: np.ndarray):
    """Yields all pairs of `rows` with the same key, as arrays (a, b); never more than len(rows) pairs at a time."""
    order = rows[np.argsort(keys[rows], kind="stable")]
    sorted_keys = keys[order]
    starts = np.arange(len(order))  # those that still have a partner at the present distance
    for step in range(1, len(order)):
        starts = starts[starts + step < len(order)]
        starts = starts[sorted_keys[starts] == sorted_keys[starts + step]]
        if not len(starts):
            return
        yield order[starts], order[starts + step]


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean number of different bits over the frames that neither side has flat; 64 if those are less than half."""
    both = (a != 0) & (b != 0)
    bits = np.where(both, np.bitwise_count(a ^ b), 0).sum(axis=1)
    needed = np.maximum((a != 0).sum(axis=1), (b != 0).sum(axis=1)) / 2
    compared = both.sum(axis=1)
    return np.where(compared >= needed, bits / np.maximum(compared, 1), BITS)
