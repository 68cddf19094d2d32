"""`stepvideo parity` understands any case of the format: cases of other forms, written here, are compared.

What they expect is made by our networks, called chunk by chunk and step by step.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stepvideo.inference.parity.compare import OK, REPORTED
from stepvideo.inference.parity.configs import SplitDiTConfig
from stepvideo.inference.parity.run import check, names
from stepvideo.models.config import DiTConfig, VAEConfig
from stepvideo.models.dit import DiT
from stepvideo.models.video_vae import VideoVAE

Tensors = dict[str, Tensor]


def seeded(model: nn.Module) -> None:
    """Weights as in the golden sets: nothing is zero, and bf16 holds them exactly."""
    draw = torch.Generator().manual_seed(0)
    for name, p in model.requires_grad_(False).named_parameters():
        noise = torch.randn(p.shape, generator=draw)
        if p.ndim == 1:
            p.copy_(("norm" in name and name.endswith("weight")) + 0.2 * noise)
        else:
            p.copy_(noise * p[0].numel() ** -0.5)
        p.copy_(p.bfloat16())


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16().float()


def write(folder: Path, name: str, config: dict[str, Any], inputs: Tensors, outputs: Tensors) -> None:
    listed = {
        "inputs": {k: [list(v.shape), "float32"] for k, v in inputs.items()},
        "outputs": {k: {"shape": list(v.shape), "dtype": "float32"} for k, v in outputs.items()},
    }
    (folder / f"{name}.json").write_text(json.dumps({"case": name, "seed": 3, "torch": "2", **config, **listed}))
    io = {f"in.{k}": v for k, v in inputs.items()} | {f"out.{k}": v for k, v in outputs.items()}
    save_file({k: v.contiguous() for k, v in io.items()}, folder / f"{name}.io.safetensors")


def write_weights(folder: Path, name: str, model: nn.Module) -> None:
    held = {k: v.bfloat16() for k, v in model.state_dict().items()}
    save_file(held, folder / f"{name}.weights.safetensors")


def verdicts(folder: Path) -> dict[str, str]:
    return {f"{r.case}.{r.output}": r.verdict + r.note for name in names(folder) for r in check(folder, name)}


def test_a_dit_of_another_form(tmp_path: Path) -> None:
    """One text encoder, head dimension 32 in an uncommon split, patches of 2, an odd grid, batch 3, no mask."""
    config: dict[str, Any] = {"num_attention_heads": 3, "attention_head_dim": 32, "num_layers": 1, "patch_size": 2}
    config |= {"in_channels": 3, "out_channels": 5, "rope_ch_split": [12, 16, 4], "use_additional_conditions": False}
    model = DiT(SplitDiTConfig(**config, caption_channels=[20]))
    seeded(model)
    inputs = {
        "hidden_states": normal(1, 3, 5, 3, 6, 14),
        "encoder_hidden_states": normal(2, 3, 6, 20),
        "timestep": torch.tensor([0.0, 0.5, 1.0]),
    }
    outputs = {"x": model(encoder_hidden_states_2=None, **inputs)}
    outputs["tap_block0_ff"] = torch.zeros(3, 5 * 3 * 7, 96)  # wrong on purpose: a tap that no golden set has
    write(tmp_path, "any_name", config | {"kind": "dit_t2v", "caption_channels": 20, "clip_len": 0}, inputs, outputs)
    write_weights(tmp_path, "any_name", model)
    assert verdicts(tmp_path) == {"any_name.x": OK, "any_name.tap_block0_ff": "MISS"}


def test_a_run_of_another_form(tmp_path: Path) -> None:
    """Image to video with one text encoder, two videos, other steps, shift, guidance and motion than its DiT's case."""
    config: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1, "in_channels": 4}
    config |= {"out_channels": 4, "patch_size": 1, "caption_channels": [20], "use_additional_conditions": True}
    model = DiT(DiTConfig(**config))
    seeded(model)
    noise, text, first = normal(1, 2, 3, 4, 5, 3), normal(2, 4, 6, 20), normal(3, 2, 1, 4, 5, 3)
    mask = (torch.arange(6) < torch.tensor([[6], [4], [3], [5]])).float()
    condition = torch.cat([first, torch.zeros(2, 2, 4, 5, 3)], 1).repeat(2, 1, 1, 1, 1)

    def velocity(x: Tensor, t: float, motion: float) -> Tensor:
        return model(torch.cat([x, x]), text, None, torch.full((4,), t), mask, condition, motion)

    x, times = noise, [1 - 7 * u / (1 + 6 * u) for u in (1.0, 2 / 3, 1 / 3, 0.0)]
    for t, after in zip(times, times[1:]):
        cond, uncond = velocity(x, t, 2.0).chunk(2)
        x = x + (after - t) * (uncond + 4.0 * (cond - uncond))
    given = {"encoder_hidden_states": text, "encoder_attention_mask": mask, "condition_hidden_states": condition}
    given |= {"hidden_states": torch.cat([noise, noise]), "timestep": torch.full((4,), 0.25)}
    alone = velocity(noise, 0.25, 20.0)
    case = config | {"kind": "dit_ti2v", "motion_score": 20.0}
    write(tmp_path, "moving", case, given, {"x": alone, "x_bf16": alone.bfloat16()})
    write_weights(tmp_path, "moving", model)
    run = {"kind": "pipeline_ti2v", "weights_from": "moving", "steps": 3, "time_shift": 7.0, "guidance_scale": 4.0}
    given = {"noise": noise, "prompt_embeds": text, "attention_mask": mask, "image_latent": first}
    write(tmp_path, "a_run", run | {"motion_score": 2.0}, given, {"latents": x})
    found = verdicts(tmp_path)
    assert found.pop("moving.x_bf16").startswith(REPORTED)
    assert found == {"a_run.latents": OK, "moving.x": OK}


