"""All that a training run is made of, by name: networks, optimizers, moving average, random generators, callbacks.

Parameter names are the keys, and divided tensors stay DTensors, so that a checkpoint fits any number of ranks and any
way to divide the networks.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from stepvideo.data.draw import rng
from stepvideo.training.checkpoint import State

if TYPE_CHECKING:
    from stepvideo.training.module import StageModule

WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")  # what torch.compile and activation checkpointing add to names


def train_state(module: StageModule) -> State:
    """The state of a module that a Trainer holds. Its tensors are the live ones: `Checkpointer.load` fills them.

    Optimizers get the state that their first step would give them, so that what is saved and what is loaded have the
    same names.
    """
    tensors: dict[str, Tensor] = {}
    names: dict[int, str] = {}
    for part, net in module.trained().items():
        for name, p in named_tensors(net):
            names[id(p)] = key = f"{part}/{name}"
            if name not in getattr(net, "given", ()):  # weights beside adapters: they are where they came from
                tensors[f"model/{key}"] = p.detach()
    counts: dict[str, float] = {}
    for optimizer in module.trainer.optimizers:
        for p, entries in started(optimizer):
            for entry, value in entries.items():
                if value.ndim or entry != "step":
                    tensors[f"{entry}/{names[id(p)]}"] = value
                else:  # one number a parameter: no file entry for each
                    counts[names[id(p)]] = float(value)
    if module.ema is not None:
        tensors |= {f"ema/net/{plain(name)}": shadow for name, shadow in module.ema.shadow.items()}
    callbacks = {c.state_key: c.state_dict() for c in module.trainer.callbacks}  # type: ignore[attr-defined]
    shared = {
        "done": module.done,
        "curve": torch.tensor(module.curve, dtype=torch.float64),  # as a list it would hold the step for long
        "optimizer_steps": counts,
        "callbacks": {k: v for k, v in callbacks.items() if v},
    }
    return State(tensors=tensors, shared=shared, own=generators())


def restore(module: StageModule, state: State, seed: int, rank: int) -> None:
    """Take over what `Checkpointer.load` put into `state = train_state(module)`; its tensors are in place already.

    A rank that the saved run did not have gets generators of its own, drawn from (seed, rank).
    """
    shared = state["shared"]
    module.done = shared["done"]
    module.curve = [[int(step), *rest] for step, *rest in shared["curve"].tolist()]
    names = {id(p): f"{part}/{n}" for part, net in module.trained().items() for n, p in named_tensors(net)}
    for optimizer in module.trainer.optimizers:
        for p, entries in started(optimizer):
            if "step" in entries:
                entries["step"].fill_(shared["optimizer_steps"][names[id(p)]])
    for callback in module.trainer.callbacks:  # type: ignore[attr-defined]
        if callback.state_key in shared["callbacks"]:
            callback.load_state_dict(shared["callbacks"][callback.state_key])
    if state["own"]:
        set_generators(state["own"])
    else:
        torch.manual_seed(int(rng(seed, "generators", rank).integers(2**63)))


def plain(name: str) -> str:
    """A parameter's name without what wrappers put into it."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def named_tensors(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers. Asked of `state_dict`, before which FSDP puts its shards in place."""
    for name, tensor in net.state_dict(keep_vars=True).items():
        yield plain(name), tensor


def started(optimizer: torch.optim.Optimizer) -> Iterator[tuple[nn.Parameter, dict[str, Tensor]]]:
    """Each parameter's optimizer state, which is made as the first step would make it."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            state = optimizer.state[p]
            if not state and isinstance(optimizer, torch.optim.AdamW):
                zeros = {k: torch.zeros_like(p, memory_format=torch.preserve_format) for k in ("exp_avg", "exp_avg_sq")}
                state |= {"step": torch.tensor(0.0), **{k: z.detach() for k, z in zeros.items()}}
            elif not state:
                state["momentum"] = torch.zeros_like(p).detach()
            yield p, state


def generators() -> dict[str, Any]:
    """States of this process's random generators, of types that torch.load(weights_only=True) reads."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_generators(saved: dict[str, Any]) -> None:
    """Continue the streams of `generators()`; another kind of device starts its own."""
    random.setstate(saved["python"])
    name, keys, *rest = saved["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(saved["torch"])
    if saved["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved["cuda"])
