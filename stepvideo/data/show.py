"""Videos for eyes: enlarged copies and contact sheets. Scores are never taken from these.

Shape legend: T frames, H height, W width, 3 = RGB (uint8).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MIN_SIDE = 192  # pixels; below it a browser's smoothing and 4:2:0 colour hide what a small model drew


def enlarge(video_thwc: np.ndarray, min_side: int = MIN_SIDE) -> np.ndarray:
    """Repeat pixels by the smallest whole factor that makes the shorter side at least `min_side`; sides come out even,
    as h264 wants them (an odd last row or column is repeated)."""
    h, w = video_thwc.shape[1:3]
    factor = max(1, -(-min_side // min(h, w)))
    big = video_thwc.repeat(factor, axis=1).repeat(factor, axis=2)
    odd = ((0, 0), (0, big.shape[1] % 2), (0, big.shape[2] % 2), (0, 0))
    return np.pad(big, odd, mode="edge") if any(after for _, after in odd) else big


def contact_sheet(videos: Sequence[np.ndarray], columns: int = 5, gap: int = 4, min_side: int = 96) -> np.ndarray:
    """One row a video, `columns` frames evenly spaced from the first to the last; uint8 [H, W, 3], white between.

    Raises:
        ValueError: no video, or videos of different sizes.
    """
    if not videos or len({v.shape[1:] for v in videos}) != 1:
        raise ValueError(f"a contact sheet needs videos of one size, not {sorted({v.shape[1:] for v in videos})}")
    tiles = []
    for video in videos:
        count = min(columns, len(video))
        tiles.append(enlarge(video[np.linspace(0, len(video) - 1, count).round().astype(int)], min_side))
    _, h, w, _ = tiles[0].shape
    across = max(len(t) for t in tiles)
    sheet = np.full((len(tiles) * (h + gap) - gap, across * (w + gap) - gap, 3), 255, np.uint8)
    for y, row in enumerate(tiles):
        for x, tile in enumerate(row):
            sheet[y * (h + gap) : y * (h + gap) + h, x * (w + gap) : x * (w + gap) + w] = tile
    return sheet
