"""Configs of the evaluate and report stages (torch-free: plans and `--help` read them)."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepvideo.config import StageConfig
from stepvideo.world.config import BACKGROUNDS

CFG_SCHEDULES = ("constant", "diminishing")
REPEATS = ("prompt", "colour", "shape", "direction", "size", "count")
LANGUAGES = ("zh", "en")


def _at_least(**bounds: tuple[float, float]) -> None:
    for name, (value, low) in bounds.items():
        if value < low:
            raise ValueError(f"{name}={value}: give {low} or more")


@dataclass
class SamplingRun:
    """Another way to sample the model. 0 and "" take the value of the main run."""

    name: str = ""  # letters, digits, - and _
    steps: int = 0
    cfg: float = 0.0  # guidance scale; 1 means no guidance
    time_shift: float = 0.0
    cfg_schedule: str = ""  # constant | diminishing
    repeat: str = ""  # what is said twice: prompt, or an attribute's words (report §10.2)

    def __post_init__(self) -> None:
        if self.repeat and self.repeat not in REPEATS:
            raise ValueError(f"repeat={self.repeat!r}: choose one of {', '.join(REPEATS)}")
        _at_least(steps=(self.steps, 0), cfg=(self.cfg, 0), time_shift=(self.time_shift, 0))
        if self.cfg_schedule and self.cfg_schedule not in CFG_SCHEDULES:
            raise ValueError(f"cfg_schedule={self.cfg_schedule!r}: choose one of {', '.join(CFG_SCHEDULES)}")
        if self.name and not self.name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"name={self.name!r}: use letters, digits, - and _ (it becomes a folder)")


@dataclass
class GateConfig:
    """When scores count: the oracle must read videos of known truth, as rendered and after the VAE (DESIGN §5)."""

    clips: int = 288  # rendered ground truth, spread evenly over the grid
    reconstructions: int = 96  # of them, coded and decoded by the VAE
    ground_truth_bar: float = 0.995  # share of right readings, per attribute
    reconstruction_bar: float = 0.95
    backgrounds: list[str] = field(default_factory=lambda: list(BACKGROUNDS))  # those of the world that is trained on

    def __post_init__(self) -> None:
        _at_least(clips=(self.clips, 1), reconstructions=(self.reconstructions, 1))
        if self.reconstructions > self.clips:
            raise ValueError(f"reconstructions={self.reconstructions} of clips={self.clips}: give at most as many")
        for name in ("ground_truth_bar", "reconstruction_bar"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: give a share above 0, at most 1")


@dataclass
class EvaluateConfig(StageConfig):
    """Score one model by the oracle: one sample a prompt, all scored.

    Prompts and initial noise depend on `prompt_seed`, the counts and the sizes alone, so every model gets the same ones
    and results are paired. 0 and "" take the model's own `sampling.json`.
    """

    n_train: int = 200  # prompts of combinations that training may have seen
    n_heldout: int = 200  # prompts of held-out combinations; a model of still images has none
    prompt_seed: int = 20_260
    languages: list[str] = field(default_factory=lambda: list(LANGUAGES))
    steps: int = 0
    cfg: float = 0.0
    time_shift: float = 0.0
    cfg_schedule: str = ""  # constant | diminishing
    extra_runs: list[SamplingRun] = field(default_factory=list)  # the same prompts and noise, sampled in other ways
    frames: int = 0
    height: int = 0
    width: int = 0
    batch_size: int = 32  # samples at a time; also the grain of resuming
    decode_batch_size: int = 8
    precision: str = "bf16"  # bf16 | fp32, of the DiT and the VAE decoder
    save_videos: int = 12  # samples kept as mp4, half of them held out
    save_latents: bool = True  # of every sample, fp16: lets a report compare end points of paired runs
    fps: int = 25
    gate: GateConfig = field(default_factory=GateConfig)

    def __post_init__(self) -> None:
        _at_least(n_train=(self.n_train, 1), n_heldout=(self.n_heldout, 0), batch_size=(self.batch_size, 1))
        _at_least(decode_batch_size=(self.decode_batch_size, 1), save_videos=(self.save_videos, 0), fps=(self.fps, 1))
        _at_least(frames=(self.frames, 0), height=(self.height, 0), width=(self.width, 0))
        SamplingRun("main", self.steps, self.cfg, self.time_shift, self.cfg_schedule)
        if not self.languages or any(lang not in LANGUAGES for lang in self.languages):
            raise ValueError(f"languages={list(self.languages)}: give some of {', '.join(LANGUAGES)}")
        if self.precision not in ("bf16", "fp32"):
            raise ValueError(f"precision={self.precision!r}: choose bf16 or fp32")
        names = [run.name for run in self.extra_runs]
        if "" in names or "main" in names or len(set(names)) != len(names):
            raise ValueError(f"extra_runs are named {names}: each needs a name of its own, other than main")


@dataclass
class Comparison:
    """Two evaluated runs on the same prompts and noise: `a` against `b`.

    A run is named by its input, "sft" for the role `evaluate.sft`, with "/NAME" for an extra run of it.
    """

    a: str = ""
    b: str = ""
    title: str = ""
    kind: str = "preference"  # preference | distillation (is `a` as good as `b` with fewer steps, and `control` not?)
    control: str = ""  # distillation: the undistilled model at the steps of `a`
    margin: float = 0.05  # distillation: loss of all-right rate that still counts as equal

    def __post_init__(self) -> None:
        if not self.a or not self.b:
            raise ValueError(f"a={self.a!r}, b={self.b!r}: name two evaluated runs")
        if self.kind not in ("preference", "distillation"):
            raise ValueError(f"kind={self.kind!r}: choose preference or distillation")
        if self.kind == "distillation" and not self.control:
            raise ValueError("control is empty: a distilled model is compared with the base at the same steps, too")


@dataclass
class Target:
    """A bar set before the run, checked against the interval of one rate."""

    run: str = ""
    split: str = "train"  # train | heldout
    attribute: str = "all"
    value: float = 0.0
    bound: str = "value"  # value | low: what must reach the bar, the rate or its lower bound
    stretch: bool = False  # hoped for, not promised

    def __post_init__(self) -> None:
        for name, known in (("split", ("train", "heldout")), ("bound", ("value", "low"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(known)}")


def _default_comparisons() -> list[Comparison]:
    """What the cascade's stages claim to do (report §4.4, §5, §8), by the names of its rows."""
    return [
        Comparison("sft.1", "t2vi_540.s6", "Supervised fine-tuning against pre-training"),
        Comparison("average", "sft.1", "The average against one fine-tuned model"),
        Comparison("dpo", "sft.1", "Video-DPO against supervised fine-tuning"),
        Comparison("dpo", "average", "Video-DPO against the average that it started from"),
        Comparison("turbo", "dpo", "Turbo against the model that it was distilled from"),
        Comparison(
            "turbo", "dpo/steps50", "Turbo against its teacher at 50 steps", "distillation", control="dpo/steps8"
        ),
    ]


