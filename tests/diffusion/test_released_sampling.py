"""Schedules, the Euler loop, whole denoising runs and image preprocessing, equal to the released pipeline."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stepvideo.diffusion.config import GuidanceConfig
from stepvideo.diffusion.guidance import sample
from stepvideo.diffusion.image_condition import condition_latents, cover_crop
from stepvideo.diffusion.schedule import sigmas
from stepvideo.models.config import DiTConfig
from stepvideo.models.dit import DiT

FOLDER = Path(__file__).parents[1] / "data" / "golden"
CONFIG = json.loads((FOLDER / "sched_tables.json").read_text())


def io(case: str) -> tuple[dict, dict[str, torch.Tensor]]:
    tensors = {k: v.float() for k, v in load_file(FOLDER / f"{case}.io.safetensors").items()}
    return json.loads((FOLDER / f"{case}.json").read_text()), tensors


@pytest.mark.parametrize("combo", CONFIG["combos"], ids=lambda c: c["key"])
def test_tables(combo):
    _, tensors = io("sched_tables")
    table = sigmas(combo["steps"], combo["time_shift"], combo["reverse"])
    torch.testing.assert_close(table, tensors[f"out.sigmas_{combo['key']}"], atol=1e-6, rtol=0)
    torch.testing.assert_close(table[:-1], tensors[f"out.timesteps_{combo['key']}"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("case", ["sched_loop_10_17", "sched_loop_50_13"])
@pytest.mark.parametrize("batched", [True, False])
def test_guided_euler_loop(case, batched):
    config, t = io(case)

    def velocity(hidden_states, timestep, weight, bias):
        out = torch.einsum("bdc,bfchw->bfdhw", weight, hidden_states)
        return out + (timestep[:, None] * bias)[:, None, :, None, None]

    sides = [{"weight": t[f"in.W_{k}"][None], "bias": t[f"in.b_{k}"][None]} for k in ("cond", "uncond")]
    trajectory: list[torch.Tensor] = []
    out = sample(
        velocity,
        t["in.x0"],
        sigmas(config["steps"], config["time_shift"]),
        *sides,
        guidance=GuidanceConfig(scale=config["guidance_scale"]),
        batched=batched,
        on_step=lambda _i, x: trajectory.append(x),
    )
    torch.testing.assert_close(torch.stack(trajectory), t["out.trajectory"], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(out.latents, t["out.final"], atol=1e-4, rtol=1e-5)
    assert (out.steps, out.nfe) == (config["steps"], 2 * config["steps"])


@pytest.mark.parametrize("case", ["pipe_t2v_a", "pipe_ti2v_a"])
def test_whole_denoising_run(case):
    config, t = io(case)
    raw = json.loads((FOLDER / f"{config['weights_from']}.json").read_text())
    model = DiT(DiTConfig(**{f.name: raw[f.name] for f in fields(DiTConfig) if f.name in raw}))
    weights = load_file(FOLDER / f"{config['weights_from']}.weights.safetensors")
    model.load_state_dict({k: v.float() for k, v in weights.items()})
    names = {"prompt_embeds": "encoder_hidden_states", "clip_embeds": "encoder_hidden_states_2"}
    names["attention_mask"] = "encoder_attention_mask"
    sides = [{arg: t[f"in.{name}"][row : row + 1] for name, arg in names.items()} for row in (0, 1)]
    if "in.image_latent" in t:
        condition = condition_latents(t["in.image_latent"][:, 0], t["in.noise"].shape[1])
        for side in sides:
            side |= {"condition_hidden_states": condition, "motion_score": config["motion_score"]}
    times = sigmas(config["steps"], config["time_shift"])
    out = sample(model, t["in.noise"], times, *sides, guidance=GuidanceConfig(scale=config["guidance_scale"]))
    torch.testing.assert_close(out.latents, t["out.latents"], atol=2e-4, rtol=1e-4)


def test_image_preprocessing():
    config, t = io("pipe_ti2v_a")
    out = cover_crop(t["in.image"][None], *config["target_hw"])
    torch.testing.assert_close(out[None], t["out.preprocessed_image"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(50, 90), (90, 50), (64, 96), (31, 47), (200, 301)])
def test_cover_crop_always_gives_the_size(size):
    assert cover_crop(torch.rand(2, 3, *size), 64, 96).shape == (2, 3, 64, 96)
