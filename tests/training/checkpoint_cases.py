"""What ranks do in test_checkpoint_ranks.py: a toy network, divided in many ways, trained, saved and loaded."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from stepvideo.errors import StepVideoError
from stepvideo.training import checkpoint_files as files
from stepvideo.training.checkpoint import Checkpointer
from stepvideo.training.config import OptimConfig
from stepvideo.training.optim import EMA, optimizers
from stepvideo.training.state import restore, train_state

LAYOUTS = {  # how many ranks, and how they divide
    "one": 1,
    "replicas": 2,
    "fsdp2": 2,
    "tensor2": 2,
    "fsdp4": 4,
    "tensor2 x fsdp2": 4,
    "replicas2 x fsdp2": 4,
}
OPTIM = OptimConfig(name="muon", lr=1e-2, muon_lr=1e-2, ema=0.9, weight_decay=0.1)


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Module()
    net.blocks = nn.Linear(5, 6)  # does not divide evenly by 4, nor by 2 along its input
    net.mid = nn.Conv3d(2, 3, 3)
    net.head = nn.Linear(6, 1, bias=False)
    net.late = nn.Linear(4, 4)  # gets no gradient yet, like what is frozen
    net.register_buffer("count", torch.zeros(3))
    return net


def divided(layout: str) -> nn.Module:
    net = network()
    if layout == "tensor2":
        _tensor(net, init_device_mesh("cpu", (2,)))
    elif layout == "tensor2 x fsdp2":
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("shard", "tensor"))
        _tensor(net, mesh["tensor"])
        fully_shard(net, mesh=mesh["shard"])
    elif layout == "replicas2 x fsdp2":
        fully_shard(net, mesh=init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard")))
    elif layout.startswith("fsdp"):
        fully_shard(net, mesh=init_device_mesh("cpu", (LAYOUTS[layout],)))
    return net


def own_part(whole: Tensor, like: Tensor) -> Tensor:
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def _tensor(net: nn.Module, mesh: Any) -> None:
    """As column- and row-parallel layers are divided; what tensor ranks do not divide, they replicate."""
    for name, p in list(net.named_parameters()):
        place = {"blocks.weight": Shard(0), "blocks.bias": Shard(0), "head.weight": Shard(1)}.get(name, Replicate())
        owner = net.get_submodule(name.rpartition(".")[0])
        owner.register_parameter(name.rpartition(".")[2], nn.Parameter(distribute_tensor(p.detach(), mesh, [place])))


class Module:
    """What state.py asks of a StageModule, and a step whose gradients are drawn whole, then divided."""

    def __init__(self, layout: str) -> None:
        self.net = divided(layout)
        self.ema = EMA(self.net, OPTIM.ema)
        self.done, self.curve = 0, []
        self.watcher = Watcher()
        opts = optimizers(self.net.named_parameters(), OPTIM)
        self.trainer = SimpleNamespace(optimizers=opts, callbacks=[self.watcher])

    def trained(self) -> dict[str, nn.Module]:
        return {"net": self.net}

    def step(self) -> None:
        draw = torch.Generator().manual_seed(self.done)
        for name, p in self.net.named_parameters():
            grad = torch.randn(p.shape, generator=draw)
            if name.startswith("late") and self.done < 3:
                continue
            p.grad = own_part(grad, p)
        for opt in self.trainer.optimizers:
            opt.step()
        self.net.count += 1
        self.ema.update(self.done)
        self.done += 1
        self.curve.append([self.done, 1.0, float(torch.rand(()))])
        self.watcher.seen.append(self.done)

    def whole(self) -> dict[str, Tensor]:
        state = train_state(self)["tensors"]
        return {n: (t.full_tensor() if isinstance(t, DTensor) else t).clone() for n, t in state.items()}


class Watcher:
    state_key = "watcher"

    def __init__(self) -> None:
        self.seen: list[int] = []

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


def start(folder: Path) -> Checkpointer:
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")
    return Checkpointer(folder, SimpleNamespace(rank=int(os.environ["RANK"])))


def train(layout: str, folder: Path, load: bool, stop: int) -> tuple[dict[str, Tensor], Any]:
    """Train to step `stop` from the newest checkpoint if `load`, save; the state, and what else was restored."""
    checkpoints = start(folder)
    module = Module(layout)
    torch.manual_seed(7 + checkpoints.rank)
    if load:
        step = checkpoints.newest()
        assert step is not None
        state = train_state(module)
        checkpoints.load(step, state)
        restore(module, state, 0, checkpoints.rank)  # type: ignore[arg-type]
    first = module.done, list(module.watcher.seen), torch.rand(()).item()
    while module.done < stop:
        module.step()
    checkpoints.save(module.done, train_state(module))  # type: ignore[arg-type]
    at_save = module.whole()
    module.step()  # while the save is under way
    checkpoints.wait()
    return at_save, first


def fails_on_one_rank(folder: Path) -> tuple[str, list[str], int | None]:
    """Rank 1 cannot write: (what this rank says, what is in the folder, the newest step)."""
    import resource

    checkpoints = start(folder)
    module = Module("fsdp2")
    checkpoints.save(1, train_state(module))  # type: ignore[arg-type]
    checkpoints.wait()
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    if checkpoints.rank == 1:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, former[1]))
    said = ""
    checkpoints.save(2, train_state(module))  # type: ignore[arg-type]
    try:
        checkpoints.save(3, train_state(module))  # type: ignore[arg-type]
    except StepVideoError as e:
        said = str(e)
    if checkpoints.rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    newest = checkpoints.newest()
    return said, sorted(p.name for p in folder.iterdir()), newest


def damaged_on_one_rank(folder: Path) -> int | None:
    checkpoints = start(folder)
    module = Module("fsdp2")
    for step in (1, 2):
        checkpoints.save(step, train_state(module))  # type: ignore[arg-type]
    checkpoints.wait()
    if checkpoints.rank == 1:
        (files.step_folder(folder, 2) / "__1_0.distcp").write_bytes(b"")
    dist.barrier()
    return checkpoints.newest()
