"""Configs of the training stages (torch-free: plans and `--help` read them)."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepvideo.config import Runtime, StageConfig
from stepvideo.data.balance_config import BalanceConfig, check_ranks
from stepvideo.data.feed_config import FeedConfig
from stepvideo.diffusion.config import SamplingConfig, TimestepConfig
from stepvideo.models.config import (
    CLIPImageConfig,
    CLIPTextConfig,
    DiscriminatorConfig,
    DiTConfig,
    StepLLMConfig,
    VAEConfig,
)
from stepvideo.models.layout import PARTS
from stepvideo.parallel.config import TrainParallelConfig
from stepvideo.telemetry.config import TelemetryConfig
from stepvideo.training.lora_config import LoRAConfig
from stepvideo.training.monitor_config import GuardConfig, MonitorConfig, SamplesConfig

PRECISIONS = ("32-true", "bf16-mixed", "fp8")  # fp8: the products in the DiT's blocks, the rest as bf16-mixed
MEDIA = ("images", "joint", "videos")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(known)}")


def _positive(**values: float) -> None:
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"{name}={value} must be greater than 0")


@dataclass
class TrainRuntime(Runtime):
    """How a training runs. Nothing here changes its result beyond the order of additions and, in bf16, rounding."""

    parallel: TrainParallelConfig = field(default_factory=TrainParallelConfig)
    accumulate: int = 1  # micro-batches that a rank's share of a batch is computed in
    keep: int = 2  # checkpoints
    prefetch: int = 2  # steps that each of `workers` reads ahead
    latents_url: str = ""  # read the latent cache from here, such as s3://…, in place of the store's own copy
    latents_local: str = ""  # … and keep its shards in this folder; nothing is ever removed from it
    data: str = "own"  # own: this job reads samples from the cache, or encodes them; streamed: producers send them
    feed: FeedConfig = field(default_factory=FeedConfig)  # … and how
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)

    def __post_init__(self) -> None:
        _one_of("runtime.data", self.data, ("own", "streamed"))
        if self.data == "streamed" and self.workers:
            raise ValueError(f"runtime.workers={self.workers} with data=streamed: samples come ready; set workers to 0")
        _positive(accumulate=self.accumulate, keep=self.keep, prefetch=self.prefetch)
        _positive(checkpoint_every=self.checkpoint_every, log_every=self.log_every)


@dataclass
class TrainStageConfig(StageConfig):
    """Base of the configs of stages that train."""

    guard: GuardConfig = field(default_factory=GuardConfig)
    runtime: TrainRuntime = field(default_factory=TrainRuntime)


@dataclass
class OptimConfig:
    """Optimizer and schedule. `muon` updates blocks' matrices and convolutions by Muon, the rest by AdamW."""

    name: str = "adamw"  # adamw | muon
    lr: float = 1e-4  # AdamW's
    muon_lr: float = 1e-2
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    weight_decay: float = 0.0
    warmup: int = 20  # steps of linear warm-up
    decay: str = "constant"  # constant | cosine (to `final` of the peak)
    final: float = 0.1
    clip: float = 1.0  # global gradient norm
    ema: float = 0.0  # decay of the exponential moving average that is handed over; 0: the last weights are

    def __post_init__(self) -> None:
        _one_of("optim.name", self.name, ("adamw", "muon"))
        _one_of("optim.decay", self.decay, ("constant", "cosine"))
        _positive(lr=self.lr, muon_lr=self.muon_lr, clip=self.clip)
        if self.warmup < 0:
            raise ValueError(f"optim.warmup={self.warmup} must be 0 (none) or more steps")
        if not 0 <= self.ema < 1:
            raise ValueError(f"optim.ema={self.ema} must lie in [0, 1); 0 keeps no average")
        if len(self.betas) != 2:
            raise ValueError(f"optim.betas={list(self.betas)}: give two")


@dataclass
class TextConfig(TrainStageConfig):
    """Bilingual text encoders (report §4.2): CLIP trained contrastively with an image tower, Step-LLM by next token."""

    clip_text: CLIPTextConfig = field(default_factory=CLIPTextConfig)
    clip_image: CLIPImageConfig = field(default_factory=CLIPImageConfig)
    step_llm: StepLLMConfig = field(default_factory=StepLLMConfig)
    llm_vocab: int = 400  # sentencepiece pieces
    llm_length: int = 48  # tokens, BOS and EOS included
    clip_length: int = 48
    image_size: int = 64
    clip_steps: int = 200
    clip_batch: int = 64
    llm_steps: int = 200
    llm_batch: int = 64
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-3))

    def __post_init__(self) -> None:
        _positive(clip_steps=self.clip_steps, clip_batch=self.clip_batch)
        _positive(llm_steps=self.llm_steps, llm_batch=self.llm_batch)


