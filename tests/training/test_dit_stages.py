"""The DiT stages on a small random cache: they learn, hand over, repeat themselves to the bit, split over ranks."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from killed_stages import Forks, torchrun
from latent_cache import IMAGES, JOINT, TRAIN, WIDTH, Z, context
from safetensors.torch import load_file, save_file

from stepvideo.config import dump, load
from stepvideo.diffusion.sampling import Sampling
from stepvideo.fingerprint import fingerprint
from stepvideo.models.checkpoints import load_dit
from stepvideo.stage import InputRef, StageSpec, kind
from stepvideo.training import train
from stepvideo.training.config import TrainConfig
from stepvideo.training.dpo_config import PairsConfig
from stepvideo.training.pairs import judge, vote

TWO = {**JOINT, "balance": {**JOINT["balance"], "packs": 2}}  # for two ranks
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def weights(folder):
    return load_file(folder / WEIGHTS)


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_t2i_then_t2vi_then_sft(stage, cache, subsets):
    inputs = {"latents": cache, "subsets": subsets}
    images = {**TRAIN, **IMAGES, "resolution": "high", "steps": 40, "optim": {"name": "adamw", "lr": 1e-2}}
    t2i, metrics = stage("train", inputs, images, "t2i")
    curve = json.loads((t2i / "loss_curve.json").read_text())["rows"]
    assert metrics["loss"] < 0.7 * np.mean([loss for _, loss, _ in curve[:4]])
    assert Sampling.read(t2i) == Sampling(1, 48, 48, steps=2, cfg=1.5, time_shift=2.0)

    joint = {**TRAIN, **JOINT, "subset": "s1", "resolution": "low"}
    t2vi, _ = stage("train", {**inputs, "init": t2i}, joint, "t2vi")
    again, _ = stage("train", {**inputs, "init": t2i}, joint, "again")
    assert same(weights(t2vi), weights(again)), "same config, same data, other bytes"
    assert not same(weights(t2vi), weights(t2i))
    assert Sampling.read(t2vi).frames == 17 and Sampling.read(t2vi).height == 32

    sft, _ = stage("train", {**inputs, "init": t2vi}, {**TRAIN, "subset": "sft_1", "snapshots": 3}, "sft")
    assert sorted(p.name for p in (sft / "snapshots").iterdir()) == ["step-0000002", "step-0000004"]
    assert load_dit(sft / "snapshots" / "step-0000002").cfg == load_dit(sft).cfg
    assert json.loads((sft / "transformer" / "latent_stats.json").read_text())["mean"] == [0.5] * Z


@pytest.fixture
def pairs(tmp_path):
    """Winners have more of channel 0 than losers."""
    draw = torch.Generator().manual_seed(0)
    loser = torch.randn(8, 3, Z, 3, 3, generator=draw)
    winner = loser.clone()
    winner[:, :, 0] += 1.5
    text = {
        "encoder_hidden_states": torch.randn(8, 4, WIDTH, generator=draw),
        "encoder_hidden_states_2": torch.randn(8, 5, WIDTH, generator=draw),
        "encoder_attention_mask": torch.ones(8, 9, dtype=torch.int64),
    }
    folder = tmp_path / "pairs_in"
    folder.mkdir()
    save_file({"winner": winner, "loser": loser, **text}, folder / "pairs.safetensors")
    return folder


@pytest.fixture(scope="module")
def base(cache, subsets, tmp_path_factory):
    inputs, config = {"latents": cache, "subsets": subsets}, {**TRAIN, "resolution": "high"}
    ctx = context("train", inputs, config, tmp_path_factory.mktemp("base"))
    train.run(ctx)
    return ctx.out


def test_dpo_learns_the_preference(stage, base, pairs):
    config = {"steps": 30, "batch_size": 8, "beta": 50.0, "precision": "32-true", "runtime": TRAIN["runtime"]}
    config["optim"] = {"lr": 3e-3, "warmup": 2}
    out, metrics = stage("dpo", {"init": base, "pairs": pairs}, config)
    rows = json.loads((out / "loss_curve.json").read_text())["rows"]
    assert rows[0][1] == pytest.approx(np.log(2), abs=1e-5), "policy and reference start equal"
    assert metrics["loss"] < 0.6 and metrics["drift"] > 0
    assert Sampling.read(out) == Sampling.read(base)


def test_turbo_lowers_the_loss_on_its_couplings(stage, cache, base, tmp_path):
    draw = torch.Generator().manual_seed(0)
    x0 = torch.randn(8, 3, Z, 3, 3, generator=draw)
    folder = tmp_path / "couplings_in"
    folder.mkdir()
    save_file({"x0": x0, "x1": 0.3 * x0 + 1, "caption": torch.arange(8)}, folder / "couplings.safetensors")
    config = {"steps": 40, "batch_size": 8, "precision": "32-true", "runtime": TRAIN["runtime"]}
    config |= {"optim": {"lr": 1e-2, "warmup": 2}, "sampling": {"steps": 1, "cfg": 1.0}}
    out, metrics = stage("turbo", {"init": base, "couplings": folder, "latents": cache}, config)
    assert metrics["loss"] < 0.5 * metrics["first_loss"]
    assert Sampling.read(out).steps == 1 and Sampling.read(out).height == 48


@pytest.mark.soak  # tests/parallel/test_train_equality.py has it without the stage around it
def test_two_gloo_processes_train_as_one(tmp_path, cache, subsets, ranks):
    """The same stage through `stepvideo.job`, by itself and under torchrun with two ranks."""
    results = []
    for nproc in (1, 2):
        store = tmp_path / f"store{nproc}"
        for name, folder in (("latents", cache), ("subsets", subsets)):
            (store / name / "k").mkdir(parents=True)
            (store / name / "k" / "out").symlink_to(folder)
        # AdamW: Muon orthogonalises in bf16, which turns the last bits of a sum into a thousandth of the step
        plain = {**TRAIN, "subset": "s1", **TWO, "optim": {"name": "adamw", "lr": 3e-3, "ema": 0.8}}
        config = dump(load(TrainConfig, plain))
        module = kind("train").run.split(":")[0]
        inputs = {name: InputRef(name, "k", "d") for name in ("latents", "subsets")}
        spec = StageSpec("train", "train", "key", config, inputs, str(store), fingerprint(module))
        directory = store / "train" / "key"
        spec.write(directory / "spec.json")
        if nproc == 1:
            assert Forks(directory).codes() == [0]
        else:
            assert ranks(1, torchrun, directory, 2) == [0]
        results.append(directory / "out")
    one, two = (json.loads((r / "loss_curve.json").read_text())["rows"] for r in results)
    a, b = (weights(r) for r in results)
    # Adam divides by the root of the squared gradient: where that is nothing but rounding, steps differ in sign
    difference = sum(float((a[k] - b[k]).square().sum()) for k in a) ** 0.5
    assert difference < 1e-4 * sum(float(v.square().sum()) for v in a.values()) ** 0.5
    # rank 0's own share of the loss differs from the mean over ranks, the norm of the averaged gradient does not
    assert [n for _, _, n in one] == pytest.approx([n for _, _, n in two], rel=1e-3)


def test_annotators():
    cfg = PairsConfig(flip=0.0, tie=0.1)
    draw = np.random.default_rng(0)
    assert [vote(0.9, 0.2, cfg, draw), vote(0.2, 0.9, cfg, draw), vote(0.5, 0.55, cfg, draw)] == [1, -1, 0]
    noisy = PairsConfig(flip=0.15, tie=0.1)
    votes = [vote(0.9, 0.2, noisy, draw) for _ in range(4000)]
    assert 0.13 < votes.count(-1) / 4000 < 0.17
    chosen = judge([0.1, 0.9, 0.5, 0.95], cfg, 0)
    assert chosen and all(asdict(cfg)["annotators"] == len(p["votes"]) for p in chosen)
    used = [i for p in chosen for i in (p["winner"], p["loser"])]
    assert len(used) == len(set(used)) and all([0.1, 0.9, 0.5, 0.95][p["winner"]] > 0 for p in chosen)
    assert judge([0.5, 0.52, 0.51], cfg, 0) == []
