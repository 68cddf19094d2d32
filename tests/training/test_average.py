"""Averages of models on disk: exact, in any order, refused where models differ, greedy, within memory."""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from latent_cache import DIT, TRAIN, Z
from peak_memory import MISSING, growth
from safetensors.torch import load_file

from stepvideo import storage
from stepvideo.config import load
from stepvideo.errors import ArtifactError, ConfigError, StepVideoError
from stepvideo.models.checkpoints import load_dit, save_dit
from stepvideo.models.config import DiTConfig
from stepvideo.models.dit import DiT
from stepvideo.models.tensor_files import entries
from stepvideo.training import average_command
from stepvideo.training.average import choose
from stepvideo.training.config import AverageConfig
from stepvideo.training.soup import Part, blend, greedy, in_memory

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def weights(folder):
    return load_file(folder / WEIGHTS)


def make(folder, seed, cfg=None, dtype=torch.float32, scale=0.3):
    model = DiT(cfg or DiTConfig(**DIT)).to(dtype)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=draw))
    save_dit(model, folder)
    storage.write_json(folder / "transformer" / "latent_stats.json", {"mean": [0.5] * Z, "std": [1.0] * Z})
    return folder


@pytest.fixture
def three(tmp_path):
    return [make(tmp_path / f"m{i}", i) for i in range(3)]


def test_uniform_mean_is_numpys_to_the_bit(three, stage):
    out, metrics = stage("average", dict(zip("abc", three, strict=True)), {})
    assert metrics["models"] == 3
    sources = [weights(f) for f in three]
    for name, tensor in weights(out).items():
        mean = np.mean([s[name].double().numpy() for s in sources], axis=0).astype(np.float32)
        assert np.array_equal(tensor.numpy(), mean), name
    assert load_dit(out).cfg == load_dit(three[0]).cfg
    stats = "transformer/latent_stats.json"
    assert storage.read_json(out / stats) == storage.read_json(three[0] / stats)


