"""Whether the DiT's stages of a cascade fit on their devices, bucket by bucket; torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from stepvideo.config import load
from stepvideo.data.balance_config import BucketConfig
from stepvideo.data.balance_sizes import eq12, solve_alpha
from stepvideo.data.buckets import Bucket, buckets, sample_tflops
from stepvideo.data.config import LatentsConfig, clips_at_once
from stepvideo.emulator.activations import MicroBatch
from stepvideo.emulator.ledger import Ledger
from stepvideo.emulator.train_memory import Training, TrainMemory, train_memory
from stepvideo.emulator.vae_memory import vae_encode_chunk, vae_parameters
from stepvideo.models.config import DiTConfig, VAEConfig
from stepvideo.training.config import TrainConfig, TurboConfig
from stepvideo.training.dpo_config import DPOConfig

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
    dit: DiTConfig
    batch: MicroBatch
    how: Training
    kind: str = "train"

    def row(self, device: float) -> dict[str, Any]:
        """JSON-able; bytes."""
        about = {"stage": self.stage, "bucket": self.bucket, "samples": self.samples, "layout": self.layout}
        total = self.memory.total
        return {**about, **asdict(self.memory), "total": total, "fits": total <= device}


def fits(stages: Iterable[Stage], text: int = TEXT) -> list[Fit]:
    """Every bucket of every stage that trains the DiT; DPO and Turbo at the size that the last such stage makes.

    Raises:
        ConfigError, ValueError: a config that no run would accept, ranks that do not divide.
    """
    stages = list(stages)
    latents, vae = settings(stages)
    found, trained = [], None
    for s in stages:
        if s.kind == "train":
            trained = load(TrainConfig, s.config)
            found += _stage(s.name, trained, latents, vae, text)
        elif s.kind in ("dpo", "turbo") and trained is not None:
            own = load(DPOConfig if s.kind == "dpo" else TurboConfig, s.config)
            found += _refined(s, own, trained, latents, vae, text)
    return found


def remedies(fit: Fit, device: float) -> tuple[list[str], float]:
    """Changes of a stage's runtime that make it fit, the mildest first and each by itself, and how many bytes are still
    missing after the best of them (0: something helps)."""
    par, fixed = fit.how.parallel, fit.memory.beside + max(0, int(fit.memory.encoding) - int(fit.memory.tensors))
    tried: list[tuple[str, Training, MicroBatch]] = []

    def add(words: str, batch: MicroBatch = fit.batch, accumulate: int = 1, **changes: Any) -> None:
        try:
            how = replace(fit.how, parallel=replace(par, **changes), accumulate=fit.how.accumulate * accumulate)
            train_memory(fit.dit, batch, how)
        except ValueError:  # ranks that do not divide so
            return
        tried.append((words, how, batch))

    for parts in (2, 4, 8, 16):
        if fit.samples >= parts:
            smaller = replace(fit.batch, samples=-(-fit.samples // parts))
            add(f"accumulate={fit.how.accumulate * parts}", smaller, parts)
    if par.checkpointing != "full":
        add("parallel.checkpointing=full", checkpointing="full")
    for degree in ("ulysses", "tensor"):
        for times in (2, 4, 8):
            more = getattr(par, degree) * times
            add(f"parallel.{degree}={more}", **{degree: more})
            add(f"parallel.{degree}={more} parallel.checkpointing=full", **{degree: more, "checkpointing": "full"})
    add("parallel.zero=3", zero=3)
    add("parallel.zero=3 parallel.checkpointing=full", zero=3, checkpointing="full")
    needs = [(words, int(train_memory(fit.dit, b, how).total) + fixed) for words, how, b in tried]
    mildest: dict[str, str] = {}  # of each kind of change
    for words, need in needs:
        if need <= device:
            mildest.setdefault(words.split("=")[0], words)
    helping = list(mildest.values())
    return helping, 0.0 if helping else min((need for _, need in needs), default=int(fit.memory.total)) - device


def settings(stages: Iterable[Stage]) -> tuple[LatentsConfig, VAEConfig]:
    """How a cascade's latents are cut, and its Video-VAE."""
    stages = list(stages)
    latents = next((load(LatentsConfig, s.config) for s in stages if s.kind == "latents"), LatentsConfig())
    vaes = [s.config["vae"] for s in stages if s.kind == "vae"]
    return latents, load(VAEConfig, vaes[-1]) if vaes else VAEConfig()


def worst(found: Iterable[Fit]) -> list[Fit]:
    """The bucket of each stage that needs most."""
    by_stage: dict[str, Fit] = {}
    for fit in found:
        if fit.stage not in by_stage or fit.memory.total > by_stage[fit.stage].memory.total:
            by_stage[fit.stage] = fit
    return list(by_stage.values())


