"""Fréchet video distance of two sets of clips (Unterthiner et al. 2018), by an I3D that the user gives.

Legend: n clips, t frames, d features.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stepvideo.errors import ArtifactError
from stepvideo.storage import sha256_file

LEAST = 512  # clips; the covariance of I3D's 400 logits is singular with fewer than 401
LEAST_FRAMES = 10
SIDE = 224


class I3D:
    """`i3d_torchscript.pt` of StyleGAN-V: clips in [−1, 1] → 400 logits.

    A TorchScript file is a program. It is run only if its SHA-256 is the one that the user states.

    Raises:
        ArtifactError: the file is another one, or no such network.
    """

    def __init__(self, path: Path, sha256: str, device: str = "cpu") -> None:
        if not path.is_file():
            raise ArtifactError(f"{path} is missing; give the TorchScript file of I3D")
        if (found := sha256_file(path)) != sha256.lower():
            raise ArtifactError(f"{path} has SHA-256 {found}, not {sha256}; give the file that you trust, and its sum")
        self.path, self.sha256 = path, found
        try:
            self.network: Any = torch.jit.load(str(path), map_location=device).eval()
        except RuntimeError as e:
            raise ArtifactError(f"{path} is no TorchScript: {str(e).splitlines()[0]}") from e

    @torch.no_grad()
    def __call__(self, video_t3hw: Tensor) -> np.ndarray:
        """Features float64 [d] of one clip in [0, 1].

        The shorter side is brought to 224 (bilinear, the longer rounded up), the centre cropped.

        Raises:
            ArtifactError: the network does not take such clips.
        """
        height, width = video_t3hw.shape[2:]
        scale = SIDE / min(height, width)
        size = (SIDE, math.ceil(width * scale)) if height < width else (math.ceil(height * scale), SIDE)
        x = F.interpolate(video_t3hw, size=size, mode="bilinear", align_corners=False)
        y0, x0 = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
        clip = (x[..., y0 : y0 + SIDE, x0 : x0 + SIDE] * 2 - 1).transpose(0, 1)[None]
        try:
            found = self.network(clip, rescale=False, resize=False, return_features=True)
        except RuntimeError as e:
            raise ArtifactError(f"{self.path} does not take clips of {list(clip.shape)}: {e}") from e
        return found[0].double().cpu().numpy()


def frechet_distance(x_nd: np.ndarray, y_nd: np.ndarray) -> float:
    """|μx − μy|² + tr(Σx + Σy − 2 (Σx Σy)^½), covariances with n − 1.

    With A and B the centred features over √(n − 1), the trace of the root is the sum of the singular values of A Bᵀ; no
    matrix root is taken, so a singular covariance does no harm.
    """
    x, y = x_nd.astype(np.float64), y_nd.astype(np.float64)
    mean = np.square(x.mean(0) - y.mean(0)).sum()
    # of A = QR only R counts: the singular values of A Bᵀ are those of R_A R_Bᵀ
    a, b = (np.asarray(np.linalg.qr((v - v.mean(0)) / math.sqrt(len(v) - 1), mode="r")) for v in (x, y))
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(mean + np.square(a).sum() + np.square(b).sum() - 2 * root)
