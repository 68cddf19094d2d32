"""All parallel plans behind one object: what a pipeline needs to know of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from stepvideo.diffusion.guidance import VelocityFn
from stepvideo.errors import ConfigError
from stepvideo.models.checkpoints import NETWORKS
from stepvideo.models.config import DiTConfig
from stepvideo.models.dit import DiT
from stepvideo.models.video_vae import VideoVAE
from stepvideo.models.weights import fill
from stepvideo.parallel import vae as by_chunk
from stepvideo.parallel.batch import split_batch
from stepvideo.parallel.config import ParallelConfig
from stepvideo.parallel.mesh import TIMEOUT_S, connect
from stepvideo.parallel.ulysses import split_tokens

T = TypeVar("T")


@dataclass(frozen=True)
class ParallelContext:
    """The ranks of a run and how they share its networks.

    All ranks make the same calls with the same arguments and get the same results. Noise is drawn from its seed on the
    CPU, so ranks agree on it without a word.
    """

    config: ParallelConfig
    mesh: DeviceMesh

    @classmethod
    def start(
        cls, config: ParallelConfig, dit: DiTConfig, device: str = "auto", timeout_s: float = TIMEOUT_S
    ) -> ParallelContext:
        """Check that a model of this configuration can be divided so, and meet the other ranks (`mesh.connect`).

        Raises:
            ConfigError: names the degree that does not fit.
            StepVideoError: another number of ranks than the degrees ask for, or more than there are devices.
        """
        try:
            config.check(dit.num_attention_heads, 4 * dit.inner_dim)
        except ValueError as e:
            raise ConfigError(str(e)) from e
        return cls(config, connect(config, device, timeout_s))

    @property
    def device(self) -> torch.device:
        kind = self.mesh.device_type
        return torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)

    @property
    def rank(self) -> int:
        return dist.get_rank()

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and talks."""
        return self.rank == 0

    def agree(self, found: Callable[[], T]) -> T:
        """What rank 0 finds, on every rank; what it raises ends the others too, by way of the launcher."""
        answer = [found() if self.is_main else None]
        dist.broadcast_object_list(answer)
        return cast(T, answer[0])

    def divide(self, dit: DiT) -> DiT:
        """The same DiT, divided over the ranks in place.

        Raises:
            ValueError: a form of the DiT that a degree does not divide.
        """
        if self.config.tensor > 1:
            from stepvideo.parallel.tensor import split_heads  # DTensor's import takes a second

            split_heads(dit, self.mesh["tensor"])
        if self.config.ulysses > 1:
            split_tokens(dit, self.mesh.get_group("ulysses"))
        return dit

    def load_dit(self, root: Path, device: torch.device | str, dtype: torch.dtype | None = None) -> DiT:
        """`checkpoints.load_dit` and `divide`, of which a rank holds no more than its shards and one tensor.

        Raises:
            ArtifactError: on a missing or damaged file, or tensors that do not fit the config.
            ValueError: see `divide`.
        """
        network = NETWORKS["dit"]
        cfg = network.config(root)
        found, _ = network.held(root, cfg)
        dit = self.divide(cast(DiT, network.on_meta(cfg)))
        folder = Path(root) / network.folder
        if self.config.tensor > 1:
            from stepvideo.parallel.tensor import shard_loader

            fill(dit, found, folder, dtype=dtype, place=shard_loader(dit, device))
        else:
            fill(dit, found, folder, device, dtype)
        return dit.eval()

    def velocity(self, dit: DiT) -> VelocityFn:
        """A divided DiT for `guidance.sample`, with the batch divided too."""
        return split_batch(dit, self.mesh.get_group("cfg")) if self.config.cfg > 1 else dit

    def decode(self, vae: VideoVAE, z_BTCHW: Tensor, decoder: by_chunk.Code = VideoVAE.decode) -> Tensor:
        """`VideoVAE.decode` with the chunks divided over all ranks."""
        world = dist.group.WORLD
        assert world is not None
        return by_chunk.decode(vae, z_BTCHW, world, decoder)
