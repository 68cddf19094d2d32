"""Configs of what watches a training (torch-free).

`MonitorConfig` sits under `runtime`: it changes what is known of a run, never its result. `GuardConfig` and
`SamplesConfig` are hashed: the first decides which updates are dropped, the second adds files to the artifact.
"""

from __future__ import annotations

from dataclasses import dataclass, field

NOT_FINITE = ("stop", "skip", "rollback")
SPIKE = ("log", *NOT_FINITE)
WEIGHTS = ("live", "ema", "both")


@dataclass
class GuardConfig:
    """What happens at a step whose loss or gradient is not finite, or far above those before it.

    `skip` drops the update. `rollback` goes back to the newest checkpoint and drops the update when the step comes up
    again: it also heals weights that a faulty device has spoilt. `stop` ends the run with an error.
    """

    not_finite: str = "stop"  # stop | skip | rollback
    spike: str = "log"  # log | stop | skip | rollback
    threshold: float = 10.0  # spike: so many robust standard deviations above the median of the window
    window: int = 128  # accepted steps that a step is compared with
    min_history: int = 32  # steps before which nothing is called a spike
    max_skips: int = 5  # updates dropped in a row; one more stops the run
    max_rollbacks: int = 3  # of the whole run; one more stops it

    def __post_init__(self) -> None:
        for name, known in (("not_finite", NOT_FINITE), ("spike", SPIKE)):
            if getattr(self, name) not in known:
                raise ValueError(f"guard.{name}={getattr(self, name)!r} is not one of {', '.join(known)}")
        if self.threshold <= 0:
            raise ValueError(f"guard.threshold={self.threshold} must be greater than 0")
        if not 8 <= self.min_history <= self.window:
            raise ValueError(
                f"guard.min_history={self.min_history} must lie in [8, guard.window={self.window}]: the spread of "
                "fewer steps says little"
            )
        if self.max_skips < 0 or self.max_rollbacks < 0:
            raise ValueError(f"guard.max_skips={self.max_skips}, max_rollbacks={self.max_rollbacks}: give 0 or more")


@dataclass
class ValidationConfig:
    """Loss at fixed noise and timesteps on clips held out of training."""

    every: int = 500  # steps; 0: before the first and after the last step only
    clips: int = 32  # 0: no validation
    levels: int = 8  # timesteps: the centres of so many equal slices of [0, 1]
    batch: int = 8  # levels of a clip computed at once
    seed: int = 0  # of the noise; the same in runs that are to be compared
    weights: str = "live"  # live | ema | both; ema only where the training keeps an average

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise ValueError(f"validation.weights={self.weights!r} is not one of {', '.join(WEIGHTS)}")
        if self.every < 0 or self.clips < 0 or self.levels < 1 or self.batch < 1:
            raise ValueError(
                f"validation: every={self.every} and clips={self.clips} must be 0 or more, levels={self.levels} and "
                f"batch={self.batch} 1 or more"
            )


@dataclass
class MonitorConfig:
    """What is measured along the way."""

    validation: ValidationConfig = field(default_factory=ValidationConfig)
    norms_every: int = 100  # steps between gradient and activation norms by group of blocks; 0: never
    time_bins: int = 8  # of the training loss by timestep; 0: none
    peak_tflops: float = 0.0  # of one device, for MFU; 0: from the table of devices, on a CPU measured
    profile_steps: int = 0  # set by `stepvideo profile`: this many steps are profiled, then the run ends

    def __post_init__(self) -> None:
        for name in ("norms_every", "time_bins", "peak_tflops", "profile_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"monitor.{name}={getattr(self, name)} must be 0 or more")


@dataclass
class SamplesConfig:
    """Videos from fixed prompts and seeds along the way, kept in the artifact under samples/."""

    every: int = 0  # steps; 0: none
    prompts: list[str] = field(default_factory=list)
    seed: int = 0
    steps: int = 0  # of sampling; 0: the stage's own
    ema: bool = True  # from the averaged weights, where the training keeps them
    fps: float = 25.0

    def __post_init__(self) -> None:
        if self.every < 0 or self.steps < 0:
            raise ValueError(f"samples: every={self.every} and steps={self.steps} must be 0 or more")
        if self.fps <= 0:
            raise ValueError(f"samples.fps={self.fps} must be greater than 0")
        if self.every and not self.prompts:
            raise ValueError("samples.prompts is empty: name the texts to sample, or set samples.every=0")