def test_any_order_gives_the_same_bytes(three, tmp_path):
    found = set()
    for i, order in enumerate(itertools.permutations(zip(three, (1.0, 2.0, 0.3), strict=True))):
        model, value = blend([Part(f, w) for f, w in order])
        save_dit(model, tmp_path / f"o{i}", value=value)
        found.add((tmp_path / f"o{i}" / WEIGHTS).read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_models_give_themselves(tmp_path, dtype):
    folders = [make(tmp_path / name, 5, dtype=dtype) for name in "abc"]
    mean = in_memory([Part(f, w) for f, w in zip(folders, (0.1, 0.7, 0.3), strict=True)])
    for name, tensor in mean.state_dict().items():
        assert tensor.dtype is dtype and torch.equal(tensor, weights(folders[0])[name]), name


def test_weighted(three, stage):
    inputs = dict(zip("abc", three, strict=True))
    shares = {"a": 1.0, "b": 2.0, "c": 5.0}
    out, _ = stage("average", inputs, {"method": "weighted", "weights": shares})
    sources = [weights(f) for f in three]
    for name, tensor in weights(out).items():
        wanted = sum(w * s[name].double() for w, s in zip(shares.values(), sources, strict=True)) / 8
        assert torch.allclose(tensor.double(), wanted, atol=1e-7)
    with pytest.raises(ConfigError, match="weights are given for a, b; the models are a, b, c"):
        stage("average", inputs, {"method": "weighted", "weights": {"a": 1.0, "b": 1.0}}, "lacking")
    for bad in ({"weights": {"a": 1.0}}, {"method": "weighted"}, {"method": "weighted", "weights": {"a": -1.0}}):
        with pytest.raises(ConfigError, match="weights"):
            load(AverageConfig, bad)


def test_models_that_differ_are_refused_by_the_first_difference(tmp_path):
    cfg = DiTConfig(**DIT)
    a = make(tmp_path / "a", 0)

    def refused(folder, match):
        for pair in ((a, folder), (folder, a)):
            with pytest.raises(ArtifactError, match=match):
                blend([Part(f) for f in pair])

    refused(make(tmp_path / "deep", 1, replace(cfg, num_layers=2)), "config num_layers is ")
    refused(make(tmp_path / "half", 1, dtype=torch.bfloat16), r"is (F32 and BF16|BF16 and F32)")
    other = make(tmp_path / "stats", 1)
    storage.write_json(other / "transformer" / "latent_stats.json", {"mean": [0.5] * Z, "std": [2.0] * Z})
    refused(other, "normalised by the std")
    damaged = make(tmp_path / "damaged", 1)
    tensors = weights(damaged)
    tensors["extra"] = tensors.pop("proj_out.bias")
    from safetensors.torch import save_file

    save_file(tensors, damaged / WEIGHTS)
    refused(damaged, r"missing: proj_out\.bias")


def test_sharded_models_average_as_whole_ones(three, tmp_path):
    for f in three[:2]:
        save_dit(load_dit(f), tmp_path / f"s{f.name}", shard_bytes=20_000)
        storage.write_json(
            tmp_path / f"s{f.name}" / "transformer" / "latent_stats.json", {"mean": [0.5] * Z, "std": [1.0] * Z}
        )
    shards = list((tmp_path / "sm0" / "transformer").glob("*-of-*.safetensors"))
    assert len(shards) > 2
    mixed = [Part(tmp_path / "sm0"), Part(tmp_path / "sm1"), Part(three[2])]
    model, value = blend(mixed)
    save_dit(model, tmp_path / "out", shard_bytes=20_000, value=value)
    whole = in_memory([Part(f) for f in three]).state_dict()
    read = load_dit(tmp_path / "out").state_dict()
    for name in whole:  # shards have another digest, so the order of addition may differ
        assert torch.allclose(read[name], whole[name], atol=1e-7, rtol=0)


def blended(root: Path) -> int:
    """By how many bytes writing the mean raises the peak."""
    model, value = blend([Part(root / name) for name in ("m0", "m1", "m2")])
    value("proj_out.bias", model.state_dict()["proj_out.bias"])
    return growth(lambda: save_dit(model, root / "out", shard_bytes=20_000_000, value=value))


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_memory_stays_below_one_model_and_a_tensor(ranks, tmp_path):
    """Three models of 200 MB, in shards of 20 MB: a process of its own, beside what it had before."""
    cfg = DiTConfig(**{**DIT, "num_attention_heads": 16, "attention_head_dim": 64, "num_layers": 3})
    with torch.device("meta"):
        model = DiT(cfg)
    model = model.to_empty(device="cpu")
    for i in range(3):
        for p in model.parameters():
            torch.nn.init.constant_(p, float(i))
        save_dit(model, tmp_path / f"m{i}", shard_bytes=20_000_000)
    size = sum(p.nbytes for p in model.parameters())
    largest = max(p.nbytes for p in model.parameters())
    assert size > 200e6
    (rise,) = ranks(1, blended, tmp_path)
    print(f"{size / 1e6:.0f} MB a model, largest tensor {largest / 1e6:.0f} MB: peak rises by {rise / 1e6:.0f} MB")
    assert largest < rise < 2 / 3 * size


# ------------------------------------------------------------------------------------------------- greedy


def test_greedy_on_a_table():
    values = {(2,): 1.0, (0,): 2.0, (1,): 3.0, (3,): float("nan"), (2, 0): 1.0, (2, 0, 1): 1.5, (2, 0, 3): 0.5}
    chosen, trials = greedy(4, lambda places: values[tuple(places)])
    assert chosen == [2, 0, 3], "an equal value does no harm, a worse one does"
    assert [t.kept for t in trials] == [False, False, True, False, True, False, True]
    with pytest.raises(ValueError, match="no model has a value"):
        greedy(2, lambda places: float("nan"))


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8), st.floats(-1, 1))
def test_greedy_is_never_worse_than_the_best(points, target):
    def value(places):
        return abs(float(np.mean([points[i] for i in places])) - target)

    chosen, trials = greedy(len(points), value)
    assert value(chosen) <= min(value([i]) for i in range(len(points)))
    assert len(trials) == 2 * len(points) - 1 and len(set(chosen)) == len(chosen)


def test_greedy_soup_rejects_a_bad_model(stage, cache, subsets, tmp_path):
    inputs = {"latents": cache, "subsets": subsets}
    models = {}
    for i in (1, 2):
        models[f"sft.{i}"], _ = stage("train", inputs, {**TRAIN, "steps": 20, "subset": f"sft_{i}"}, f"sft{i}")
    models["zz_bad"] = make(tmp_path / "bad", 9, load_dit(models["sft.1"]).cfg, scale=2.0)
    config = {"method": "greedy", "subset": "s6", "held_out": 0.0, "clips": 6, "levels": 4}
    out, metrics = stage("average", {**models, **inputs}, config, "soup")
    record = json.loads((out / "choice.json").read_text())
    assert "zz_bad" not in [m["role"] for m in record["models"]] and len(record["trials"]) == 5
    assert metrics["loss"] <= metrics["loss_best_single"]
    assert [t["value"] for t in record["trials"] if 2 in t["parts"] and t["kept"]] == []
    again, _ = stage("average", {**models, **inputs}, config, "again")
    assert (again / "choice.json").read_bytes() == (out / "choice.json").read_bytes()
    assert (again / WEIGHTS).read_bytes() == (out / WEIGHTS).read_bytes()
    with pytest.raises(ConfigError, match="input `latents`"):
        stage("average", models, {"method": "greedy"}, "blind")


