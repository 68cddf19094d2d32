"""Pictures that move in a known way, from a seed: what camera and watermark tags are measured on.

Legend: T frames, H W sides in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Move:
    """A camera's motion a frame: right and down in shares of width and height, zoom as log scale, roll in radians.

    `shake` is the standard deviation of an extra jump a frame, in shares of the height; it does not add up.
    """

    right: float = 0.0
    down: float = 0.0
    zoom: float = 0.0
    roll: float = 0.0
    shake: float = 0.0


def world(rng: np.random.Generator, side: int) -> np.ndarray:
    """A textured plane, uint8 [side, side, 3]: noise of several scales, and shapes with straight and round edges."""
    total = np.zeros((side, side, 3), np.float32)
    for cells in (6, 20, 60, 160):
        noise = rng.standard_normal((cells, cells, 3)).astype(np.float32)
        total += cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC) * cells**-0.4
    total = cv2.normalize(total, None, 20, 235, cv2.NORM_MINMAX)  # type: ignore[call-overload]
    for _ in range(60):
        colour = rng.integers(0, 256, 3).tolist()
        (x, y), (w, h) = rng.integers(0, side, 2).tolist(), rng.integers(side // 80, side // 10, 2).tolist()
        kind = rng.integers(3)
        if kind == 0:
            cv2.rectangle(total, (x, y), (x + w, y + h), colour, -1)
        elif kind == 1:
            cv2.ellipse(total, (x, y), (w, h), float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
        else:
            cv2.line(total, (x, y), (x + 3 * w, y + 3 * h), colour, int(rng.integers(1, 6)), cv2.LINE_AA)
    return total.astype(np.uint8)


def film(
    rng: np.random.Generator, move: Move, frames: int, height: int, width: int, things: int = 0, noise: float = 1.5
) -> np.ndarray:
    """What the camera sees, uint8 [T, H, W, 3] BGR; `things` move through the picture on their own ways."""
    scene = world(rng, 3 * max(height, width))
    middle = scene.shape[0] / 2
    shakes = rng.normal(0, move.shake * height, (frames, 2))
    movers = [_mover(rng, height, width) for _ in range(things)]
    video = np.empty((frames, height, width, 3), np.uint8)
    for i in range(frames):
        t = i - (frames - 1) / 2  # the middle of the clip looks at the middle of the scene
        scale, angle = np.exp(-move.zoom * t), -move.roll * t
        c, s = scale * np.cos(angle), scale * np.sin(angle)
        x = middle + move.right * width * t + shakes[i, 0]
        y = middle + move.down * height * t + shakes[i, 1]
        to_scene = np.array([[c, -s, x - c * width / 2 + s * height / 2], [s, c, y - s * width / 2 - c * height / 2]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        frame = cv2.warpAffine(scene, to_scene, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)
        for picture, start, speed in movers:
            _paste(frame, picture, start + speed * i)
        frame = frame + rng.normal(0, noise, frame.shape).astype(np.float32)
        video[i] = np.clip(frame, 0, 255)
    return video


def _mover(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A textured square of a quarter of the height, where it starts and how far it goes a frame, in pixels (x, y)."""
    picture = cv2.resize(world(rng, 200), (height // 4, height // 4), interpolation=cv2.INTER_AREA)
    return picture, rng.uniform(0.1, 0.6, 2) * (width, height), rng.uniform(-0.012, 0.012, 2) * height


def _paste(frame: np.ndarray, picture: np.ndarray, at: np.ndarray) -> None:
    x, y = np.round(at).astype(int)
    left, top = max(x, 0), max(y, 0)
    part = picture[top - y : frame.shape[0] - y, left - x : frame.shape[1] - x]
    frame[top : top + part.shape[0], left : left + part.shape[1]] = part
