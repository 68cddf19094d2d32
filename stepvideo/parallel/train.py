"""The ranks of a training and how they divide its networks: all plans behind one object (report §6.2.2).

Order in `divide`: tensor ranks take columns and rows of the blocks' matrices and, beside them, tokens (`tensor.py`,
`sequence.py`); Ulysses ranks take tokens (`ulysses.py`); recomputation and compilation go around each block
(`activation.py`); data and Ulysses ranks divide what is left (`fsdp.py`). Gradients are averaged over data and Ulysses
ranks, which makes them those of one process (`collectives.py`).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from stepvideo.diffusion.pipeline import best_device
from stepvideo.errors import ConfigError
from stepvideo.models.dit import DiT
from stepvideo.models.video_vae import VideoVAE
from stepvideo.parallel import float8, fsdp
from stepvideo.parallel.activation import POLICIES, compile_blocks, recompute
from stepvideo.parallel.config import TrainParallelConfig
from stepvideo.parallel.gradients import add_up, clip_
from stepvideo.parallel.mesh import TIMEOUT_S, limit, meet
from stepvideo.parallel.sequence import split_between
from stepvideo.parallel.tensor import overlap_exchanges, partial_gradients, split_heads
from stepvideo.parallel.ulysses import split_tokens
from stepvideo.parallel.vae_conv import split_vae

DIMENSIONS = ("replicate", "shard", "ulysses", "tensor")  # the last one talks most: neighbouring ranks
T = TypeVar("T")


@dataclass
class _Divided:
    """What is remembered of a network from before it was divided."""

    skeleton: nn.Module  # on the meta device
    partial: list[str] = field(default_factory=list)  # parameters whose gradients each tensor rank has a part of


class TrainParallel:
    """All ranks make the same calls in the same order."""

    def __init__(
        self, cfg: TrainParallelConfig, world_size: int, device: torch.device, mesh: DeviceMesh | None
    ) -> None:
        self.cfg, self.world_size, self.device, self.mesh = cfg, world_size, device, mesh
        replicate, shard, *network = cfg.dims(world_size)
        self.rank = dist.get_rank() if world_size > 1 else 0
        self.data_size = replicate * shard
        self.data_rank = self.rank // (network[0] * network[1])
        self._nets: WeakKeyDictionary[nn.Module, _Divided] = WeakKeyDictionary()

    @classmethod
    def start(
        cls, cfg: TrainParallelConfig, world_size: int, device: str = "auto", timeout_s: float = TIMEOUT_S
    ) -> TrainParallel:
        """Meet the other ranks (`mesh.meet`); one process alone needs no others, nor an environment.

        Raises:
            ConfigError: names the degree that does not divide `world_size`, or the option that this machine lacks.
            StepVideoError: more ranks than there are devices.
        """
        try:
            dims = cfg.dims(world_size)
        except ValueError as e:
            raise ConfigError(str(e)) from e
        found = int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1
        if found != world_size:
            raise ConfigError(f"runtime.nproc={world_size}, but {found} ranks were started; start {world_size}")
        kind = best_device(device)
        if cfg.async_tensor and kind.type != "cuda":
            raise ConfigError(f"parallel.async_tensor=true needs CUDA devices, not {kind.type}; set it to false")
        mesh = meet(dict(zip(DIMENSIONS, dims)), device, timeout_s) if world_size > 1 else None
        if cfg.async_tensor and mesh is not None:
            overlap_exchanges(mesh["tensor"])
        if kind.type == "cuda":
            kind = torch.device("cuda", torch.cuda.current_device())
        return cls(cfg, world_size, kind, mesh)

    def divide(self, net: nn.Module, *, precision: str, train: bool = True, methods: Sequence[str] = ()) -> None:
        """Divide a network over the ranks, in place. Every rank has the same weights, on the CPU or on `device`.

        Parameters become DTensors of fp32 shards (one process keeps plain ones, and computes under autocast); make
        optimizers afterwards. The computation's dtype is `precision`'s.

        Args:
            precision: 32-true | bf16-mixed | fp8 (of a DiT's blocks; the rest as bf16-mixed) | fp8-emulated.
            train: False for a fixed network (its parameters take no gradients).
            methods: names other than `forward` that are called.

        Raises:
            ConfigError: a network that a degree does not divide.
        """
        divided = _Divided(_skeleton(net))
        if not train:
            net.requires_grad_(False)
        dit = next((part for part in net.modules() if isinstance(part, DiT)), None)  # a reward model has one inside
        blocks = list(dit.transformer_blocks) if dit is not None else []
        if precision.startswith("fp8"):
            float8.convert(blocks, self.device, self.cfg.tensor, emulate=precision == "fp8-emulated")
        if self.cfg.tensor > 1 or self.cfg.ulysses > 1:
            divided.partial = self._divide_network(net, train)
        if train and blocks:
            recompute(blocks, POLICIES[self.cfg.checkpointing](self.cfg))
        if self.cfg.compile:
            compile_blocks(blocks)
        if self.mesh is None:
            net.to(self.device)
        else:
            policy = fsdp.precision_policy(precision, cast_inputs=dit is None)
            fsdp.shard(net, blocks, self._data_mesh(), self.cfg.zero, policy, train, methods)
        self._nets[net] = divided

    def micro_batch(self, nets: Iterable[nn.Module], first: bool, last: bool) -> None:
        """Before each forward of a step: whether this is its first, and its last, micro-batch."""
        if self.mesh is not None:
            for net in nets:
                fsdp.schedule(net, self.cfg.zero, first, last)

    def finish_gradients(self, nets: Iterable[nn.Module]) -> None:
        """After the last backward of a step: add up what the tensor ranks have parts of."""
        if self.mesh is None or self.cfg.tensor == 1:
            return
        for net in nets:
            parameters = dict(net.named_parameters())
            grads = [parameters[name].grad for name in self._nets[net].partial]
            add_up([g for g in grads if g is not None], self.mesh.get_group("tensor"))

    def clip_(self, params: Iterable[nn.Parameter], max_norm: float) -> Tensor:
        """Scale the gradients so that their L2 norm over all ranks is at most `max_norm`; the norm before, a scalar on
        the device, not waited for."""
        return clip_([p.grad for p in params if p.grad is not None], max_norm)

    def mean(self, x: Tensor) -> Tensor:
        """The mean of the data ranks' values; bit for bit the same on all ranks."""
        if self.world_size == 1:
            return x
        total = x.detach().clone()  # tensor and Ulysses ranks hold their data rank's value, which all_reduce repeats
        dist.all_reduce(total)
        return total / self.world_size

    def any(self, flag: bool) -> bool:
        """Whether any rank says so."""
        if self.world_size == 1:
            return flag
        said = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(said, dist.ReduceOp.MAX)
        return bool(said)

    def agree(self, found: Callable[[], T]) -> T:
        """What rank 0 finds, on every rank; what it raises ends the others too, by way of the launcher."""
        if self.world_size == 1:
            return found()
        answer = [found() if self.rank == 0 else None]
        dist.broadcast_object_list(answer)
        return cast(T, answer[0])

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            dist.barrier()

    @torch.no_grad()
    def whole(self, net: nn.Module) -> nn.Module | None:
        """On rank 0 an undivided fp32 copy on the CPU; None elsewhere. One tensor at a time is gathered."""
        state = {}
        for name, value in net.state_dict().items():
            full = value.full_tensor() if isinstance(value, DTensor) else value
            if self.rank == 0:
                full = full.detach().to("cpu", copy=True)
                state[name] = full.float() if full.is_floating_point() else full
        if self.rank:
            return None
        copied = copy.deepcopy(self._nets[net].skeleton)
        copied.load_state_dict(state, strict=True, assign=True)
        return copied

    def _divide_network(self, net: nn.Module, train: bool) -> list[str]:
        """What `tensor` and `ulysses` do to it; the names of what they leave partial gradients of."""
        if isinstance(net, VideoVAE) and self.cfg.tensor == 1:
            assert self.mesh is not None
            sizes = (self.cfg.ulysses // self.cfg.rows, self.cfg.rows)
            inside = self.mesh["ulysses"]._unflatten(0, sizes, ("frames", "rows"))
            limit(inside, TIMEOUT_S)
            split_vae(net, time=inside.get_group("frames"), height=inside.get_group("rows"))
            return []
        if not isinstance(net, DiT) and not train:
            return []  # small beside what is trained: computed whole by every rank
        return self._divide_dit(net)

    def _divide_dit(self, net: nn.Module) -> list[str]:
        """Tensor and Ulysses parallelism; the names of what they leave partial gradients of."""
        if not isinstance(net, DiT):
            raise ConfigError(
                f"parallel.tensor={self.cfg.tensor}, parallel.ulysses={self.cfg.ulysses} divide a DiT, not a "
                f"{type(net).__name__}; leave them at 1, its ranks share the data"
            )
        assert self.mesh is not None
        sequence = self.cfg.tensor > 1 and self.cfg.sequence
        try:
            self.cfg.check(net.cfg.num_attention_heads, 4 * net.cfg.inner_dim)
            if self.cfg.tensor > 1:
                split_heads(net, self.mesh["tensor"], sequence)
            if self.cfg.ulysses > 1:
                split_tokens(net, self.mesh.get_group("ulysses"))
            if sequence:
                split_between(net, self.mesh["tensor"])
        except ValueError as e:
            raise ConfigError(str(e)) from e
        return partial_gradients(net, sequence)

    def _data_mesh(self) -> DeviceMesh:
        """(copies, shards) of the ranks that the network's own degrees leave over; gradients are averaged over both."""
        assert self.mesh is not None
        if self.cfg.zero == 0:
            copies, shards = self.mesh["replicate", "ulysses"]._flatten("copies"), self.mesh["shard"]
        else:
            copies, shards = self.mesh["replicate"], self.mesh["shard", "ulysses"]._flatten("shards")
        mesh = shards if copies.size() == 1 else DeviceMesh._concatenate([copies, shards])
        limit(mesh, TIMEOUT_S)
        return mesh


def _skeleton(net: nn.Module) -> nn.Module:
    """A copy on the CPU that holds no parameters' memory."""
    memo: dict[int, Tensor] = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in net.parameters()}
    memo |= {id(b): b.detach().to("cpu", copy=True) for b in net.buffers()}
    return copy.deepcopy(net, memo)
