"""The profiles of the report's sizes fit on 80 GB devices by prediction, and what does not fit is told."""

from __future__ import annotations

import argparse
import copy
import json
import operator
from functools import cache, reduce

import pytest
import yaml

from flows.compose import compose
from flows.graph import build
from stepvideo.data.buckets import Bucket
from stepvideo.data.config import LatentsConfig
from stepvideo.emulator.vae_memory import vae_parameters
from stepvideo.errors import ConfigError
from stepvideo.models.config import VAEConfig
from stepvideo.training import fits_command
from stepvideo.training.config import TrainConfig
from stepvideo.training.fits import batch_sizes, fits, worst


@cache
def profile(name: str) -> dict:
    return compose(["weights.text=shipped", "weights.vae=shipped", f"profile={name}"])


def stages(overrides: list[str]) -> list:
    """Stages of a profile, composed once, with changes of the stages' settings: as quick as it is right here."""
    return changed(tuple(overrides))


@cache
def changed(overrides: tuple[str, ...]) -> list:
    (name,) = (o.removeprefix("profile=") for o in overrides if o.startswith("profile="))
    cfg = copy.deepcopy(profile(name))
    for path, _, value in (o.partition("=") for o in overrides if not o.startswith("profile=")):
        *parents, last = path.split(".")
        reduce(operator.getitem, parents, cfg)[last] = yaml.safe_load(value)
    return build(cfg)


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    fits_command.add_arguments(parser)
    return fits_command.call(parser.parse_args(words), stages)


@pytest.mark.parametrize("name", ["30b", "4b"])
def test_the_profile_fits(name, capsys):
    assert run(f"profile={name}", "--all", "--check", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    buckets = {(row["stage"], row["bucket"]) for row in found["rows"]}
    # two stages on three sizes of images; six of three lengths, three sizes and images beside them, two without these;
    # DPO and Turbo on three sizes of the longest
    assert len(buckets) == len(found["rows"]) == 2 * 3 + 6 * (9 + 1) + 2 * 9 + 2 * 3
    assert all(row["fits"] and 9e9 < row["total"] < 80e9 for row in found["rows"])


def test_what_does_not_fit_is_told(capsys):
    assert run("profile=30b", "stages.t2vi_192.runtime.parallel.checkpointing=none", "--check") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "TOO MUCH" in line] == [f"t2vi_192.s{i}" for i in (1, 2, 3)]


def test_what_would_help_is_told(capsys):
    settings = ["profile=30b", "stages.t2vi_192.runtime.parallel.checkpointing=none"]
    run(*settings)
    advice = [line for line in capsys.readouterr().out.splitlines() if line.startswith("t2vi_192.s1 needs")]
    assert len(advice) == 1 and "GB more" in advice[0] and "accumulate=2" in advice[0]
    run(*settings, "stages.t2vi_192.runtime.accumulate=2")
    assert "TOO MUCH" not in capsys.readouterr().out
    run(*settings, "--device-gb=12")
    assert "no single change" in capsys.readouterr().out


def test_a_reference_takes_a_second_network_and_pairs_twice_the_samples():
    rows = {f.stage: f for f in worst(fits(stages(["profile=30b"])))}
    dpo, turbo = rows["dpo"], rows["turbo"]
    assert (dpo.kind, turbo.kind) == ("dpo", "turbo") and dpo.samples == 2 * turbo.samples
    assert dpo.memory.beside == dpo.memory.master + dpo.memory.weights and turbo.memory.beside == 0
    assert dpo.memory.activations == pytest.approx(2 * turbo.memory.activations, rel=0.01)
    adapters = {f.stage: f for f in fits(stages(["profile=30b", "stages.dpo.lora.rank=16"]))}
    assert adapters["dpo"].memory.beside == 0


def test_a_vae_that_encodes_clips_as_they_come_counts():
    cached = {
        f.bucket: f for f in fits(stages(["profile=30b", "stages.latents.on_the_fly=false"])) if f.stage == "sft.1"
    }
    live = {f.bucket: f for f in fits(stages(["profile=30b"])) if f.stage == "sft.1"}
    for bucket, fit in live.items():
        assert cached[bucket].memory.encoding == cached[bucket].memory.beside == 0
        assert fit.memory.beside == 4 * sum(vae_parameters(VAEConfig())) and fit.memory.encoding > 5e9


def test_a_gpu_of_the_catalogue_or_none(capsys):
    assert run("profile=30b", "--gpu=H200", "--check", "--json") == 0
    assert json.loads(capsys.readouterr().out)["device_bytes"] == 141e9
    with pytest.raises(ConfigError, match="H800, H100"):
        run("profile=30b", "--gpu=H1000")
    with pytest.raises(ConfigError, match="more than 0"):
        run("profile=30b", "--device-gb=-1")


def test_a_page(tmp_path):
    assert run("profile=4b", f"--html={tmp_path / 'fits.html'}") == 0
    page = (tmp_path / "fits.html").read_text()
    assert "<svg" in page and "t2vi_540.s4" in page and "activations" in page


def test_a_larger_device_takes_it():
    assert run("profile=30b", "stages.t2vi_192.runtime.parallel.checkpointing=none", "--check", "--device-gb=141") == 0


def test_a_device_has_memory():
    with pytest.raises(ConfigError, match="--device-gb 0"):
        run("profile=30b", "--device-gb=0")


def test_ranks_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match=r"parallel\.tensor"):
        run("profile=30b", "stages.t2i.runtime.parallel.tensor=7")


@pytest.mark.parametrize(("alpha", "expected"), [(1.0, [4, 6, 13]), (0.0, [3, 4, 10])])
def test_batches_follow_equation_12(alpha, expected):
    """Solved for, alpha brings the mean batch near the four asked for; a third of the videos are in each bucket."""
    cfg = TrainConfig()
    cfg.balance.batch_size, cfg.balance.alpha = 4, alpha
    latents = LatentsConfig(lengths=[68, 136, 204], resolutions={"low": ["192x320"], "high": ["544x992"]})
    sizes = batch_sizes(cfg, latents, VAEConfig())
    assert [sizes[Bucket(n, 192, 320)] for n in (204, 136, 68)] == expected
