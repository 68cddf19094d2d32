"""Seconds and memory of a training step before it runs, from a stage's config or from the batches of a job; torch-free.

A pack of a bucket is a micro-batch (`accumulate` of them, if set), and the images beside it another. Where the data are
not known, every bucket is taken to have equally many videos.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stepvideo.config import load
from stepvideo.data.buckets import Bucket
from stepvideo.data.config import LatentsConfig
from stepvideo.emulator.hardware import Cluster
from stepvideo.emulator.machine import Target
from stepvideo.emulator.networks import dit_bucket, dit_training
from stepvideo.emulator.plan import Plan
from stepvideo.emulator.step import PARTS, step
from stepvideo.emulator.train_memory import checkpointed
from stepvideo.emulator.workload import Workload
from stepvideo.models.config import DiTConfig, VAEConfig
from stepvideo.parallel.config import TrainParallelConfig
from stepvideo.training.config import TrainConfig
from stepvideo.training.fits import TEXT, Stage, batch_sizes, fits, images_beside, latent_shape, layout, settings, worst

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Micro:
    """A micro-batch of a rank: samples of a latent shape (frames, height, width). share: of all micro-batches."""

    samples: float
    latent: Shape
    share: float = 1.0


@dataclass(frozen=True)
class Seconds:
    """Of a step: the whole, its parts by name, and MFU (0 to 1; operations of the model, no recomputed ones)."""

    total: float
    parts: dict[str, float]
    mfu: float


@dataclass(frozen=True)
class Prediction:
    """Of one stage. memory: bytes of the rank and bucket that need most; 0: not described."""

    stage: str
    layout: str
    ranks: int
    seconds: Seconds
    samples: float  # videos, or images in a stage on images, of a step of all ranks
    memory: float
    device: float  # bytes it has
    steps: int
    basis: str

    def row(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "gpu_hours": self.gpu_hours}

    @property
    def gpu_hours(self) -> float:
        """Of the whole stage."""
        return self.seconds.total * self.steps * self.ranks / 3600


def plan_of(par: TrainParallelConfig, ranks: int, layers: int, micro_batches: int) -> Plan:
    """A training's division as a plan.

    Raises:
        ValueError: ranks that do not divide so.
    """
    replicate, shard, ulysses, tensor = par.dims(ranks)
    return Plan(
        tensor=tensor,
        context=ulysses,
        data=replicate * shard,
        zero=par.zero,
        micro_batches=micro_batches,
        recompute=checkpointed(par, layers) / layers,
        sequence_parallel=par.sequence,
        keep_attention=par.checkpointing == "attention",
    )


def workload(cfg: DiTConfig, micro: Sequence[Micro], element: int, text: int, clip: int = 0) -> Workload:
    """Of a step with these micro-batches; `text` counts all tokens of a prompt, of which `clip` come from CLIP."""
    buckets = [dit_bucket(cfg, "x".join(map(str, m.latent)), m.latent, text, clip, m.share, m.samples) for m in micro]
    return dit_training(cfg, buckets, element)


def step_seconds(
    cfg: DiTConfig, micro: Sequence[Micro], plan: Plan, target: Target, text: int, clip: int = 0
) -> Seconds:
    """Of a step with these micro-batches. `text` counts all tokens of a prompt, of which `clip` come from CLIP."""
    work = workload(cfg, micro, target.element, text, clip)
    found = step(work, Cluster(target.gpu, int(plan.gpus)), plan, target.calibration)
    return Seconds(float(found.total), {p: float(getattr(found, p)) for p in PARTS}, float(found.mfu))


def predictions(stages: Iterable[Stage], target: Target, text: int = TEXT) -> list[Prediction]:
    """Every stage that trains the DiT by flow matching.

    Raises:
        ConfigError: a config that no run would accept, ranks that do not divide.
    """
    stages = list(stages)
    latents, vae = settings(stages)
    try:
        memory = {f.stage: f.memory.total for f in worst(fits(stages, text)) if f.kind == "train"}
    except ValueError:  # blocks that no formula of memory is of
        memory = {}
    found = []
    for s in (s for s in stages if s.kind == "train"):
        cfg = load(TrainConfig, s.config)
        found.append(_stage(s.name, cfg, latents, vae, target, text, float(memory.get(s.name, 0))))
    return found


def _stage(
    name: str, cfg: TrainConfig, latents: LatentsConfig, vae: VAEConfig, target: Target, text: int, memory: float
) -> Prediction:
    run, sizes = cfg.runtime, batch_sizes(cfg, latents, vae, text)
    clip = 77 if len(cfg.dit.caption_channels) == 2 else 0
    micro = micro_batches(cfg, sizes, vae)
    replicate, shard, _, _ = run.parallel.dims(run.nproc)
    packs = max(1, cfg.balance.packs // (replicate * shard))
    kinds = 1 + any(m.latent[0] == 1 for m in micro if cfg.media == "joint")
    plan = plan_of(run.parallel, run.nproc, cfg.dit.num_layers, packs * run.accumulate * kinds)
    seconds = step_seconds(cfg.dit, micro, plan, target, text + clip, clip)
    mean = len(sizes) / sum(1 / k for k in sizes.values())  # equally many videos a bucket
    device = target.gpu.memory
    return Prediction(
        name, layout(cfg), run.nproc, seconds, cfg.balance.packs * mean, memory, device, cfg.steps, target.basis
    )


def micro_batches(cfg: TrainConfig, sizes: dict[Bucket, int], vae: VAEConfig) -> list[Micro]:
    """What the packs are computed in; with images beside videos, half of the micro-batches are images."""
    split = cfg.runtime.accumulate
    weight = sum(1 / k for k in sizes.values())
    found = [Micro(-(-k // split), latent_shape(b, vae), 1 / k / weight) for b, k in sizes.items()]
    if beside := images_beside(cfg, sizes):
        bucket, mean, _ = beside
        found.append(Micro(mean / split, latent_shape(bucket, vae), 1.0))
    return found


def streams(stages: Iterable[Stage], text: int = TEXT) -> dict[str, dict[Bucket, float]]:
    """{stage: samples of each size in a step of all ranks, on average}."""
    stages = list(stages)
    latents, vae = settings(stages)
    found = {}
    for s in (s for s in stages if s.kind == "train"):
        cfg = load(TrainConfig, s.config)
        sizes = batch_sizes(cfg, latents, vae, text)
        weight = sum(1 / k for k in sizes.values())
        found[s.name] = dict.fromkeys(sizes, cfg.balance.packs / weight)
        if beside := images_beside(cfg, sizes):
            image, mean, _ = beside
            found[s.name][image] = cfg.balance.packs * mean
    return found
