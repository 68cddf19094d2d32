"""`stepvideo profile`: a stage of the store, a few steps, figures that add up."""

from __future__ import annotations

import argparse
import copy
import json

import pytest
from latent_cache import JOINT, TRAIN

from stepvideo.config import dump, load
from stepvideo.errors import ConfigError, StepVideoError
from stepvideo.stage import InputRef, StageSpec
from stepvideo.training import profile_command
from stepvideo.training.config import TrainConfig


def stage_in_store(store, cache, subsets, **runtime):
    """The folder of a train stage that was planned and never ran."""
    config = {**copy.deepcopy(TRAIN), **copy.deepcopy(JOINT), "subset": "s1", "steps": 200}
    config["runtime"] |= runtime
    config["balance"] |= {"packs": runtime.get("nproc", 1)}
    for name, path in (("latents", cache), ("subsets", subsets)):
        (store / name / "k").mkdir(parents=True)
        (store / name / "k" / "out").symlink_to(path)
    inputs = {name: InputRef(name, "k", "d") for name in ("latents", "subsets")}
    spec = StageSpec("t2vi", "train", "key", dump(load(TrainConfig, config)), inputs, str(store), "code")
    spec.write(store / "t2vi" / "key" / "spec.json")
    return store / "t2vi" / "key"


def profile(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    profile_command.add_arguments(parser)
    return profile_command.call(parser.parse_args([str(a) for a in argv]))


def test_a_profile_says_where_the_time_goes(tmp_path, cache, subsets, capsys):
    folder = stage_in_store(tmp_path / "store", cache, subsets)
    assert profile(folder, "--steps", "3", "--out", tmp_path / "found") == 0
    text = capsys.readouterr().out
    assert text == (tmp_path / "found" / "profile.txt").read_text()
    assert "MFU" in text and "% of" in text and "next: " in text and "trace.json" in text
    found = json.loads((tmp_path / "found" / "profile.json").read_text())
    phases, rates = found["phases_s"], found["rates"]
    assert set(phases) == {"forward", "backward", "optimizer", "data wait", "other"}
    assert all(phases[p] > 0 for p in ("forward", "backward", "optimizer"))
    assert rates["tflops"] > 0 and rates["mfu"] == pytest.approx(rates["tflops"] / found["peak"]["tflops"])
    assert sum(o["share"] for o in found["operators"]) == pytest.approx(1)
    assert found["operators"] == sorted(found["operators"], key=lambda o: -o["seconds"])
    assert any(o["name"] == "aten::addmm" for o in found["operators"])
    names = {e.get("name") for e in json.loads((tmp_path / "found" / "trace.json").read_text())["traceEvents"]}
    assert {"forward", "backward", "optimizer", "aten::addmm"} <= names
    assert sorted(p.name for p in folder.iterdir()) == ["spec.json"], "the stage's own folder is left alone"


def test_what_cannot_be_profiled_is_said(tmp_path, cache, subsets):
    folder = stage_in_store(tmp_path / "store", cache, subsets)
    with pytest.raises(ConfigError, match="--steps 0"):
        profile(folder, "--steps", "0")
    with pytest.raises(ConfigError, match="no spec.json"):
        profile(tmp_path)
    with pytest.raises(StepVideoError, match="less than 212 steps"):
        profile(folder, "--steps", "70", "--out", tmp_path / "found")
    (tmp_path / "store" / "subsets" / "k" / "out").unlink()
    with pytest.raises(StepVideoError, match="subsets/k/out is not there"):
        profile(folder, "--out", tmp_path / "found")
    spec = StageSpec("report", "report", "key", {}, {}, str(tmp_path / "store"), "code")
    spec.write(tmp_path / "store" / "report" / "key" / "spec.json")
    with pytest.raises(ConfigError, match="kind report"):
        profile(tmp_path / "store" / "report" / "key")


@pytest.mark.soak
def test_two_ranks_are_profiled_together(tmp_path, cache, subsets, capsys):
    folder = stage_in_store(tmp_path / "store", cache, subsets, nproc=2)
    assert profile(folder, "--steps", "2", "--out", tmp_path / "found", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rates"]["samples_per_s"] > 0 and found["phases_s"]["backward"] > 0
