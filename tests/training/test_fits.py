"""The profiles of the report's sizes fit on 80 GB devices by prediction, and what does not fit is told."""

from __future__ import annotations

import argparse
import json
from functools import cache

import pytest
from omegaconf import OmegaConf

from flows.compose import compose
from flows.graph import build
from stepvideo.data.buckets import Bucket
from stepvideo.data.config import LatentsConfig
from stepvideo.errors import ConfigError
from stepvideo.models.config import VAEConfig
from stepvideo.training import fits_command
from stepvideo.training.config import TrainConfig
from stepvideo.training.fits import batch_sizes


@cache
def profile(name: str) -> dict:
    return compose(["weights.text=shipped", "weights.vae=shipped", f"profile={name}"])


def stages(overrides: list[str]) -> list:
    """Stages of a profile, composed once, with changes of the stages' settings: as quick as it is right here."""
    (name,) = (o.removeprefix("profile=") for o in overrides if o.startswith("profile="))
    cfg = OmegaConf.create(profile(name))
    changes = OmegaConf.from_dotlist([o for o in overrides if not o.startswith("profile=")])
    return build(OmegaConf.to_container(OmegaConf.merge(cfg, changes)))  # type: ignore[arg-type]


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    fits_command.add_arguments(parser)
    return fits_command.call(parser.parse_args(words), stages)


@pytest.mark.parametrize("name", ["30b", "4b"])
def test_the_profile_fits(name, capsys):
    assert run(f"profile={name}", "--all", "--check", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    buckets = {(row["stage"], row["bucket"]) for row in found["rows"]}
    # two stages on three sizes of images, and eight of three lengths and three sizes
    assert len(buckets) == len(found["rows"]) == 2 * 3 + 8 * 9
    assert all(row["fits"] and 10e9 < row["total"] < 80e9 for row in found["rows"])


def test_what_does_not_fit_is_told(capsys):
    assert run("profile=30b", "stages.t2vi_192.runtime.parallel.checkpointing=none", "--check") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "TOO MUCH" in line] == [f"t2vi_192.s{i}" for i in (1, 2, 3)]


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
