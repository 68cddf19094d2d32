"""PSNR and SSIM of frames, in float64.

Legend: F frames, H W sides in pixels, 3 RGB.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stepvideo.evaluation.reconstruction.protocols import FRAME, GAUSS11

CEILING = 100.0  # dB, of pictures that do not differ, as common implementations have it
K1, K2 = 0.01, 0.03  # of SSIM

Smooth = Callable[[np.ndarray], np.ndarray]


def psnr(x: np.ndarray, y: np.ndarray, over: str = FRAME) -> float:
    """Peak signal-to-noise ratio in dB of frames [F, H, W, 3] in [0, 1]: mean over frames, or of one error."""
    square = np.square(np.subtract(x, y, dtype=np.float64))
    errors = square.mean(axis=(1, 2, 3)) if over == FRAME else square.mean()
    return float(np.mean(-10 * np.log10(np.maximum(errors, 10 ** (-CEILING / 10)))))


def ssim(x: np.ndarray, y: np.ndarray, window: str = GAUSS11) -> float:
    """Structural similarity (Wang et al. 2004) of frames [F, H, W, 3] in [0, 1]: mean of the frames.

    Raises:
        ValueError: frames smaller than the window.
    """
    side, smooth, sample = _window(window)
    if min(x.shape[1:3]) < side:
        raise ValueError(f"frames of {x.shape[1]} x {x.shape[2]} pixels: SSIM's window has {side}")
    return float(np.mean([_similarity(a, b, side, smooth, sample) for a, b in zip(x, y)]))


def _similarity(x: np.ndarray, y: np.ndarray, side: int, smooth: Smooth, sample: float) -> float:
    edge = side // 2
    inner = np.s_[edge : x.shape[0] - edge, edge : x.shape[1] - edge]
    x, y = x.astype(np.float64), y.astype(np.float64)
    mx, my, xx, yy, xy = (smooth(v)[inner] for v in (x, y, x * x, y * y, x * y))
    vx, vy, covariance = (sample * v for v in (xx - mx * mx, yy - my * my, xy - mx * my))
    c1, c2 = K1**2, K2**2
    top = (2 * mx * my + c1) * (2 * covariance + c2)
    return float((top / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean())


def _window(name: str) -> tuple[int, Smooth, float]:
    """Its side, the weighted mean over it, and the factor that makes a variance of it."""
    import cv2

    if name == GAUSS11:
        kernel = cv2.getGaussianKernel(11, 1.5, cv2.CV_64F)
        return 11, lambda v: cv2.sepFilter2D(v, cv2.CV_64F, kernel, kernel), 1.0
    return 7, lambda v: cv2.boxFilter(v, cv2.CV_64F, (7, 7)), 49 / 48
