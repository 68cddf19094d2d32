"""Typed configurations of timestep laws, schedules and guidance; torch-free."""

from __future__ import annotations

from dataclasses import dataclass

LAWS = ("uniform", "logit_normal", "u_shape", "cosh_literal")
GUIDANCE = ("constant", "diminishing")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}={value!r}: choose one of {', '.join(known)}")


@dataclass
class TimestepConfig:
    """How training timesteps are drawn; t = 0 is noise, t = 1 is data."""

    law: str = "uniform"  # uniform | logit_normal | u_shape | cosh_literal
    mean: float = 0.0  # logit_normal: of the logit of t
    std: float = 1.0
    a: float = 5.0  # u_shape, cosh_literal: steepness (report §5: 5)
    shift: float = 1.0  # above 1 moves mass towards noise, as the sampler's time shift does; applied last

    def __post_init__(self) -> None:
        _one_of("law", self.law, LAWS)
        for name in ("std", "a", "shift"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)}: give a number above 0")


@dataclass
class ScheduleConfig:
    """The sampling times; defaults are those recommended for the released base model."""

    steps: int = 50
    time_shift: float = 13.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: give at least 1")
        if self.time_shift <= 0:
            raise ValueError(f"time_shift={self.time_shift}: give a number above 0")


@dataclass
class GuidanceConfig:
    """Classifier-free guidance: `constant` as released, `diminishing` as the report's Eq. 11 for Turbo."""

    kind: str = "constant"  # constant | diminishing
    scale: float = 9.0  # the constant, or cfg_max of Eq. 11; 1 means no guidance

    def __post_init__(self) -> None:
        _one_of("kind", self.kind, GUIDANCE)
        if self.kind == "diminishing" and self.scale < 1:
            raise ValueError(f"scale={self.scale}: Eq. 11 falls from scale to 1; give at least 1")


@dataclass
class SamplingConfig:
    """How a trained model is sampled by default; travels with its weights as `sampling.json`."""

    steps: int = 16
    cfg: float = 3.0  # guidance scale; cfg_max of Eq. 11 with the diminishing schedule
    cfg_schedule: str = "constant"  # constant | diminishing
    time_shift: float = 2.0

    def __post_init__(self) -> None:
        ScheduleConfig(self.steps, self.time_shift)
        GuidanceConfig(self.cfg_schedule, self.cfg)