def _default_targets() -> list[Target]:
    """The bars of the first issue for `micro`: training combinations, then held-out ones with the stretch bars."""
    bars = {"colour": 0.90, "direction": 0.85, "count": 0.80, "size": 0.75, "shape": 0.50, "all": 0.40}
    return [
        Target("sft.1", "train", "colour", 0.90),
        Target("sft.1", "train", "direction", 0.85),
        Target("sft.1", "heldout", "all", 0.05, "low"),
        *(Target("sft.1", "heldout", name, bar, stretch=True) for name, bar in bars.items()),
    ]


@dataclass
class ReportConfig(StageConfig):
    """The self-contained page at the end of a run.

    Inputs by role: `evaluate.NAME`, `train.NAME` (any artifact with `loss_curve*.json`), `curate` and `subsets` (with a
    `funnel.json`). Names are shown in the order of `models` and `stages`; those not listed follow in the cascade's.
    """

    title: str = "stepvideo"
    models: list[str] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=_default_comparisons)
    targets: list[Target] = field(default_factory=_default_targets)
    prompts: int = 12  # shown with their videos, side by side
    max_mb: float = 8.0  # of report.html; prompts that do not fit are left out, and the page says so
    lineage: str = ""  # JSON: [{stage, key, digest, inputs: [stage, …]}, …]; or an input `lineage` with lineage.json

    def __post_init__(self) -> None:
        _at_least(prompts=(self.prompts, 0), max_mb=(self.max_mb, 0.5))
