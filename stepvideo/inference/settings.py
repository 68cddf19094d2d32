"""What decides a generated video, resolved: sizes floored as the release does, with a notice. Torch-free."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from stepvideo.diffusion.sampling import Sampling
from stepvideo.errors import ConfigError, StepVideoError
from stepvideo.models.config import VAEConfig

MOTION_SCORE = 5.0  # of image-to-video: 2 is stable, 5 the released recommendation, 10 to 20 intense

SAMPLING_NAMES = {  # diffusers' names of the fields of `Sampling`
    "height": "height",
    "width": "width",
    "time_shift": "time_shift",
    "num_frames": "frames",
    "num_inference_steps": "steps",
    "guidance_scale": "cfg",
    "guidance_schedule": "cfg_schedule",
}


@dataclass(frozen=True)
class Settings:
    """One video's. The same settings and the same model give the same video."""

    prompt: str
    negative_prompt: str
    positive_suffix: str
    seed: int
    sampling: Sampling
    image: str = ""  # sha256 of the first frame's pixels
    motion_score: float | None = None

    @property
    def text(self) -> str:
        """What is encoded: the suffix follows the prompt without a space, as released."""
        return self.prompt + self.positive_suffix

    @property
    def texts(self) -> list[str]:
        """Every text that is encoded: without guidance the negative one is not."""
        return [self.text] if self.sampling.cfg == 1 else [self.text, self.negative_prompt]

    def to_dict(self) -> dict[str, Any]:
        own = {k: v for k, v in asdict(self).items() if k != "sampling" and v not in ("", None)}
        return {"prompt": self.prompt, **own, **asdict(self.sampling)}


def motion_score_of(given: float | None, image: bool) -> float | None:
    """What a model that does, or does not, start from an image is told. Raises StepVideoError."""
    if not image:
        if given is not None:
            raise StepVideoError(f"motion_score={given}: only image-to-video takes one; leave it out")
        return None
    score = MOTION_SCORE if given is None else float(given)
    if not math.isfinite(score):
        raise StepVideoError(f"motion_score={score}: give a finite number, such as {MOTION_SCORE}")
    return score


def unicode_of(text: str) -> str:
    """Halves of surrogate pairs, which no file can hold, joined or replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def resolve(defaults: Sampling, vae: VAEConfig, unit: int, **wanted: Any) -> tuple[Sampling, list[str]]:
    """The model's defaults with what was asked for, and a notice for each number that had to change.

    Frames are floored to whole chunks (17 as released; a single frame stays one), sides to multiples of `unit` pixels.

    Args:
        wanted: fields of `Sampling`; None keeps the default, 0 does not.

    Raises:
        StepVideoError: a side below `unit`, or an impossible value.
    """
    given = {k: v for k, v in wanted.items() if v is not None}
    if unknown := sorted(set(given) - set(asdict(defaults))):
        raise ConfigError(f"sampling has no {', '.join(unknown)}; it has {', '.join(asdict(defaults))}")
    asked = replace(defaults, **given)
    floored: dict[str, int] = {}
    for name in ("height", "width"):
        side = getattr(asked, name)
        if side < unit:
            raise StepVideoError(f"{name}={side} is too small; this model makes multiples of {unit} pixels")
        floored[name] = side // unit * unit
    floored["frames"] = _floor_frames(vae, asked.frames)
    notices = [f"{k}={getattr(asked, k)} becomes {v}" for k, v in floored.items() if v != getattr(asked, k)]
    return replace(asked, **floored), notices


def _floor_frames(vae: VAEConfig, frames: int) -> int:
    """The longest video of at most so many frames that comes back whole from the VAE: whole chunks, or, without
    chunks, one frame and whole latents after it."""
    if vae.frame_len:
        return max(frames // vae.frame_len * vae.frame_len, 1)
    return (frames - 1) // vae.temporal_factor * vae.temporal_factor + 1
