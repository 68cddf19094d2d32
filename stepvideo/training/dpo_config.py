"""Configs of preference training: stages `pairs`, `dpo`, `reward` and `ranked` (torch-free)."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepvideo.config import Runtime, StageConfig
from stepvideo.diffusion.config import SamplingConfig, TimestepConfig
from stepvideo.training.config import PRECISIONS, OptimConfig, TrainStageConfig, _one_of, _positive
from stepvideo.training.lora_config import LoRAConfig

ALARMS = ("log", "stop")
REFERENCES = ("fp32", "bf16")


@dataclass
class PairsRuntime(Runtime):
    votes: str = ""  # a pairs table of people's votes (JSONL), in place of the simulated annotators


@dataclass
class PairsConfig(StageConfig):
    """Preference pairs sampled from the model itself and judged by simulated annotators, or by people (report §4.4)."""

    prompts: int = 100
    guideline_share: float = 0.0  # of the prompts, worded by the guideline (world/guideline.py), not as captions are
    samples: int = 4  # videos a prompt, one seed each
    annotators: int = 3  # simulated
    flip: float = 0.15  # probability that an annotator's vote is reversed
    tie: float = 0.05  # difference in fidelity below which an annotator sees a tie
    votes: str = ""  # sha256 of the table at runtime.votes: the key follows the votes, not where they lie
    keep_ties: bool = False  # keep simulated pairs whose votes cancel out too: a reward model learns from them
    save_videos: bool = False  # keep all samples as videos/*.mp4, for a study
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    batch_size: int = 32
    runtime: PairsRuntime = field(default_factory=PairsRuntime)

    def __post_init__(self) -> None:
        _positive(prompts=self.prompts, samples=self.samples, annotators=self.annotators, batch_size=self.batch_size)
        for name in ("guideline_share", "flip"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1]")


@dataclass
class DPOWatchConfig:
    """What is measured of a preference training, and when it is called exploded."""

    every: int = 1  # steps between measurements of the drift from the reference; rows between repeat the last one
    probes: int = (
        4  # winners on which velocities are compared with the reference's, and a quarter of the held-out pairs …
    )
    levels: int = 2  # … at so many timesteps each, at fixed noise
    diversity: int = 4  # prompts sampled before and after, without guidance; 0: none
    samples: int = 4  # … so often each
    steps: int = 8  # … of sampling
    window: int = 10  # steps over which the alarms average
    rise: float = 0.1  # alarm: both winner's and loser's loss above the reference's by this share of it
    distance: float = 0.3  # alarm: relative distance of the velocities from the reference's
    on_alarm: str = "log"  # log | stop

    def __post_init__(self) -> None:
        _one_of("watch.on_alarm", self.on_alarm, ALARMS)
        _positive(every=self.every, probes=self.probes, levels=self.levels, window=self.window, steps=self.steps)
        _positive(rise=self.rise, distance=self.distance)
        if self.diversity < 0 or (self.diversity and self.samples < 2):
            raise ValueError(
                f"watch.diversity={self.diversity}, samples={self.samples}: give 0 prompts or more, 2 samples or more"
            )


@dataclass
class DPOConfig(TrainStageConfig):
    """Video-DPO for flow matching (report §4.4, Eq. 8): small beta, larger learning rate."""

    steps: int = 100
    batch_size: int = 16  # pairs
    beta: float = 100.0
    label_smoothing: float = 0.0  # conservative DPO: probability that a label is wrong
    sft_anchor: float = 0.0  # weight of the winner's flow-matching loss beside the preference loss
    held_out: float = 0.0  # share of the pairs that nothing is trained on: does it learn more than these labels?
    reference: str = "fp32"  # weights of the fixed reference: fp32 | bf16, half the memory; adapters need none
    timesteps: TimestepConfig = field(default_factory=TimestepConfig)
    precision: str = "bf16-mixed"
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    watch: DPOWatchConfig = field(default_factory=DPOWatchConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-4, ema=0.0))

    def __post_init__(self) -> None:
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("reference", self.reference, REFERENCES)
        _positive(beta=self.beta, steps=self.steps, batch_size=self.batch_size)
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing={self.label_smoothing} must lie in [0, 0.5): at 0.5 labels say nothing")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out={self.held_out} must lie in [0, 1)")
        if self.sft_anchor < 0:
            raise ValueError(f"sft_anchor={self.sft_anchor} must be 0 (none) or more")
        if self.lora.rank and self.reference != "fp32":
            raise ValueError(
                f"reference={self.reference!r} with lora.rank={self.lora.rank}: the policy without its adapters is the "
                "reference and takes no memory; leave reference at fp32"
            )


@dataclass
class RewardConfig(TrainStageConfig):
    """A reward model on latents: the policy's first blocks, a pooled head, Rao-Kupper probabilities (report §4.4)."""

    layers: int = 0  # of the policy's blocks; 0: all
    steps: int = 200
    batch_size: int = 16  # pairs, ties among them
    held_out: float = 0.25  # of the prompts: half of them calibrate, the other half tests
    dropout: float = 0.1  # of the head's inputs
    precision: str = "bf16-mixed"
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=3e-4, weight_decay=0.01, decay="cosine", ema=0.0))

    def __post_init__(self) -> None:
        _one_of("precision", self.precision, PRECISIONS)
        _positive(steps=self.steps, batch_size=self.batch_size)
        for name in ("held_out", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1)")
        if self.layers < 0:
            raise ValueError(f"layers={self.layers}: give 0 (all blocks) or more")


@dataclass
class RankedConfig(PairsConfig):
    """Preference pairs of the policy as it is now, ranked by a reward model, not by annotators (report §4.4).

    Of `samples` videos a prompt the one that scores best and the one that scores worst are a pair, if the reward model
    gives the better one `confidence` or more among decided comparisons. Fields about annotators are unused.
    """

    confidence: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"confidence={self.confidence} must lie in [0.5, 1)")
        if self.samples < 2:
            raise ValueError(f"samples={self.samples}: a pair needs two; give 2 or more")
