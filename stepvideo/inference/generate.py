"""Text → a video file: what `stepvideo generate` calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepvideo.data.show import MIN_SIDE, enlarge
from stepvideo.data.video_io import write_image, write_video
from stepvideo.diffusion.pipeline import Pipeline
from stepvideo.diffusion.sampling import Sampling
from stepvideo.errors import ArtifactError, StepVideoError

VIDEO, IMAGE = (".mp4",), (".png",)


@dataclass(frozen=True)
class Generated:
    """What was written, at which settings, and what it cost."""

    path: Path
    sampling: Sampling
    seed: int
    nfe: int  # network evaluations
    seconds: float  # of sampling and decoding
    load_seconds: float


def generate(
    prompt: str,
    out: Path | str,
    model_dir: Path | str,
    vae_dir: Path | str,
    text_dir: Path | str,
    *,
    seed: int = 0,
    negative: str = "",
    fps: float = 25,
    min_side: int = MIN_SIDE,
    device: str = "auto",
    precision: str = "bf16",
    say: Callable[[str], None] = print,
    **overrides: Any,
) -> Generated:
    """Generate one video and write it whole or not at all.

    Args:
        prompt: Chinese or English.
        out: an .mp4 (h264, plays everywhere); an .png for a model of still images, or with frames=1.
        model_dir, vae_dir, text_dir: artifact directories in the released layout; may be one and the same.
        fps: frames per second of the file.
        min_side: smaller videos are enlarged by a whole factor, because players blur them; 0 keeps the size.
        overrides: frames, height, width, steps, cfg, time_shift, cfg_schedule; what is not given, the model says.

    Raises:
        ArtifactError: a model file is missing or damaged, or `out` cannot be written.
        StepVideoError: an empty prompt or one with an unknown token, a size that the VAE cannot code, a file type.
    """
    path = Path(out)
    if not prompt.strip():
        raise StepVideoError('the prompt is empty; describe a video, for example "一个红色的圆向右移动"')
    _check_folders({"transformer": model_dir, "vae": vae_dir, "step_llm": text_dir})
    started = time.perf_counter()
    pipe = Pipeline.load(Path(model_dir), Path(vae_dir), Path(text_dir), device, precision)
    sampling = pipe.defaults.with_(overrides)
    kinds = IMAGE if sampling.frames == 1 else VIDEO
    if path.suffix.lower() not in kinds:
        raise StepVideoError(
            f"cannot write {sampling.frames} frames to {path.name}; use a name that ends in {kinds[0]}"
        )
    if not path.absolute().parent.is_dir():
        raise StepVideoError(f"there is no folder {path.absolute().parent}; create it or choose another --out")
    loaded = time.perf_counter()
    done = pipe.sample([prompt], seed=seed, negative=negative, **overrides)
    video = pipe.decode(done.latents)[0]
    shown = enlarge(video, min_side) if min_side else video
    if sampling.frames == 1:
        write_image(path, shown[0])
    else:
        write_video(path, shown, fps)
    result = Generated(path, sampling, seed, done.nfe, time.perf_counter() - loaded, loaded - started)
    say(
        f"{path}: {sampling.frames} frames of {sampling.height}x{sampling.width}, {sampling.steps} steps, "
        f"{result.nfe} evaluations, {result.seconds:.1f} s (and {result.load_seconds:.1f} s to load)"
    )
    return result


def _check_folders(wanted: dict[str, Path | str]) -> None:
    for part, folder in wanted.items():
        if not (Path(folder) / part).is_dir():
            raise ArtifactError(
                f"{folder} holds no {part}/; train a model first (make demo), or give the folder of a released one"
            )