# ------------------------------------------------------------------------------------- runs and snapshots


@pytest.fixture
def sft(tmp_path):
    """A run of 6 steps with snapshots after 2 and 4; the norm peaks at step 2, the loss falls but for the last step."""
    folder = make(tmp_path / "run", 0)
    for step in (2, 4):
        make(folder / "snapshots" / f"step-{step:07d}", step)
    for step in (2, 4):  # as a stage leaves them: without statistics of their own
        (folder / "snapshots" / f"step-{step:07d}" / "transformer" / "latent_stats.json").unlink()
    rows = [[s, 1.0 / (s + 1), 5.0 if s == 2 else 1.0] for s in range(6)]
    rows[5][1] = 0.3
    storage.write_json(folder / "loss_curve.json", {"columns": ["step", "loss", "grad_norm"], "rows": rows})
    return folder


def test_snapshots_of_runs(sft, three, stage):
    def steps(**cfg):
        return [p.step for p in choose("sft", sft, load(AverageConfig, {"smooth": 1, **cfg}))]

    assert steps() == [4] and steps(snapshots=0) == [4, 6] and steps(after_peak=False) == [6]
    assert steps(warmup=4) == [6], "norms are equal after the peak: none qualifies, the last is taken"
    with pytest.raises(StepVideoError, match=r"sft: no snapshot was taken after|sft: after the gradient norm's peak"):
        steps(warmup=4, fallback="error")
    with pytest.raises(ConfigError, match="warmup=50"):
        steps(warmup=50)

    out, _ = stage("average", {"run": sft, "model": three[1]}, {"smooth": 1, "snapshots": 0})
    record = json.loads((out / "choice.json").read_text())
    assert [(m["role"], m["step"]) for m in record["models"]] == [("model", 0), ("run", 4), ("run", 6)]
    four = weights(sft / "snapshots" / "step-0000004")
    for name, tensor in weights(out).items():
        wanted = (four[name].double() + weights(sft)[name] + weights(three[1])[name]) / 3
        assert torch.allclose(tensor.double(), wanted, atol=1e-7)
    assert entries(out / WEIGHTS).keys() == entries(sft / WEIGHTS).keys()


def command(*words):
    parser = argparse.ArgumentParser()
    average_command.add_arguments(parser)
    return average_command.call(parser.parse_args([str(w) for w in words]))


def test_command(three, cache, tmp_path, capsys):
    assert command(*three, "--out", tmp_path / "a") == 0
    assert "the mean of 3 models" in capsys.readouterr().out
    assert command(*three[::-1], "--out", tmp_path / "b") == 0
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "b" / WEIGHTS).read_bytes()
    assert command(*three[:2], "--weights", "3,1", "--out", tmp_path / "c") == 0
    x, y = (weights(f)["proj_out.weight"].double() for f in three[:2])
    assert torch.allclose(weights(tmp_path / "c")["proj_out.weight"].double(), (3 * x + y) / 4, atol=1e-7)
    capsys.readouterr()
    words = ("--validate", cache, "--held-out", 0, "--clips", 2)
    assert command(*three, "--out", tmp_path / "d", *words) == 0
    out = capsys.readouterr().out
    assert out.count("kept") >= 1 and "held-out loss" in out
    for words, match in (
        ((*three, "--out", tmp_path / "a"), "is not empty"),
        ((*three, "--out", tmp_path / "e", "--weights", "1,2"), "2 weights for 3 models"),
        ((*three, "--out", tmp_path / "e", "--weights", "1,2,x"), "give numbers"),
        ((*three, "--out", tmp_path / "e", "--weights", "1,2,-1"), "weights.002=-1.0"),
        ((*three, "--out", tmp_path / "e", "--method", "greedy"), "greedy needs --validate"),
        ((three[0], three[0], "--out", tmp_path / "e"), "named twice"),
    ):
        with pytest.raises(ConfigError, match=match):
            command(*words)
