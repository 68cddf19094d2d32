"""LPIPS (Zhang et al. 2018) from the two files that it is published in; nothing is downloaded.

The trunk is torchvision's AlexNet or VGG-16 (`features.N.weight`), the heads are `weights/v0.1/{alex,vgg}.pth` of
richzhang/PerceptualSimilarity (`linK.model.1.weight`).

Legend: n frames, c channels, h w sides of a map.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stepvideo.errors import ArtifactError
from stepvideo.models.tensor_files import entries, read

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


@dataclass(frozen=True)
class Trunk:
    """Stages of a torchvision network; the map after each one's last ReLU is compared.

    Attributes:
        convolutions: of each stage, their numbers in `features`. Stages are divided by max pooling, but for those in
            `unpooled`.
    """

    convolutions: tuple[tuple[int, ...], ...]
    channels: tuple[int, ...]
    pool: tuple[int, int]  # side, stride
    first: tuple[int, int] = (1, 1)  # stride and padding of the first convolution
    unpooled: tuple[int, ...] = ()


TRUNKS = {
    "alex": Trunk(((0,), (3,), (6,), (8,), (10,)), (64, 192, 384, 256, 256), (3, 2), (4, 2), unpooled=(3, 4)),
    "vgg": Trunk(((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)), (64, 128, 256, 512, 512), (2, 2)),
}


class LPIPS:
    """
    Args:
        net: alex or vgg.
        spatial: maps are brought to the frame's size before their mean.

    Raises:
        ArtifactError: a file lacks a tensor of the network, or has one of another shape.
    """

    def __init__(self, net: str, trunk: Path, heads: Path, spatial: bool = False, device: str = "cpu") -> None:
        self.trunk, self.spatial = TRUNKS[net], spatial
        names = [f"features.{i}" for stage in self.trunk.convolutions for i in stage]
        wanted = {f"{name}.{part}": trunk for name in names for part in ("weight", "bias")}
        self.weights = _read(trunk, list(wanted), device)
        lines = [f"lin{k}.model.1.weight" for k in range(len(self.trunk.channels))]
        found = _read(heads, lines, device)
        for k, (name, channels) in enumerate(zip(lines, self.trunk.channels)):
            last = self.weights[f"features.{self.trunk.convolutions[k][-1]}.bias"]
            if found[name].shape != (1, channels, 1, 1) or len(last) != channels:
                shapes = f"{name} is {list(found[name].shape)}, the trunk gives {len(last)} channels"
                raise ArtifactError(f"{heads} and {trunk}: {shapes}; LPIPS-{net} has {channels}: give its two files")
        self.heads = [found[name] for name in lines]

    @torch.no_grad()
    def __call__(self, x_n3hw: Tensor, y_n3hw: Tensor) -> Tensor:
        """Distance [n] of frames in [−1, 1]."""
        total = torch.zeros(len(x_n3hw), device=x_n3hw.device)
        for head, a, b in zip(self.heads, self._maps(x_n3hw), self._maps(y_n3hw)):
            distance = F.conv2d((_unit(a) - _unit(b)).square(), head)
            if self.spatial:
                distance = F.interpolate(distance, size=x_n3hw.shape[2:], mode="bilinear", align_corners=False)
            total += distance.mean((1, 2, 3))
        return total

    def _maps(self, x: Tensor) -> list[Tensor]:
        shift, scale = (x.new_tensor(v).view(1, 3, 1, 1) for v in (SHIFT, SCALE))
        x, maps = (x - shift) / scale, []
        for k, stage in enumerate(self.trunk.convolutions):
            if k and k not in self.trunk.unpooled:
                x = F.max_pool2d(x, *self.trunk.pool)
            for i in stage:
                weight, bias = (self.weights[f"features.{i}.{part}"] for part in ("weight", "bias"))
                stride, padding = self.trunk.first if i == 0 else (1, weight.shape[-1] // 2)
                x = F.relu(F.conv2d(x, weight, bias, stride, padding))
            maps.append(x)
        return maps


def _unit(x_nchw: Tensor) -> Tensor:
    return x_nchw / (x_nchw.square().sum(1, keepdim=True).sqrt() + 1e-10)


def _read(path: Path, names: list[str], device: str) -> dict[str, Tensor]:
    found = entries(path)
    if missing := [name for name in names if name not in found]:
        raise ArtifactError(f"{path} has no {missing[0]}; it is not the file that LPIPS reads here")
    return dict(read({name: found[name] for name in names}, device, torch.float32))
