"""The whole denoising run, with the DiT of another case; in image-to-video also the image's preprocessing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from stepvideo.diffusion.config import GuidanceConfig
from stepvideo.diffusion.guidance import sample
from stepvideo.diffusion.image_condition import condition_latents, cover_crop
from stepvideo.inference.parity import dit
from stepvideo.inference.parity.compare import Tolerance
from stepvideo.inference.parity.golden import Case
from stepvideo.inference.parity.schedule import times

LATENTS, IMAGE = Tolerance(2e-4, 1e-4), Tolerance(1e-5)
ARGUMENTS = {
    "prompt_embeds": "encoder_hidden_states",
    "clip_embeds": "encoder_hidden_states_2",
    "attention_mask": "encoder_attention_mask",
}


def outputs(case: Case) -> Iterator[tuple[str, Tensor, Tolerance]]:
    """`latents` after all steps, and `preprocessed_image`."""
    case.config.skip("batch_order", "prompts_sent", "num_frames", "target_hw")
    noise = case.inputs["noise"]
    n, frames = noise.shape[:2]
    features: dict[str, Any] = {"encoder_hidden_states_2": None}
    features |= {argument: case.inputs[name] for name, argument in ARGUMENTS.items() if name in case.inputs}
    more: dict[str, Any] = {}
    if "image_latent" in case.inputs:
        first = case.inputs["image_latent"][:, 0].expand(n, -1, -1, -1)
        more["condition_hidden_states"] = condition_latents(first, frames)
    if "motion_score" in case.config:
        more["motion_score"] = case.config["motion_score"]
    cond = {name: x if x is None else x[:n] for name, x in features.items()} | more
    uncond = {name: x if x is None else x[n:] for name, x in features.items()} | more
    done = sample(
        dit.build(case.sibling(case.config["weights_from"])),
        noise,
        times(case.config),
        cond,
        uncond if len(features["encoder_hidden_states"]) > n else None,
        GuidanceConfig(scale=case.config["guidance_scale"]),
    )
    yield "latents", done.latents, LATENTS
    if "image" in case.inputs:
        image = case.inputs["image"]
        height, width = case.config["target_hw"]
        made = cover_crop(image.reshape(-1, *image.shape[-3:]), height, width)
        yield "preprocessed_image", made[:, None], IMAGE
