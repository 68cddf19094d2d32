"""Every DiT stage with adapters: it learns, hands over merged weights and the adapters, resumes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from latent_cache import TRAIN, WIDTH, Z, context
from safetensors.torch import load_file, save_file

from stepvideo.models.checkpoints import load_dit
from stepvideo.training import train
from stepvideo.training.lora_files import merged

pytest.importorskip("peft")
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
LORA = {"lora": {"rank": 2, "alpha": 4.0}}


@pytest.fixture(scope="module")
def base(cache, subsets, tmp_path_factory):
    """Trained until the cross-attention and the output, which start at zero, are not."""
    config = {**TRAIN, "resolution": "high", "steps": 30}
    ctx = context("train", {"latents": cache, "subsets": subsets}, config, tmp_path_factory.mktemp("base"))
    train.run(ctx)
    return ctx.out


def check(out, base):
    """The artifact's weights are the start's with the artifact's own adapters."""
    found = load_dit(out).state_dict()
    model, value = merged(base, out / "lora")
    assert found.keys() == model.state_dict().keys()
    for name, like in model.state_dict().items():
        assert torch.allclose(found[name], value(name, like), rtol=1e-5, atol=1e-7), name
    moved = [k for k, v in load_file(base / WEIGHTS).items() if not torch.equal(v, found[k])]
    assert moved and all(".attn" in k or ".ff." in k for k in moved)


def test_train(stage, cache, subsets, base):
    inputs = {"latents": cache, "subsets": subsets, "init": base}
    config = {**TRAIN, **LORA, "resolution": "high", "subset": "sft_1", "snapshots": 2}
    out, _ = stage("train", inputs, config, "sft")
    check(out, base)
    again, _ = stage("train", inputs, config, "again")
    assert (again / WEIGHTS).read_bytes() == (out / WEIGHTS).read_bytes()
    snapshot = load_dit(out / "snapshots" / "step-0000003").state_dict()
    assert snapshot.keys() == load_dit(out).state_dict().keys()


def test_dpo_has_the_policy_without_adapters_as_reference(stage, base, tmp_path):
    draw = torch.Generator().manual_seed(0)
    loser = torch.randn(8, 3, Z, 3, 3, generator=draw)
    winner = loser.clone()
    winner[:, :, 0] += 1.5
    text = {k: torch.randn(8, 5, WIDTH, generator=draw) for k in ("encoder_hidden_states", "encoder_hidden_states_2")}
    text["encoder_attention_mask"] = torch.ones(8, 10, dtype=torch.int64)
    save_file({"winner": winner, "loser": loser, **text}, tmp_path / "pairs.safetensors")
    config = {**LORA, "steps": 30, "batch_size": 8, "beta": 50.0, "precision": "32-true", "runtime": TRAIN["runtime"]}
    config["optim"] = {"lr": 1e-2, "warmup": 2}
    out, metrics = stage("dpo", {"init": base, "pairs": tmp_path}, config)
    rows = json.loads((out / "loss_curve.json").read_text())["rows"]
    assert rows[0][1] == pytest.approx(np.log(2), abs=1e-5), "policy and reference start equal"
    assert metrics["loss"] < 0.65 and metrics["drift"] > 0
    check(out, base)


@pytest.mark.soak
def test_turbo(stage, cache, base, tmp_path):
    x0 = torch.randn(8, 3, Z, 3, 3, generator=torch.Generator().manual_seed(0))
    save_file({"x0": x0, "x1": 0.3 * x0 + 1, "caption": torch.arange(8)}, tmp_path / "couplings.safetensors")
    config = {**LORA, "steps": 30, "batch_size": 8, "precision": "32-true", "runtime": TRAIN["runtime"]}
    config |= {"optim": {"lr": 1e-2, "warmup": 2}, "sampling": {"steps": 1, "cfg": 1.0}}
    out, metrics = stage("turbo", {"init": base, "couplings": tmp_path, "latents": cache}, config)
    assert metrics["loss"] < metrics["first_loss"]
    check(out, base)
