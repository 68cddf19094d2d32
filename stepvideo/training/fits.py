"""Whether the DiT's stages of a cascade fit on their devices, bucket by bucket; torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from stepvideo.config import load
from stepvideo.data.balance_config import BucketConfig
from stepvideo.data.balance_sizes import eq12, solve_alpha
from stepvideo.data.buckets import Bucket, buckets, sample_tflops
from stepvideo.data.config import LatentsConfig
from stepvideo.emulator.activations import MicroBatch
from stepvideo.emulator.train_memory import Training, TrainMemory, train_memory
from stepvideo.models.config import VAEConfig
from stepvideo.training.config import TrainConfig

TEXT = 256  # Step-LLM's tokens, which Table 3 of the report implies
VIDEOS = 10**6  # of every bucket, where the data are not known


class Stage(Protocol):
    """A stage of a cascade, such as `flows.graph.Node`."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def config(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Fit:
    """One bucket of one stage on one rank."""

    stage: str
    bucket: str
    samples: int  # of a micro-batch
    layout: str
    memory: TrainMemory

    def row(self, device: float) -> dict[str, Any]:
        """JSON-able; bytes."""
        about = {"stage": self.stage, "bucket": self.bucket, "samples": self.samples, "layout": self.layout}
        return {**about, **asdict(self.memory), "total": self.memory.total, "fits": self.memory.total <= device}


def fits(stages: Iterable[Stage], text: int = TEXT) -> list[Fit]:
    """Every bucket of every stage that trains the DiT by flow matching.

    Raises:
        ConfigError, ValueError: a config that no run would accept, ranks that do not divide.
    """
    stages = list(stages)
    latents = next((load(LatentsConfig, s.config) for s in stages if s.kind == "latents"), LatentsConfig())
    vaes = [s.config["vae"] for s in stages if s.kind == "vae"]
    vae = load(VAEConfig, vaes[-1]) if vaes else VAEConfig()
    return [
        fit
        for s in stages
        if s.kind == "train"
        for fit in _stage(s.name, load(TrainConfig, s.config), latents, vae, text)
    ]


def worst(found: Iterable[Fit]) -> list[Fit]:
    """The bucket of each stage that needs most."""
    by_stage: dict[str, Fit] = {}
    for fit in found:
        if fit.stage not in by_stage or fit.memory.total > by_stage[fit.stage].memory.total:
            by_stage[fit.stage] = fit
    return list(by_stage.values())


def _stage(name: str, cfg: TrainConfig, latents: LatentsConfig, vae: VAEConfig, text: int) -> Iterable[Fit]:
    run, optim = cfg.runtime, cfg.optim
    how = Training(run.parallel, run.nproc, cfg.precision, run.accumulate, optim.name == "muon", optim.ema > 0)
    for bucket, samples in batch_sizes(cfg, latents, vae, text).items():
        shape = vae.num_latents(bucket.frames), bucket.height // vae.spatial_factor, bucket.width // vae.spatial_factor
        own = -(-samples // run.accumulate)
        yield Fit(name, str(bucket), own, layout(cfg), train_memory(cfg.dit, MicroBatch(own, shape, text), how))


def batch_sizes(cfg: TrainConfig, latents: LatentsConfig, vae: VAEConfig, text: int = TEXT) -> dict[Bucket, int]:
    """Videos, or in a stage on images images, of a pack of each bucket, by Eq. 12.

    If its alpha is to be solved for, as many videos are assumed in every bucket.
    """
    sizes, balance = latents.resolutions[cfg.resolution], cfg.balance
    if cfg.media == "images":
        return {b: balance.image_batch_size for b in buckets(BucketConfig([1], sizes))}
    found = {str(b): b for b in buckets(BucketConfig(latents.lengths, sizes))}
    if balance.method == "none":
        return {b: balance.batch_size for b in found.values()}
    costs = {name: sample_tflops(b, cfg.dit, vae, text) for name, b in found.items()}
    target = balance.batch_size * max(costs.values())
    alpha = balance.alpha or solve_alpha(costs, target, dict.fromkeys(costs, VIDEOS), balance.batch_size)
    return {found[name]: k for name, k in eq12(costs, target, alpha).items()}


def layout(cfg: TrainConfig) -> str:
    """Such as "TP8+SP ZeRO-1, 94 % recomputed"."""
    par, words = cfg.runtime.parallel, []
    if par.tensor > 1:
        words.append(f"TP{par.tensor}" + "+SP" * par.sequence)
    if par.ulysses > 1:
        words.append(f"CP{par.ulysses}")
    words.append(f"ZeRO-{par.zero}")
    again = {"none": "", "fraction": f", {par.checkpoint_fraction:.0%} recomputed", "full": ", recomputed"}
    return " ".join(words) + again.get(par.checkpointing, ", attention kept")
