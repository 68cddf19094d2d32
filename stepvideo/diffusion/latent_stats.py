"""Statistics of the latents that a DiT was trained on, saved beside its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stepvideo import storage
from stepvideo.errors import ArtifactError

STATS_FILE = "transformer/latent_stats.json"


@dataclass(frozen=True)
class LatentStats:
    """Mean and standard deviation of each latent channel [z]: the DiT sees (latent − mean) / std."""

    mean_z: Tensor
    std_z: Tensor

    @classmethod
    def read(cls, root: Path, channels: int) -> LatentStats:
        """From `root/transformer/latent_stats.json`; without it the identity, which is what the release does.

        Raises:
            ArtifactError: the file does not hold one finite mean and one positive std a channel.
        """
        path = Path(root) / STATS_FILE
        if not path.exists():
            return cls(torch.zeros(channels), torch.ones(channels))
        data = storage.read_json(path)
        try:
            stats = cls(*(torch.tensor(data[k], dtype=torch.float32) for k in ("mean", "std")))
        except (KeyError, TypeError, ValueError, OverflowError) as e:
            raise ArtifactError(f"{path} must hold lists mean and std: {e}") from e
        both = torch.stack([stats.mean_z, stats.std_z]) if stats.mean_z.shape == stats.std_z.shape else torch.empty(0)
        if both.shape != (2, channels) or not both.isfinite().all() or (stats.std_z <= 0).any():
            raise ArtifactError(f"{path} must hold a finite mean and a positive std for each of {channels} channels")
        return stats

    def to_dict(self) -> dict[str, list[float]]:
        return {"mean": self.mean_z.tolist(), "std": self.std_z.tolist()}

    def normalise(self, x_nfzhw: Tensor) -> Tensor:
        return (x_nfzhw - _channels(self.mean_z, x_nfzhw)) / _channels(self.std_z, x_nfzhw)

    def denormalise(self, x_nfzhw: Tensor) -> Tensor:
        return x_nfzhw * _channels(self.std_z, x_nfzhw) + _channels(self.mean_z, x_nfzhw)


def _channels(v_z: Tensor, like: Tensor) -> Tensor:
    return v_z.to(like)[:, None, None]
