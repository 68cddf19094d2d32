"""Faults of a training: what is called one, and what each policy does about it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from toy_flow import ToyFlow, flow_context

from stepvideo.errors import StepVideoError
from stepvideo.sink import read_events
from stepvideo.training.fit import fit
from stepvideo.training.monitor.spikes import Window
from stepvideo.training.monitor_config import GuardConfig

NAN = float("nan")


def false_alarms(values, log: bool = False) -> float:
    window = Window(128, 32, 10.0, log)
    alarms = 0
    for value in values:
        limit = window.limit()
        alarms += value > limit
        window.add(min(value, limit))
    return alarms / len(values)


STEPS = np.arange(5000)
FALLING = 0.2 + np.exp(-STEPS / 1000)
RNG = np.random.default_rng(0)
CURVES = {
    "smooth": (FALLING, False),
    "five per cent of noise": (FALLING * (1 + 0.05 * RNG.standard_normal(5000)), False),
    "skewed, of few samples": (FALLING * RNG.gamma(4, 0.25, 5000), False),
    "images every fourth step": (np.where(STEPS % 4 == 0, 0.8, 0.5) + 0.01 * RNG.standard_normal(5000), False),
    "norms that vary by factors": (FALLING * np.exp(0.5 * RNG.standard_normal(5000)), True),
    "norms that grow in the warm-up": (
        np.minimum(1, (1 + STEPS) / 300) * np.exp(0.1 * RNG.standard_normal(5000)),
        True,
    ),
}


@pytest.mark.parametrize("name", CURVES)
def test_a_noisy_curve_is_no_spike(name):
    values, log = CURVES[name]
    assert false_alarms(values, log) <= 1 / 5000


def test_a_spike_is_one_and_a_new_level_is_believed():
    window = Window(128, 32, 10.0)
    for value in 0.5 + 0.01 * RNG.standard_normal(100):
        window.add(value)
    assert 0.55 < window.limit() < 0.8
    assert 1.0 > window.limit()
    found = 0
    for _ in range(30):  # the data set changed: after a few alarms this is the level
        found += window.limit() < 1.0
        window.add(min(1.0, window.limit()))
    assert 1 <= found <= 5 and window.limit() < 2.5


def run(folder, bad, policy, steps=12, **more):
    module = ToyFlow(steps, bad)
    fit(module, flow_context(folder, guard=policy, **more))
    return module


def faults(folder):
    path = folder / "work" / "faults.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def weights(module):
    return [p.detach() for p in module.net.parameters()]


def equal(a, b):
    return all(torch.equal(p, q) for p, q in zip(weights(a), weights(b), strict=True))


def test_stop_names_the_step_and_the_clip(tmp_path):
    with pytest.raises(StepVideoError, match=r"step 6"):
        run(tmp_path, {6: NAN}, GuardConfig())
    (fault,) = faults(tmp_path)
    assert (fault["step"], fault["action"], fault["loss"]) == (6, "stop", "nan")
    assert fault["clips"][0] == {"id": "clip-6-5", "loss": "nan"}, "the clip at fault comes first"
    assert len(fault["clips"]) == 8 and all(math.isfinite(c["loss"]) for c in fault["clips"][1:])
    events = [r for r in read_events(tmp_path / "events.jsonl")[0] if r.get("name") == "training_fault"]
    assert events[0]["step"] == 6 and events[0]["clips"][0] == "clip-6-5"


def test_skip_drops_one_update_and_goes_on(tmp_path):
    clean, skipped = run(tmp_path / "a", {}, GuardConfig()), run(tmp_path / "b", {6: NAN}, GuardConfig("skip"))
    assert [f["action"] for f in faults(tmp_path / "b")] == ["skip"]
    assert skipped.curve[:6] == clean.curve[:6]
    assert [step for step, *_ in skipped.curve] == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11], "no loss, no row"
    assert not equal(clean, skipped) and all(p.isfinite().all() for p in weights(skipped))


def test_rollback_goes_over_the_step_and_equals_a_skip(tmp_path):
    """The step is at fault, not the weights: going back four steps and over it leads where dropping it leads."""
    skip = run(tmp_path / "skip", {6: NAN}, GuardConfig("skip"))
    back = run(tmp_path / "back", {6: NAN}, GuardConfig("rollback"))
    assert json.loads((tmp_path / "back" / "work" / "fit" / "skipped.json").read_text()) == [6]
    assert [f["action"] for f in faults(tmp_path / "back")] == ["rollback"]
    names = [r["name"] for r in read_events(tmp_path / "back" / "events.jsonl")[0] if r["type"] == "event"]
    assert "rolled_back" in names and "step_gone_over" in names
    assert back.curve == skip.curve and len(back.curve) == 11
    assert equal(skip, back)


def test_rollback_before_the_first_checkpoint_starts_anew(tmp_path):
    skip = run(tmp_path / "skip", {2: NAN}, GuardConfig("skip"))
    back = run(tmp_path / "back", {2: NAN}, GuardConfig("rollback"))
    assert back.curve == skip.curve and back.curve[0][0] == 0
    assert equal(skip, back)


def test_limits_stop_the_run(tmp_path):
    bad = dict.fromkeys(range(5, 9), NAN)
    with pytest.raises(StepVideoError, match="max_skips"):
        run(tmp_path / "skips", bad, GuardConfig("skip", max_skips=2))
    assert [f["action"] for f in faults(tmp_path / "skips")] == ["skip", "skip", "stop"]
    with pytest.raises(StepVideoError, match="max_rollbacks"):
        run(tmp_path / "backs", bad, GuardConfig("rollback", max_rollbacks=2))
    assert [f["step"] for f in faults(tmp_path / "backs")] == [5, 6, 7]


def test_a_spike_is_logged_or_dropped(tmp_path):
    spiky = dict(min_history=8, window=16)
    logged = run(tmp_path / "log", {20: 1e4}, GuardConfig(**spiky), steps=24)
    assert [(f["step"], f["action"]) for f in faults(tmp_path / "log")] == [(20, "log")]
    assert faults(tmp_path / "log")[0]["clips"][0]["id"] == "clip-20-5"
    dropped = run(tmp_path / "skip", {20: 1e4}, GuardConfig(spike="skip", **spiky), steps=24)
    assert [(f["step"], f["action"]) for f in faults(tmp_path / "skip")] == [(20, "skip")]
    assert not equal(logged, dropped)


def test_the_window_is_part_of_the_checkpoint(tmp_path):
    """A resumed run judges by the same history: the spike comes two steps after the restart."""
    spiky = GuardConfig(spike="skip", min_history=8, window=16)
    whole = run(tmp_path / "whole", {14: 1e4}, spiky, steps=16)

    class Killed(BaseException):
        pass

    module = ToyFlow(16, {14: 1e4})

    def die(step: int) -> None:
        if step == 13:
            raise Killed

    module.before_step = die
    with pytest.raises(Killed):
        fit(module, flow_context(tmp_path / "killed", guard=spiky))
    resumed = run(tmp_path / "killed", {14: 1e4}, spiky, steps=16)
    assert [f["step"] for f in faults(tmp_path / "killed")] == [14]
    assert resumed.curve == whole.curve and equal(resumed, whole)


def test_impossible_settings():
    for bad in ({"not_finite": "log"}, {"spike": "ignore"}, {"threshold": 0.0}, {"min_history": 4}, {"max_skips": -1}):
        with pytest.raises(ValueError, match="guard."):
            GuardConfig(**bad)


def test_trainings_of_one_stage_go_over_their_own_steps(tmp_path):
    context = flow_context(tmp_path, guard=GuardConfig("rollback"))
    fit(ToyFlow(8, {6: NAN}), context, name="first")
    second = ToyFlow(8)
    fit(second, context, name="second")
    assert [step for step, *_ in second.curve] == list(range(8))
    events = [r for r in read_events(tmp_path / "events.jsonl")[0] if r.get("name") == "step_gone_over"]
    assert [e["step"] for e in events] == [6], "once, by the first"
