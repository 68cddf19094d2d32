"""Whether a model fits a card for a job, by the emulator's prediction; torch-free."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepvideo.diffusion.sampling import default_sampling
from stepvideo.emulator.dit_memory import dit_parameters
from stepvideo.emulator.memory import Job, Networks
from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.inference.memory.plan import GIB, HEADROOM
from stepvideo.inference.memory.report import plan
from stepvideo.models.config import CLIPTextConfig, StepLLMConfig, VAEConfig
from stepvideo.models.config_files import clip_text_config, dit_config, step_llm_config, vae_config

CARDS = {
    "t4": 16, "v100": 32, "3090": 24, "4090": 24, "5090": 32, "a6000": 48, "l40s": 48,
    "a100": 80, "h100": 80, "h800": 80, "h20": 96, "h200": 141, "b200": 180,
}  # fmt: skip
"""GB of memory by name; where a card was sold with several, the larger."""
FINETUNE = {"bf16 weights": 2, "fp32 master weights": 4, "fp32 gradients": 4, "two fp32 moments of Adam": 8}
"""Bytes a parameter."""
JOBS = ("generate", "finetune")


@dataclass
class Verdict:
    """Does the job fit on one card?"""

    job: str
    gpu: float  # GB
    fits: bool | None  # None: cannot be told
    needs: int  # bytes: the options chosen, or the least that there is
    how: str  # or why it cannot be told
    assumed: list[str] = field(default_factory=list)


def gigabytes(text: str) -> float:
    """ "24GB", "24" or a card's name.

    Raises:
        StepVideoError: neither a size nor a known name.
    """
    name = text.lower().replace(" ", "").removeprefix("rtx").removeprefix("nvidia")
    if name in CARDS:
        return float(CARDS[name])
    if (m := re.fullmatch(r"(\d+(?:\.\d+)?)(?:gi?b?)?", name)) and (size := float(m[1])) > 0:
        return size
    raise StepVideoError(f"--gpu {text!r}: give a size such as 24GB, or one of {', '.join(CARDS)}")


def judge(root: Path, job: str, gpu: float) -> Verdict:
    """Predict for the transformer in `root`, at its default size; parts that the folder lacks are taken as released.

    Where the folder has no transformer, or no part to predict from, the verdict says so.
    """
    try:
        return _judge(root, job, gpu)
    except StepVideoError as e:
        return Verdict(job, gpu, None, 0, str(e))


def _judge(root: Path, job: str, gpu: float) -> Verdict:
    dit = dit_config(root)
    if job == "finetune":
        needs = dit_parameters(dit).total * sum(FINETUNE.values())
        room = gpu * GIB * (1 - HEADROOM)
        how = "of one transformer, no activations: " + ", ".join(f"{k} {v} B" for k, v in FINETUNE.items())
        cards = math.ceil(needs / room)
        if cards > 1:
            how += f"; with all of it sharded, at least {cards} such cards (more for the activations)"
        return Verdict(job, gpu, needs <= room, needs, how)
    assumed: list[str] = []
    vae = _or_released(lambda: vae_config(root), (root / "vae").is_dir(), VAEConfig(), "VAE", assumed)
    has_text = (root / "step_llm").is_dir()
    llm = _or_released(lambda: step_llm_config(root), has_text, StepLLMConfig(), "Step-LLM", assumed)
    clip = _or_released(lambda: clip_text_config(root), has_text, CLIPTextConfig(), "CLIP", assumed)
    if vae.z_channels != dit.in_channels:
        raise ArtifactError(f"{root} has no VAE of {dit.in_channels} latent channels")
    sampling = default_sampling(root)
    result = plan(Networks(dit, vae, llm, clip), Job(sampling), (gpu,))
    chosen = result["chosen"][f"{gpu:g}"]
    row = chosen or result["smallest"]
    size = f"{sampling.frames} frames of {sampling.height}x{sampling.width}"
    exact = "" if row["exact"] else "; the result changes slightly"
    how = f"{size} with {row['describe']}{exact}" if chosen else f"{size} even with {row['describe']}"
    return Verdict(job, gpu, chosen is not None, row["peak"], how, assumed)


def _or_released(read: Any, present: bool, released: Any, name: str, assumed: list[str]) -> Any:
    if present:
        return read()
    assumed.append(f"the released {name}")
    return released
