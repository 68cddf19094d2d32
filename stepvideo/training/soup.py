"""Means of models on disk (report §8, Step-3), tensor by tensor: memory holds one shard of the result, not the models.

The greedy choice of what to average is that of model soups (Wortsman et al., 2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from stepvideo import storage
from stepvideo.diffusion.latent_stats import STATS_FILE, LatentStats
from stepvideo.errors import ArtifactError
from stepvideo.models.checkpoints import NETWORKS
from stepvideo.models.dit import DiT
from stepvideo.models.tensor_files import Entry, read
from stepvideo.models.weights import Value, require_fit

CHUNK = 2**18  # elements widened to float64 at once


@dataclass(frozen=True)
class Part:
    """A model that is averaged: folder in the released layout, and how much it counts."""

    folder: Path
    weight: float = 1.0

    @property
    def home(self) -> Path:
        """Where its statistics lie: a snapshot's are those of its run."""
        inside = self.folder.parent.name == "snapshots" and not (self.folder / STATS_FILE).exists()
        return self.folder.parent.parent if inside else self.folder


def blend(parts: Sequence[Part]) -> tuple[DiT, Value]:
    """The mean of models as a network on the meta device, and what reads its tensors one at a time.

    Sums are taken in float64 in an order that follows from the content, so that any order of `parts` gives the same
    bits; equal models give themselves. Tensors keep their dtype.

    Raises:
        ArtifactError: models differ in config, tensors, dtype or latent statistics; names the first difference.
    """
    order = sorted(parts, key=lambda p: (storage.sampled_digest([p.folder / "transformer"]), p.weight))
    model, found = NETWORKS["dit"].opened(order[0].folder)
    assert isinstance(model, DiT)
    entries = [(p.weight, _held(p, order[0], model, found)) for p in order]
    total = math.fsum(weight for weight, _ in entries)

    def value(name: str, like: Tensor) -> Tensor:
        acc = torch.zeros(like.shape, dtype=torch.float64)
        for weight, held in entries:
            for _, tensor in read({name: held[name]}):
                for a, x in zip(acc.view(-1).split(CHUNK), tensor.view(-1).split(CHUNK), strict=True):
                    a.add_(x, alpha=weight)
        return acc.div_(total).to(like.dtype)

    return model, value


def _held(part: Part, first: Part, model: DiT, found: dict[str, Entry]) -> dict[str, Entry]:
    """The tensors of a model that is like `first`."""
    dit = NETWORKS["dit"]
    cfg = dit.config(part.folder)
    for field in fields(cfg):
        a, b = getattr(model.cfg, field.name), getattr(cfg, field.name)
        if a != b:
            raise _different(first, part, f"config {field.name} is {a} and {b}")
    held, _ = dit.held(part.folder, cfg)
    require_fit(model, held, part.folder / dit.folder)
    for name, entry in found.items():
        if held[name].dtype != entry.dtype:
            raise _different(first, part, f"{name} is {entry.dtype} and {held[name].dtype}")
    ours, theirs = (LatentStats.read(p.home, cfg.in_channels).to_dict() for p in (first, part))
    for name in ours:
        if ours[name] != theirs[name]:
            raise _different(first, part, f"latents are normalised by the {name} {ours[name]} and {theirs[name]}")
    return held


def _different(a: Part, b: Part, what: str) -> ArtifactError:
    return ArtifactError(f"{a.folder} and {b.folder} cannot be averaged: {what}; take models of one start and one kind")


def in_memory(parts: Sequence[Part]) -> DiT:
    """The mean of models, to be used at once: memory holds it and one tensor more."""
    model, value = blend(parts)
    state = {name: value(name, tensor) for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class Trial:
    """One step of the greedy choice: which parts were averaged (by place), the value, whether that was kept."""

    parts: list[int]
    value: float
    kept: bool


def greedy(count: int, value: Callable[[list[int]], float]) -> tuple[list[int], list[Trial]]:
    """Which of `count` models to average: from the best single one on, each further one that does no harm.

    Args:
        value: of the average of these models, lower is better; NaN is worse than any number.

    Returns:
        Their places, best single model first, and all trials: first every model by itself, then the additions.

    Raises:
        ValueError: no model by itself has a value.
    """
    singles = [value([i]) for i in range(count)]
    order = sorted(range(count), key=lambda i: (math.isnan(singles[i]), singles[i], i))
    chosen, best = [order[0]], singles[order[0]]
    if math.isnan(best):
        raise ValueError("no model has a value; are the held-out clips what the models were trained for?")
    trials = [Trial([i], v, i == order[0]) for i, v in enumerate(singles)]
    for i in order[1:]:
        tried = value([*chosen, i])
        kept = tried <= best
        trials.append(Trial([*chosen, i], tried, kept))
        if kept:
            chosen, best = [*chosen, i], tried
    return chosen, trials
