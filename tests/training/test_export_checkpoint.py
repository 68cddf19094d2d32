"""`stepvideo export-checkpoint`: what a killed training had come to, as a model that loads."""

from __future__ import annotations

import argparse
import shutil

import pytest
import torch
from killed_stages import EVERY, Forks, kill_after, make_inputs, prepare
from safetensors.torch import load_file

from stepvideo import storage
from stepvideo.diffusion.sampling import Sampling
from stepvideo.errors import StepVideoError
from stepvideo.models.checkpoints import load_dit
from stepvideo.training import checkpoint_files as files
from stepvideo.training import export_command
from stepvideo.training.export import export_checkpoint
from stepvideo.training.lora_config import LoRAConfig

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """T2VI with snapshots at the steps of its checkpoints, killed."""
    folder = tmp_path_factory.mktemp("export")
    directory = prepare("t2vi", make_inputs(folder / "inputs"), folder / "store")
    kill_after(directory, 2 * EVERY + 1, Forks)
    return directory


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_averaged_weights_are_those_of_the_snapshot(stage, tmp_path):
    assert export_checkpoint(stage, tmp_path / "ema", EVERY, ema=True).step == EVERY
    snapshot = stage / "work" / "snapshots" / f"step-{EVERY:07d}"
    assert (tmp_path / "ema" / WEIGHTS).read_bytes() == (snapshot / WEIGHTS).read_bytes()
    assert Sampling.read(tmp_path / "ema").frames == 34 and Sampling.read(tmp_path / "ema").steps == 2
    assert (tmp_path / "ema" / "model_index.json").is_file() and load_dit(tmp_path / "ema").cfg.num_layers == 1
    export_checkpoint(stage, tmp_path / "last", EVERY)
    assert not same(load_file(tmp_path / "ema" / WEIGHTS), load_file(tmp_path / "last" / WEIGHTS))


def test_adapters_are_merged(stage, tmp_path):
    directory = prepare("lora", stage.parents[2] / "inputs", tmp_path / "store")
    kill_after(directory, 2 * EVERY + 1, Forks)
    export_checkpoint(directory, tmp_path / "out")
    base, tuned = (load_file(d / WEIGHTS) for d in (stage.parents[2] / "inputs" / "init", tmp_path / "out"))
    changed = {name for name in base if not torch.equal(base[name], tuned[name])}
    assert base.keys() == tuned.keys() and {n.removeprefix("transformer_blocks.0.") for n in changed} == {
        *(f"{layer}.weight" for layer in LoRAConfig().targets)
    }
    assert (tmp_path / "out" / "lora").is_dir()


def test_the_command_takes_the_newest_intact_one(stage, tmp_path, capsys):
    store = tmp_path / "stage"
    shutil.copytree(stage, store)
    steps = files.steps(store / "work" / "fit")
    parser = argparse.ArgumentParser()
    export_command.add_arguments(parser)
    assert export_command.call(parser.parse_args([str(store), "--out", str(tmp_path / "a")])) == 0
    assert capsys.readouterr().out.endswith(f"tensors of step {steps[-1]}\n")
    shutil.copytree(files.step_folder(store / "work" / "fit", steps[-1]), store / "work" / "fit" / "step-0000099")
    (store / "work" / "fit" / "step-0000099" / files.SHARED).write_bytes(b"")
    assert export_checkpoint(store, tmp_path / "b").step == steps[-1]
    assert same(load_file(tmp_path / "a" / WEIGHTS), load_file(tmp_path / "b" / WEIGHTS))
    with pytest.raises(StepVideoError, match="no intact checkpoint of step 99; there: .*99"):
        export_checkpoint(store, tmp_path / "c", 99)
    with pytest.raises(StepVideoError, match="is there already"):
        export_checkpoint(store, tmp_path / "a")
    assert not (tmp_path / "c").exists()


def test_what_has_no_checkpoint_is_refused(stage, tmp_path):
    store = tmp_path / "stage"
    store.mkdir()
    spec = storage.read_json(stage / "spec.json")
    storage.write_json(store / "spec.json", spec)
    with pytest.raises(StepVideoError, match="no intact checkpoint; there: none .a stage that is complete keeps none"):
        export_checkpoint(store, tmp_path / "out")
    storage.write_json(store / "spec.json", {**spec, "kind": "curate"})
    with pytest.raises(StepVideoError, match="is of kind curate"):
        export_checkpoint(store, tmp_path / "out")
