"""Every training says what its steps should take, before and beside what they took; stages say it before they run."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
import torch
from toy_flow import CONFIG, ToyFlow, flow_context

from flows.run import planned_for
from stepvideo.artifact import Store
from stepvideo.emulator import machine
from stepvideo.emulator.calibrate import device_name
from stepvideo.emulator.calibration import Calibration
from stepvideo.emulator.hardware import find
from stepvideo.errors import ConfigError
from stepvideo.models.config import DiTConfig
from stepvideo.parallel.config import TrainParallelConfig
from stepvideo.sink import latest_metrics, read_events
from stepvideo.training import step_command
from stepvideo.training.fit import fit
from stepvideo.training.monitor.cost import DiTCost, samples_only
from stepvideo.training.predict import Micro, plan_of, predictions, step_seconds
from stepvideo.training.tracked import errors, read

STEPS = 4


@pytest.fixture
def calibrated(tmp_path, monkeypatch):
    """This machine, with a calibration."""
    monkeypatch.setenv(machine.VARIABLE, str(tmp_path / "calibration"))
    name = machine.slug(device_name(torch.device("cpu")), "fp32")
    machine.save(
        find("cpu"), Calibration().with_("measured on a test", gemm_efficiency=0.5), tmp_path / "calibration", name
    )
    return machine.target()


def run(folder, cost):
    module = ToyFlow(STEPS)
    fit(module, flow_context(folder), cost=cost)
    return latest_metrics(folder / "events.jsonl"), read_events(folder / "events.jsonl")[0]


def test_a_job_is_told_beforehand_and_judged_at_the_end(calibrated, tmp_path, capsys):
    rows, events = run(tmp_path / "job", DiTCost(CONFIG))
    predicted = [row["predicted_step_s"] for row in rows.values() if "predicted_step_s" in row]
    assert len(predicted) == STEPS and len(set(predicted)) == 1 and predicted[0] > 0
    first = rows[1]
    busy = first["step_s"] - first["data_wait_s"]
    assert first["prediction_error"] == pytest.approx(first["predicted_step_s"] / busy - 1)
    said = {e["name"]: e for e in events if e["type"] == "event"}
    assert said["predicted"]["step_s"] == predicted[0] and "measured" in said["predicted"]["basis"]
    end = said["prediction"]
    assert end["error"] == pytest.approx(end["predicted_s"] / end["measured_s"] - 1)
    out = capsys.readouterr().err
    assert out.count("s a step") == 2 and calibrated.basis in out


def test_the_prediction_is_the_emulators(calibrated, tmp_path):
    rows, _ = run(tmp_path / "job", DiTCost(CONFIG))
    source = ToyFlow(STEPS).source
    (batch,) = source.micro_batches(0, 0, 1, 1)
    b, f, h, w, text, clip = DiTCost(CONFIG).shape(batch)
    plan = plan_of(TrainParallelConfig(), 1, CONFIG.num_layers, 1)
    expected = step_seconds(CONFIG, [Micro(b, (f, h, w))], plan, calibrated, text, clip).total
    assert rows[1]["predicted_step_s"] == pytest.approx(expected)


def test_a_job_tells_its_step_times_by_size_so_that_they_can_be_predicted_anew(calibrated, tmp_path):
    run(tmp_path / "toy" / "0123456789", DiTCost(CONFIG))
    (row,), remarks = read(Store(tmp_path))
    assert not remarks and row.stage == "toy/01234567" and row.steps == STEPS - 1 and row.measured > 0
    assert row.device == (device_name(torch.device("cpu")), "fp32")
    (log,) = errors([row], calibrated.gpu)(calibrated.calibration)
    assert np.exp(log) * row.measured == pytest.approx(row.predicted)


def test_what_is_no_dit_is_not_predicted(calibrated, tmp_path):
    rows, events = run(tmp_path / "job", samples_only)
    assert not any("predicted_step_s" in row for row in rows.values())
    assert not any(e.get("name") == "prediction" for e in events)


def test_stages_of_a_profile(capsys):
    parser = argparse.ArgumentParser()
    step_command.add_arguments(parser)
    assert step_command.call(parser.parse_args(["profile=30b", "--json"]), planned_for) == 0
    rows = {r["stage"]: r for r in json.loads(capsys.readouterr().out)}
    assert len(rows) == 10 and all("H800" in r["basis"] for r in rows.values())
    for row in rows.values():
        assert sum(row["seconds"]["parts"].values()) == pytest.approx(row["seconds"]["total"])
        assert 0.05 < row["seconds"]["mfu"] < 0.6 and 10e9 < row["memory"] < row["device"] == 80e9
    long, short = rows["t2vi_540.s4"], rows["t2vi_192.s1"]
    assert long["seconds"]["total"] > short["seconds"]["total"] and long["seconds"]["parts"]["recompute"] > 0


def test_steps_scale_as_they_must():
    cfg, target = DiTConfig(), machine.target(gpu="H800")

    def of(samples: float, ranks: int = 8, **par) -> float:
        plan = plan_of(TrainParallelConfig(tensor=8, **par), ranks, cfg.num_layers, 1)
        return step_seconds(cfg, [Micro(samples, (36, 34, 62))], plan, target, 333, 77).total

    assert 1.8 < of(2) / of(1) <= 2.0
    assert 1.2 < of(1, checkpointing="full") / of(1) < 1.4
    assert of(1) < of(1, checkpointing="attention") < of(1, checkpointing="full")
    assert of(1, 8 * 375) > of(1)  # gradients are exchanged
    with pytest.raises(ConfigError, match="H800, H100"):
        machine.target(gpu="H801")


def test_predictions_need_stages_that_train():
    assert predictions([], machine.target(gpu="H800")) == []
    assert "no stage" in step_command.table([])
