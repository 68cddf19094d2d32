"""Table 6 agrees with itself, `profile=30b` is it, and what differs is named."""

from __future__ import annotations

import argparse
import json
from copy import deepcopy
from functools import cache

import pytest

from flows.compose import compose
from flows.graph import build
from stepvideo.emulator.dit_memory import dit_parameters
from stepvideo.models.config import DiTConfig
from stepvideo.training import recipe_command
from stepvideo.training.recipe import TABLE_6, Batch, Printed, faults, table_faults


@cache
def configs(profile: str) -> dict:
    overrides = [f"profile={profile}"]
    nodes = build(compose(["weights.text=shipped", "weights.vae=shipped", *overrides]))
    return {n.name: n.config for n in nodes if n.kind == "train"}


@pytest.fixture(scope="module")
def released() -> dict:
    return configs("30b")


def test_printed_numbers_are_intervals():
    assert Printed.of("0.8B") == Printed(800_000_000, 50_000_000)
    assert Printed.of("17.3M").range == (17_250_000, 17_350_000)


def test_table_6_implies_its_nodes_and_adds_up():
    assert [round(row.nodes) for row in TABLE_6] == [377, 375, 374, 374, 375, 376, 250, 250]
    assert table_faults() == []
    wrong = [f for f in table_faults(TABLE_6[:5]) if f.startswith("t2vi_540")]
    assert len(wrong) == 2  # the missing rows' iterations and samples


def test_the_30b_profile_is_table_6(released):
    batches = {name: Batch.of(name, config) for name, config in released.items()}
    assert {row.stage for row in TABLE_6} <= set(batches)
    assert {name: faults(batch) for name, batch in batches.items()} == dict.fromkeys(batches, [])
    assert sum(b.samples for n, b in batches.items() if n.startswith("t2vi_540")) == pytest.approx(27.3e6, rel=2e-3)
    assert {b.media for n, b in batches.items() if n.startswith("sft")} == {"videos"}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"steps": 170_000}, "iterations"),
        ({"optim": {"lr": 1e-4}}, "learning rate"),
        ({"balance": {"batch_size": 2}}, "batch a node"),
        ({"balance": {"packs": 250}, "runtime": {"nproc": 2000}}, "250 nodes"),
        ({"runtime": {"nproc": 3001}}, "cannot be dealt"),
    ],
)
def test_a_difference_is_named(released, change, word):
    config = deepcopy(released["t2vi_192.s1"])
    for key, value in change.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    (fault,) = faults(Batch.of("t2vi_192.s1", config))
    assert word in fault


def test_images_in_sft_are_a_fault(released):
    config = released["sft.1"] | {"media": "joint"}
    assert "removes images" in faults(Batch.of("sft.1", config))[0]


def test_the_command(released, capsys):
    parser = argparse.ArgumentParser()
    recipe_command.add_arguments(parser)
    assert recipe_command.call(parser.parse_args(["--check"]), lambda o: released if o == ["profile=30b"] else {}) == 0
    assert "t2vi_540.s6" in capsys.readouterr().out
    few = {k: v for k, v in released.items() if k != "t2i.2"}
    assert recipe_command.call(parser.parse_args(["--check", "--json"]), lambda _: few) == 1
    assert json.loads(capsys.readouterr().out)["missing"] == ["t2i.2"]


@pytest.mark.parametrize(("profile", "parameters"), [("30b", 29_342_478_400), ("4b", 4.0e9)])
def test_profiles_have_their_size_in_every_stage(profile, parameters):
    for config in configs(profile).values():
        assert dit_parameters(DiTConfig(**config["dit"])).total == pytest.approx(parameters, rel=0.02)
