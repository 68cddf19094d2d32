"""Recall and precision of the static-overlay detector on generated marks over moving pictures.

    python benchmarks/watermark.py [--json] [--check] [--clips N]

Every clip is judged with and without its mark: text or a logo of 5 to 14 % of the height, opaque to 70 % transparent,
white, black or coloured, in a corner, the centre or anywhere; beneath it the camera pans, tilts, zooms, rolls or shakes
and up to two things move. `--check` exits 1 when recall or precision is below 0.9; a clip that is not judged (null)
counts as not flagged.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import cv2
import numpy as np
from moving_pictures import Move, film

from stepvideo.curation.backends.watermark import StaticOverlay
from stepvideo.curation.clip_frames import ClipFrames

BAR, CLIPS, HEIGHT, WIDTH = 0.9, 120, 180, 320
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_COMPLEX)
LETTERS = list("ABCDEFGHKLMNOPRSTUVXYZabcdeghknoprsu0123456789.@")
PLACES = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 0.5))


def moving(rng: np.random.Generator) -> np.ndarray:
    """Eight frames, as they would be sampled from a clip, uint8 [8, H, W, 3]; a kind of camera motion at random."""
    sign, slow = rng.choice([-1, 1]), rng.uniform(0.015, 0.05)
    moves = (
        Move(right=sign * slow),
        Move(down=sign * slow),
        Move(zoom=sign * slow),
        Move(right=sign * slow / 2, down=rng.uniform(-0.03, 0.03), shake=0.02),
        Move(right=sign * slow, roll=rng.uniform(-0.02, 0.02)),
    )
    return film(rng, moves[rng.integers(len(moves))], 8, HEIGHT, WIDTH, int(rng.integers(3)))


def mark(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int, int]]:
    """(colour [3]; opacity float32 [H, W, 1]; its box: x, y, width, height)."""
    size = int(rng.uniform(0.05, 0.14) * HEIGHT)
    cover = _word(rng, size) if rng.random() < 0.7 else _logo(round(1.5 * size))
    colour = [(255, 255, 255), (255, 255, 255), (0, 0, 0), rng.integers(0, 256, 3)][rng.integers(4)]
    height, width = cover.shape
    margin = int(rng.uniform(0.02, 0.06) * HEIGHT)
    across, down = PLACES[rng.integers(5)] if rng.random() < 5 / 6 else rng.random(2)
    x = margin + round(across * max(0, WIDTH - width - 2 * margin))
    y = margin + round(down * max(0, HEIGHT - height - 2 * margin))
    opacity = np.zeros((HEIGHT, WIDTH, 1), np.float32)
    part = opacity[y : y + height, x : x + width, 0]
    part[:] = cover[: part.shape[0], : part.shape[1]] * rng.uniform(0.3, 1)
    return np.array(colour, np.float32), opacity, (x, y, part.shape[1], part.shape[0])


def _word(rng: np.random.Generator, size: int) -> np.ndarray:
    """4 to 12 letters of about `size` pixels with their surroundings, float32 0..1."""
    text, font = "".join(rng.choice(LETTERS, rng.integers(4, 13))), FONTS[rng.integers(len(FONTS))]
    thickness = int(rng.integers(1, 3))
    scale = cv2.getFontScaleFromHeight(font, max(round(0.7 * size), 7), 1)
    (width, height), below = cv2.getTextSize(text, font, scale, thickness)
    picture = np.zeros((height + below + 2, width + 2), np.uint8)
    cv2.putText(picture, text, (1, height + 1), font, scale, 255, thickness, cv2.LINE_AA)
    return picture.astype(np.float32) / 255


def _logo(side: int) -> np.ndarray:
    """A crossed ring, float32 [side, side] 0..1."""
    picture, line = np.zeros((side, side), np.uint8), max(1, side // 8)
    cv2.circle(picture, (side // 2, side // 2), side // 2 - line, 255, line, cv2.LINE_AA)
    cv2.line(picture, (side // 4, 3 * side // 4), (3 * side // 4, side // 4), 255, line, cv2.LINE_AA)
    return picture.astype(np.float32) / 255


def stamped(video: np.ndarray, colour: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    return (video * (1 - opacity) + colour * opacity).astype(np.uint8)


def compressed(video: np.ndarray, quality: int = 85) -> ClipFrames:
    """Through JPEG, for the encoding's noise."""
    jpegs = [cv2.imencode(".jpg", f, [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for f in video]
    return ClipFrames("c", [cv2.imdecode(j, cv2.IMREAD_COLOR) for j in jpegs], [], np.empty(0), 24.0)


def judged(seed: int) -> dict[str, Any]:
    """The scores of a clip without and with a mark, and whether the box found touches the mark."""
    rng, detect = np.random.default_rng(seed), StaticOverlay()
    video = moving(rng)
    colour, opacity, box = mark(rng)
    start = time.process_time()
    clean, marked = detect(compressed(video)), detect(compressed(stamped(video, colour, opacity)))
    found = marked["watermark_box"]
    return {
        "seed": seed,
        "clean": clean["watermark"],
        "marked": marked["watermark"],
        "opacity": float(opacity.max()),
        "touches": bool(found)
        and all(found[i] < box[i] + box[i + 2] and box[i] < found[i] + found[i + 2] for i in (0, 1)),
        "cpu_s": (time.process_time() - start) / 2,
    }


def measure(clips: int) -> dict[str, Any]:
    """Recall and precision over seeds 0 to clips - 1."""
    rows = [judged(seed) for seed in range(clips)]
    hits = sum((r["marked"] or 0) >= 0.5 for r in rows)
    false = sum((r["clean"] or 0) >= 0.5 for r in rows)
    return {
        "clips": clips,
        "recall": hits / clips,
        "precision": hits / max(hits + false, 1),
        "boxes_on_the_mark": sum(r["touches"] for r in rows) / max(hits, 1),
        "not_judged": sum(r[k] is None for r in rows for k in ("clean", "marked")),
        "cpu_ms_a_clip": 1000 * sum(r["cpu_s"] for r in rows) / clips,
        "missed": [r for r in rows if (r["marked"] or 0) < 0.5],
        "false": [r for r in rows if (r["clean"] or 0) >= 0.5],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of a line")
    parser.add_argument("--check", action="store_true", help=f"exit 1 below a recall or precision of {BAR}")
    parser.add_argument("--clips", type=int, default=CLIPS)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    result = measure(args.clips)
    line = "{clips} marks: recall {recall:.3f}, precision {precision:.3f}, {cpu_ms_a_clip:.0f} CPU-ms a clip"
    print(json.dumps(result, indent=1) if args.json else line.format(**result))
    return int(args.check and min(result["recall"], result["precision"]) < BAR)


if __name__ == "__main__":
    sys.exit(main())
