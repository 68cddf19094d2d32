"""What one sampling run is: size, steps, guidance, time shift. Torch-free.

A model carries its own defaults in `sampling.json` beside `transformer/`; without it, as in the release, the released
recommendations hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Real
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.diffusion.config import GUIDANCE, GuidanceConfig, ScheduleConfig
from stepvideo.errors import ArtifactError, ConfigError
from stepvideo.models.config_files import dit_config

FILE = "sampling.json"
MAX_SHIFT = 1e6  # beyond about 1e38 the schedule is not a number in fp32


@dataclass(frozen=True)
class Sampling:
    """Defaults are those of the released text-to-video model (204 frames of 544×992, 50 steps, guidance 9, shift 13).

    `frames`, `height` and `width` are of the decoded video, in frames and pixels.
    """

    frames: int = 204
    height: int = 544
    width: int = 992
    steps: int = 50
    cfg: float = 9.0  # guidance scale; 1 means no guidance, and half the evaluations
    time_shift: float = 13.0
    cfg_schedule: str = "constant"  # constant | diminishing (report Eq. 11)

    def __post_init__(self) -> None:
        for name in ("frames", "height", "width", "steps", "cfg", "time_shift"):
            value = getattr(self, name)
            if not isinstance(value, Real) or not math.isfinite(value):
                raise ConfigError(f"{name}={value!r}: give a finite number")
        for name in ("frames", "height", "width", "steps"):
            value = getattr(self, name)
            if value != int(value) or value < 1:
                raise ConfigError(f"{name}={value}: give a whole number of 1 or more")
            object.__setattr__(self, name, int(value))  # JSON and OmegaConf dicts of numbers hold floats
        if not 0 < self.time_shift <= MAX_SHIFT:
            raise ConfigError(f"time_shift={self.time_shift}: give a number above 0, {MAX_SHIFT:.0e} at most")
        if self.cfg_schedule not in GUIDANCE:
            raise ConfigError(f"cfg_schedule={self.cfg_schedule!r}: choose one of {', '.join(GUIDANCE)}")
        try:
            ScheduleConfig(self.steps, self.time_shift)
            GuidanceConfig(self.cfg_schedule, self.cfg)
        except ValueError as e:
            raise ConfigError(f"sampling: {e}") from e

    @property
    def guidance(self) -> GuidanceConfig:
        return GuidanceConfig(self.cfg_schedule, self.cfg)

    def with_(self, values: Mapping[str, Any]) -> Sampling:
        """A copy with these fields; None, 0 and "" leave a field as it is.

        Raises:
            ConfigError: on a name that is no field, or an impossible value.
        """
        names = [f.name for f in fields(self)]
        if unknown := sorted(set(values) - set(names)):
            raise ConfigError(f"sampling has no {', '.join(unknown)}; it has {', '.join(names)}")
        return Sampling(**{**asdict(self), **{k: v for k, v in values.items() if v}})

    def write(self, root: Path) -> None:
        storage.write_json(Path(root) / FILE, asdict(self))

    @classmethod
    def read(cls, root: Path, released: Sampling | None = None) -> Sampling:
        """The defaults of the model in `root`; without any `released`, or those of text-to-video.

        Raises:
            ArtifactError: the file is damaged or holds an impossible value.
        """
        path = Path(root) / FILE
        if not path.exists():
            return released or cls()
        try:
            return (released or cls()).with_(storage.read_json(path))
        except (ConfigError, AttributeError, TypeError) as e:
            raise ArtifactError(f"{path}: {e}") from e


RELEASED = {"t2v": Sampling(), "ti2v": Sampling(frames=102), "turbo": Sampling(steps=10, cfg=5.0, time_shift=17.0)}
"""What the READMEs of the released models recommend; for Turbo 10 to 15 steps, at constant guidance."""


def default_sampling(root: Path, preset: str = "") -> Sampling:
    """Of the model in `root`: the preset's if one is named, else its own, else those of its released kind.

    Raises:
        ConfigError: no such preset.
        ArtifactError: see `Sampling.read`.
    """
    if preset:
        if preset not in RELEASED:
            raise ConfigError(f"preset={preset!r}: choose one of {', '.join(RELEASED)}")
        return RELEASED[preset]
    return Sampling.read(root, RELEASED["ti2v" if dit_config(root).use_additional_conditions else "t2v"])
