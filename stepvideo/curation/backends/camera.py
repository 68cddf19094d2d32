"""Camera motion from optical flow: what the whole picture does, apart from the things that move in it.

Legend: P pairs of neighbouring frames, n points of the flow, h w sides of the small frames.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stepvideo.curation.backends import Weightless
from stepvideo.curation.clip_frames import ClipFrames

GRID = 4  # pixels between the points that are fitted
ROUNDS = 8  # of the robust fit
SLOWEST = 0.02  # frame heights a second; slower is static
SECONDARY = 0.35  # a motion below this share of the strongest is not named
SHAKY = 0.1  # frame heights a second


class CameraMotion(Weightless):
    """A similarity (shift, zoom, roll) fitted to the flow of each pair, and the name of their mean.

    `camera` is static, pan_left, pan_right, tilt_up, tilt_down, zoom_in, zoom_out, roll, handheld (it shakes more than
    it goes anywhere) or mixed (several at once). Directions are the camera's: the picture goes the other way.
    """

    version = "1"
    columns = {
        "camera": "string",
        "camera_pan": "double",  # frame widths a second, positive to the right
        "camera_tilt": "double",  # frame heights a second, positive upwards
        "camera_zoom": "double",  # natural logarithm of the scale a second, positive inwards
        "camera_roll": "double",  # radians a second, positive when the picture turns clockwise
        "camera_steadiness": "double",  # 1 for a motion without shake, a half where it shakes by `SHAKY`
    }
    note = (
        "a robust fit to Farneback flow, not a trained classifier: a dolly counts as a zoom, a truck as a pan; "
        "a thing that fills most of the picture is taken for the world"
    )

    def __call__(self, clip: ClipFrames) -> dict[str, Any]:
        if len(clip.grey) < 2 or not clip.fps:
            return dict.fromkeys(self.columns)
        height, width = clip.grey.shape[1:]
        fits = np.stack([similarity(f, texture(g)) for f, g in zip(clip.flows(), clip.grey)]) * clip.fps
        right, down, zoom, roll = fits.mean(axis=0)
        radius = np.hypot(height, width) / 4  # of a point half-way to a corner
        in_heights = np.array([1, 1, radius, radius]) / height
        shake = _shake(fits * in_heights, clip.fps)
        return {
            "camera": _name(np.array([-right, down, zoom, roll]) * in_heights, shake),
            "camera_pan": float(-right / width),
            "camera_tilt": float(down / height),
            "camera_zoom": float(zoom),
            "camera_roll": float(roll),
            "camera_steadiness": float(1 / (1 + shake / SHAKY)),
        }


def texture(grey: np.ndarray) -> np.ndarray:
    """How much the flow at a point can be trusted, float32 [h, w]: near 0 where there is nothing to follow."""
    import cv2

    gx, gy = (cv2.Sobel(grey, cv2.CV_32F, x, y, scale=1 / 8) for x, y in ((1, 0), (0, 1)))
    energy = cv2.boxFilter(gx * gx + gy * gy, -1, (15, 15))  # the window of the flow
    return energy / (energy + 4.0)


def similarity(flow: np.ndarray, trust: np.ndarray) -> np.ndarray:
    """(right, down, zoom, roll) of the picture in pixels, log scale and radians, fitted to flow float32 [h, w, 2].

    Iteratively reweighted least squares from the median shift, with Geman-McClure weights at the scale of the median
    residual, so that less than half of the picture may go its own way.
    """
    height, width = flow.shape[:2]
    y, x = np.mgrid[GRID // 2 : height : GRID, GRID // 2 : width : GRID]
    points, trust = flow[y, x].reshape(-1, 2).astype(np.float64), trust[y, x].ravel().astype(np.float64) + 1e-6
    x, y = x.ravel() - (width - 1) / 2, y.ravel() - (height - 1) / 2
    one, zero = np.ones(len(x)), np.zeros(len(x))
    design = np.stack([np.stack([one, zero, x, -y], 1), np.stack([zero, one, y, x], 1)], 1)  # [n, 2, 4]
    median = [_weighted_median(points[:, i], trust) for i in (0, 1)]
    fit = np.array([*median, 0.0, 0.0])
    for _ in range(ROUNDS):
        residual = np.sqrt(np.square(points - design @ fit).sum(axis=1))
        scale = max(2 * _weighted_median(residual, trust), 0.02)
        weight = trust / np.square(1 + np.square(residual / scale))
        weighted = design * weight[:, None, None]
        fit = np.linalg.solve(np.einsum("nik,nil->kl", weighted, design), np.einsum("nik,ni->k", weighted, points))
    grown, turned = 1 + fit[2], fit[3]
    return np.array([fit[0], fit[1], np.log(np.hypot(grown, turned)), np.arctan2(turned, grown)])


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(total, total[-1] / 2)]])


def _shake(velocities: np.ndarray, fps: float) -> float:
    """Root mean square of what is left of [P, 4] velocities without their course, a mean over half a second."""
    window = max(3, min(round(fps / 2), len(velocities)))
    course = np.stack([_smooth(v, window) for v in velocities.T], axis=1)
    return float(np.sqrt(np.square(velocities - course).sum(axis=1).mean()))


def _smooth(values: np.ndarray, window: int) -> np.ndarray:
    kernel = np.ones(window)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _name(motion: np.ndarray, shake: float) -> str:
    """The word for (right, up, in, clockwise), in frame heights a second, and a shake."""
    strongest = float(np.abs(motion).max())
    if shake > SHAKY and shake > strongest:
        return "handheld"
    if strongest < SLOWEST:
        return "static"
    words = (("pan_left", "pan_right"), ("tilt_down", "tilt_up"), ("zoom_out", "zoom_in"), ("roll", "roll"))
    named = [word[int(m > 0)] for word, m in zip(words, motion) if abs(m) >= max(SLOWEST, SECONDARY * strongest)]
    return named[0] if len(named) == 1 else "mixed"