@dataclass
class VAETrainConfig(TrainStageConfig):
    """One stage of Video-VAE training (report §4.1.4). Stage 2 starts from stage 1's backbone.

    `unfreeze` says from which step on a part learns; what it does not name learns from the start. Parts: dual_path,
    mid, backbone, or the beginning of parameters' names (`decoder.up.3`), of which the longest counts.
    """

    vae: VAEConfig = field(default_factory=VAEConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    steps: int = 500
    batch_size: int = 4
    sizes: list[int] = field(default_factory=lambda: [64, 48])  # square pixel sizes, one a step
    image_share: float = 0.2  # share of steps on single images
    images_per_clip: int = 4  # images that replace one clip in an image step
    joint_images: int = 0  # images beside the clips of every step, in micro-batches of their own; needs image_share=0
    lengths: list[int] = field(default_factory=lambda: [17, 9])  # frames of a clip, one length a step
    crop: int = 0  # side of crops of the largest size; 0: none
    crop_share: float = 0.0  # share of steps on crops
    crops_per_clip: int = 1  # crops that replace one clip (or image) in a step on crops, each of another clip
    crop_tries: int = 1  # random places a crop is chosen from: the one that varies most, so that detail is seen often
    max_clips: int = 0  # clips held in memory; 0: all
    l1: float = 1.0
    perceptual: float = 0.1
    kl: float = 1e-4  # on the mean over latent elements, in nats
    start_logvar: float = -6.0  # of the posterior, before training
    l2: float = 0.0  # on top of the report's L1; steadier colours in very short trainings
    perceptual_frames: int = 4  # frames of a clip that the perceptual loss sees
    gan: float = 0.0  # weight of the adversarial loss, scaled by the ratio of gradients at the last layer
    gan_when: str = "step"  # sets in at step `gan_from`, or once the other losses have: step | converged
    gan_from: int = 0  # converged: not before it
    gan_window: int = 200  # converged: when the mean loss of so many steps is less than `gan_gain` …
    gan_gain: float = 0.01  # … below that of as many steps before them, as a share of it
    unfreeze: dict[str, int] = field(default_factory=dict)  # part: first step in which it learns
    precision: str = "bf16-mixed"
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-3, ema=0.99))

    def __post_init__(self) -> None:
        _one_of("precision", self.precision, PRECISIONS[:2])
        _positive(steps=self.steps, batch_size=self.batch_size)
        _positive(crops_per_clip=self.crops_per_clip, crop_tries=self.crop_tries, gan_window=self.gan_window)
        _one_of("gan_when", self.gan_when, ("step", "converged"))
        if self.gan and (inside := self.runtime.parallel.ulysses) > 1:
            raise ValueError(
                f"gan={self.gan} with runtime.parallel.ulysses={inside}: the adversarial weight is not computed over "
                "ranks that divide a clip; train without it there (gan=0), or leave ulysses at 1"
            )
        if self.joint_images and self.image_share:
            raise ValueError(
                f"joint_images={self.joint_images} with image_share={self.image_share}: with images in every step "
                "there are no steps on images alone; set image_share=0"
            )
        factor = 16 if self.vae.dual_path else 8
        for size in self.sizes:
            if size % factor:
                raise ValueError(f"sizes: {size} is not a multiple of {factor}, the VAE's spatial factor")
        if self.crop % factor or self.crop > max(self.sizes):
            raise ValueError(f"crop={self.crop}: give a multiple of {factor} up to the largest size, {max(self.sizes)}")
        longest = self.vae.frame_len or max(self.lengths)
        for length in self.lengths:
            if not 1 <= length <= longest:
                raise ValueError(f"lengths: {length} is not in 1 … {longest}, the frames of the VAE's chunks")


@dataclass
class ShippedRuntime(Runtime):
    path: str = ""  # folder of the weights


@dataclass
class ShippedConfig(StageConfig):
    """Weights that this project's own stages trained and the repository ships (`weights/NAME`)."""

    content: str = ""  # digest of the folder: the key follows the weights, not where they lie
    runtime: ShippedRuntime = field(default_factory=ShippedRuntime)


@dataclass
class GivenConfig(StageConfig):
    """A part of a model from a folder in the released layout."""

    part: str = "dit"  # dit | vae | text
    content: str = ""  # digest of its files: the key follows the weights, not where they lie
    runtime: ShippedRuntime = field(default_factory=ShippedRuntime)

    def __post_init__(self) -> None:
        _one_of("part", self.part, tuple(PARTS))