@pytest.mark.parametrize("version", [1, 2])
def test_a_vae_of_another_form(tmp_path: Path, version: int) -> None:
    """Both versions, other widths, an image, 18 and 51 frames; chunks are joined and their borders blended here."""
    form: dict[str, Any] = {"dual_path_ch": 96} if version == 2 else {"dual_path": False, "spatial_group_norm": False}
    config: dict[str, Any] = {"z_channels": 3, "enc_ch": 32, "enc_ch_mult": [1, 1, 2, 3], "num_res_blocks": 1}
    config |= {"dec_ch": 32, "dec_ch_mult": [1, 1, 2, 3]}
    model = VideoVAE(VAEConfig(**config, **form))
    seeded(model)
    side, inputs, outputs = model.cfg.spatial_factor, Tensors(), Tensors()
    for suffix, n in (("still", 1), ("f18", 18), ("f51", 51)):
        x = normal(1, 1, n, 3, side, 2 * side).clamp(-1, 1)
        moments = torch.cat([model.encode_moments(part) for part in x.split(17, 1)], 1)
        mean, logvar = moments.chunk(2, 2)
        eps, z = normal(2, *mean.shape), normal(3, *mean.shape)
        y = torch.cat([model.decode(part) for part in z.split(model.cfg.latent_len, 1)], 1)
        border = [t for b in range(17, n, 17) for t in (b - 1, b)]
        if border:
            outputs[f"decoded_{suffix}_nomix_boundary"] = y[:, border].clone()
        for b in border[1::2]:
            y[:, b] = 0.6 * y[:, b] + 0.4 * y[:, b - 1]
            y[:, b - 1] = 0.6 * y[:, b - 1] + 0.4 * y[:, b]
        inputs |= {f"video_{suffix}": x, f"eps_{suffix}": eps, f"z_{suffix}": z}
        outputs |= {f"moments_{suffix}": moments, f"latent_{suffix}": mean + (logvar / 2).exp() * eps}
        outputs[f"decoded_{suffix}"] = y
    second = inputs["z_f18"][:, 3 if version == 2 else 5 :].transpose(1, 2)
    outputs["tap_dec_conv_in_ch1to4"] = model.decoder.conv_in(second)[:, 1:5]  # of a second chunk, which no key says
    lengths = {"frame_len": 17, "latent_len": model.cfg.latent_len}
    write(tmp_path, "other", config | lengths | {"kind": f"video_vae_v{version}"}, inputs, outputs)
    write_weights(tmp_path, "other", model)
    assert verdicts(tmp_path) == {f"other.{output}": OK for output in outputs}