def _stage(name: str, cfg: TrainConfig, latents: LatentsConfig, vae: VAEConfig, text: int) -> Iterable[Fit]:
    run, how, sizes = cfg.runtime, _training(cfg), batch_sizes(cfg, latents, vae, text)
    if beside := images_beside(cfg, sizes):
        bucket, _, most = beside
        sizes = sizes | {bucket: most}
    for bucket, samples in sizes.items():
        own = -(-samples // run.accumulate)
        batch = MicroBatch(own, latent_shape(bucket, vae), text)
        memory = train_memory(cfg.dit, batch, how)
        if latents.on_the_fly:
            memory = replace(memory, **_encoding(vae, bucket, own, memory.beside))
        yield Fit(name, str(bucket), own, layout(cfg), memory, cfg.dit, batch, how)


def _refined(
    s: Stage, cfg: DPOConfig | TurboConfig, model: TrainConfig, latents: LatentsConfig, vae: VAEConfig, text: int
) -> Iterable[Fit]:
    """DPO computes winners and losers at once, beside a fixed reference, which adapters do without."""
    run, pairs = cfg.runtime, isinstance(cfg, DPOConfig)
    replicate, shard, _, _ = run.parallel.dims(run.nproc)
    own = -(-cfg.batch_size // (replicate * shard * run.accumulate)) * (2 if pairs else 1)
    how = replace(_training(cfg), reference=pairs and not cfg.lora.rank)
    videos = model.media != "images"
    lengths = [max(latents.lengths) if videos else 1]
    for bucket in buckets(BucketConfig(lengths, latents.resolutions[model.resolution])):
        batch = MicroBatch(own, latent_shape(bucket, vae), text)
        memory = train_memory(model.dit, batch, how)
        yield Fit(s.name, str(bucket), own, layout(cfg), memory, model.dit, batch, how, s.kind)


def _training(cfg: TrainConfig | DPOConfig | TurboConfig) -> Training:
    run, optim = cfg.runtime, cfg.optim
    return Training(run.parallel, run.nproc, cfg.precision, run.accumulate, optim.name == "muon", optim.ema > 0)


def _encoding(vae: VAEConfig, bucket: Bucket, samples: int, beside: int) -> dict[str, int]:
    """A whole VAE in fp32 on every rank, which encodes chunk by chunk in bf16 before the forward."""
    m, (encoder, _) = Ledger(), vae_parameters(vae)
    at_once = min(samples, clips_at_once(*bucket, vae.frame_len))
    pixels = vae.in_channels * bucket.frames * bucket.height * bucket.width
    m.add(samples * pixels + at_once * pixels * 4 + 2 * encoder, "clips and cast weights")
    frames = min(bucket.frames, vae.frame_len or bucket.frames)
    vae_encode_chunk(m, vae, at_once, (frames, bucket.height, bucket.width), 2)
    return {"beside": beside + 4 * sum(vae_parameters(vae)), "encoding": m.peak}


def latent_shape(bucket: Bucket, vae: VAEConfig) -> tuple[int, int, int]:
    """Latent frames, height and width of a bucket's clips."""
    return vae.num_latents(bucket.frames), bucket.height // vae.spatial_factor, bucket.width // vae.spatial_factor


def images_beside(cfg: TrainConfig, sizes: Mapping[Bucket, int]) -> tuple[Bucket, float, int] | None:
    """In joint training: bucket of the images that packs are padded with, how many a pack has on average, and twice as
    many, which the lightest packs are taken to have (`balance.max_tokens` is what bounds them)."""
    if cfg.media != "joint" or not cfg.balance.video_to_image:
        return None
    mean = len(sizes) / sum(1 / k for k in sizes.values()) / cfg.balance.video_to_image
    heaviest = max(sizes, key=lambda b: b.height * b.width)
    image = Bucket(1, heaviest.height, heaviest.width)
    most = max(1, round(2 * mean))
    if cfg.balance.method == "none":
        mean = most = cfg.balance.image_batch_size
    return image, mean, most


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


def layout(cfg: TrainConfig | DPOConfig | TurboConfig) -> str:
    """Such as "TP8+SP ZeRO-1, 94 % recomputed"."""
    par, words = cfg.runtime.parallel, []
    if par.tensor > 1:
        words.append(f"TP{par.tensor}" + "+SP" * par.sequence)
    if par.ulysses > 1:
        words.append(f"CP{par.ulysses}")
    words.append(f"ZeRO-{par.zero}")
    again = {"none": "", "fraction": f", {par.checkpoint_fraction:.0%} recomputed", "full": ", recomputed"}
    return " ".join(words) + again.get(par.checkpointing, ", attention kept")