@dataclass
class TrainConfig(TrainStageConfig):
    """Flow-matching training of the DiT (report §4.3, §8): T2I, T2VI and SFT differ only in these fields."""

    dit: DiTConfig = field(default_factory=DiTConfig)
    subset: str = "s1"  # which clips: s1 … s6, sft_1 …
    resolution: str = "low"  # of the latents: low | high
    images: str = ""  # which images: images, images_2; "": all that were encoded
    media: str = "videos"  # images: T2I; joint: T2VI, with `balance.video_to_image`; videos: SFT
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    steps: int = 500
    captions: dict[str, float] = field(
        default_factory=lambda: {"short": 0.5, "dense": 0.3, "title": 0.2}
    )  # kind: probability
    drop_captions: float = 0.1  # share replaced by the empty caption, for guidance
    timesteps: TimestepConfig = field(default_factory=lambda: TimestepConfig(law="logit_normal"))
    sample_posterior: bool = True
    held_out: float = 0.02  # share of the clips that no stage trains on, for the validation loss
    max_failed: float = 0.05  # share of samples that may fail to decode, others standing in for them
    snapshots: int = 1  # models kept along the way, evenly spaced; the last is always kept
    precision: str = "bf16-mixed"
    sampling: SamplingConfig = field(default_factory=SamplingConfig)  # handed over as the model's defaults
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(name="muon", lr=1e-3, ema=0.99))

    def __post_init__(self) -> None:
        _one_of("resolution", self.resolution, ("low", "high"))
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("media", self.media, MEDIA)
        _positive(steps=self.steps)
        if self.held_out == 1:
            raise ValueError("held_out=1 leaves no clip to train on; give a share below 1")
        if (self.media == "joint") != (self.balance.video_to_image > 0):
            raise ValueError(
                f"media={self.media!r} with balance.video_to_image={self.balance.video_to_image}: joint training needs "
                "a ratio above 0, training on videos or images alone needs 0"
            )
        for name in ("drop_captions", "held_out", "max_failed"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1]")
        if not self.captions or abs(sum(self.captions.values()) - 1) > 1e-6:
            raise ValueError(f"captions={dict(self.captions)}: the probabilities must add up to 1")
        run = self.runtime
        inside = run.parallel.tensor * run.parallel.ulysses  # ranks that compute one micro-batch together
        if not run.nproc % inside:  # else that is what is wrong: `parallel` says so
            check_ranks(self.balance.packs, run.nproc // inside)


@dataclass
class ProduceConfig(StageConfig):
    """A producer beside a training stage: encodes what ranks ask for, and sends it (report §6.1)."""

    train: TrainConfig = field(default_factory=TrainConfig)  # of the stage that it serves
    folder: str = ""  # where it meets its jobs
    name: str = ""  # its own there; a second life under the same name takes over the first one's work


@dataclass
class AverageConfig(StageConfig):
    """Average of fine-tuned models, each taken after its gradient norm peaked (report §8, Step-3)."""

    method: str = "uniform"  # uniform | weighted (by `weights`) | greedy (by the loss on held-out clips)
    weights: dict[str, float] = field(default_factory=dict)  # of each input; its snapshots share it
    after_peak: bool = True  # of a run, what lies after its gradient norm's peak; False: its last model
    snapshots: int = 1  # taken of each run, best first; 0: all after the peak
    smooth: int = 10  # steps over which norm and loss are averaged before the peak is looked for
    warmup: int = 0  # first steps of a run in which no peak is looked for
    fallback: str = "last"  # for a run without a snapshot after the peak: its last model | error
    subset: str = ""  # greedy: clips that judge; "": all in the cache
    held_out: float = 0.02  # … of them the share that training left out; 0: all of them
    resolution: str = "low"  # … at which resolution: low | high
    clips: int = 32  # … how many
    levels: int = 8  # … at how many timesteps each

    def __post_init__(self) -> None:
        _one_of("method", self.method, ("uniform", "weighted", "greedy"))
        _one_of("fallback", self.fallback, ("last", "error"))
        _one_of("resolution", self.resolution, ("low", "high"))
        _positive(smooth=self.smooth, clips=self.clips, levels=self.levels)
        if self.snapshots < 0 or self.warmup < 0:
            raise ValueError(f"snapshots={self.snapshots} and warmup={self.warmup} must be 0 or more")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out={self.held_out} must lie in [0, 1)")
        if bool(self.weights) != (self.method == "weighted"):
            raise ValueError(
                f"weights={dict(self.weights)} with method={self.method!r}: they belong to method=weighted"
            )
        for role, weight in self.weights.items():
            _positive(**{f"weights.{role}": weight})


@dataclass
class CouplingsConfig(StageConfig):
    """(noise, generated latent) couplings for 2-rectified flow (report §5), drawn with SFT prompts at full NFE."""

    samples: int = 1000
    subset: str = "sft_1"
    captions: dict[str, float] = field(default_factory=lambda: {"short": 0.6, "dense": 0.2, "title": 0.2})
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(steps=50))
    batch_size: int = 64


@dataclass
class TurboConfig(TrainStageConfig):
    """2-rectified-flow self-distillation (report §5): U-shaped timesteps, diminishing guidance at inference."""

    steps: int = 200
    batch_size: int = 16
    timesteps: TimestepConfig = field(default_factory=lambda: TimestepConfig(law="u_shape", a=5.0))
    weight: str = "none"  # of the loss over t: none | eq10_printed | eq10_source
    precision: str = "bf16-mixed"
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(steps=8, cfg_schedule="diminishing"))
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(name="muon", lr=3e-4, ema=0.99))

    def __post_init__(self) -> None:
        _one_of("weight", self.weight, ("none", "eq10_printed", "eq10_source"))
        _one_of("precision", self.precision, PRECISIONS)
        _positive(steps=self.steps, batch_size=self.batch_size)
