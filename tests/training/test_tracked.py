"""The emulator judged by the events of trainings, and a device's constants from them."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from stepvideo.artifact import Store
from stepvideo.emulator import machine
from stepvideo.emulator.calibration import Calibration
from stepvideo.errors import ConfigError
from stepvideo.models.config import DiTConfig
from stepvideo.parallel.config import TrainParallelConfig
from stepvideo.sink import JsonlSink
from stepvideo.training import tracked_command
from stepvideo.training.predict import Micro, plan_of, step_seconds
from stepvideo.training.tracked import read, refit

TRUE = Calibration(gemm_efficiency=0.55, attention_efficiency=0.35)
H800, CFG, PAR = "NVIDIA H800", DiTConfig(num_layers=8), TrainParallelConfig()
STAGES = {  # latent sizes of the steps of a stage
    "t2i/1111111111111111": [(1, 24, 24), (1, 32, 32)],
    "t2vi/2222222222222222": [(12, 24, 40), (36, 34, 62)],
    "sft/3333333333333333": [(18, 34, 62)],
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(machine.VARIABLE, str(tmp_path / "cache"))


def seconds(latent, calibration: Calibration, samples: float = 2) -> float:
    target = replace(machine.target(gpu="H800"), calibration=calibration)
    return step_seconds(CFG, [Micro(samples, latent)], plan_of(PAR, 1, 8, 1), target, 320, 77).total


def tell(store: Path, device: str = H800, steps: int = 20, stages=tuple(STAGES)) -> Path:
    """Events of trainings on a device that has the constants `TRUE` and was predicted by priors."""
    for stage in stages:
        sink = JsonlSink(store / stage / "events.jsonl")
        about = {"device": device, "precision": "bf16", "ranks": 1, "parallel": asdict(PAR), "dit": asdict(CFG)}
        sizes = [
            {"micro": [[2.0, *latent]], "steps": steps, "text": 320, "clip": 77}
            | {"measured_s": seconds(latent, TRUE), "predicted_s": seconds(latent, Calibration())}
            for latent in STAGES[stage]
        ]
        sink.event("step_times", **about, sizes=sizes)
        sink.close()
    return store


def lines(store: Path, stage: str, **values: float) -> Path:
    """Log lines of a training that tells no sizes: killed, or of an older version."""
    path = store / stage / "events.jsonl"
    sink = JsonlSink(path)
    sink.event("attempt_started", pid=1)
    sink.event("predicted", step_s=1.0, basis="prior for H800, not calibrated")
    for step, error in enumerate((-0.9, 0.25, 0.25), 1):
        sink.metrics(step, {"step_s": 1.0, "predicted_step_s": 1.0, "prediction_error": error, **values})
    sink.close()
    return path


def call(capsys, *words: str) -> tuple[int, dict]:
    parser = argparse.ArgumentParser()
    tracked_command.add_arguments(parser)
    code = tracked_command.call(parser.parse_args([*words, "--json"]))
    return code, json.loads(capsys.readouterr().out)


def test_known_constants_are_found_again(tmp_path):
    rows, remarks = read(Store(tell(tmp_path / "store")))
    assert len(rows) == 5 and not remarks
    target = machine.of_device(*rows[0].device)
    assert target is not None
    found = refit(rows, target.gpu, target.calibration, "a test")
    assert found.calibration.gemm_efficiency == pytest.approx(TRUE.gemm_efficiency, rel=0.05)
    assert found.calibration.attention_efficiency == pytest.approx(TRUE.attention_efficiency, rel=0.15)
    assert {"gemm_efficiency", "attention_efficiency"} <= set(found.names)
    assert "intra_efficiency" not in found.names  # nothing was exchanged
    assert found.left_out is not None and abs(found.left_out).max() < 0.12


def test_what_is_written_predicts_later_jobs(tmp_path, capsys):
    store = tell(tmp_path / "store")
    code, said = call(capsys, "--runs", str(store), "--write")
    (device,) = said["devices"]
    assert code == 0 and device["left_out"]["mape"] < 5 < 15 < device["before"]["mape"]
    assert device["mape"] == pytest.approx(device["before"]["mape"]) and device["rows"] == 5
    later = machine.of_device(H800, "bf16")
    assert later is not None and later.basis.startswith("fitted, ") and later.calibration.gemm_efficiency < 0.6
    assert later.calibration.provenance["gemm_efficiency"].startswith("fitted on sft/33333333, ")
    assert machine.target(file=device["file"]).calibration == later.calibration
    latent = (24, 34, 62)  # none of them had
    assert seconds(latent, later.calibration) == pytest.approx(seconds(latent, TRUE), rel=0.05)
    shown = tracked_command.table(said)
    assert "(prior for H800, not calibrated): mean error" in shown and f"written to {device['file']}" in shown


def test_one_stage_alone_is_fitted_but_cannot_be_left_out(tmp_path, capsys):
    store = tell(tmp_path / "store", stages=["t2vi/2222222222222222"])
    code, said = call(capsys, "--runs", str(store), "--write", str(tmp_path / "there"))
    (device,) = said["devices"]
    assert code == 0 and "left_out" not in device and device["fitted"]["mape"] < 3
    assert Path(device["file"]) == tmp_path / "there" / "nvidia-h800-bf16.calibration.yaml"
    assert "nobody knows if it helps others" in tracked_command.table(said)
    assert not machine.folder().exists()


def test_devices_are_never_mixed(tmp_path, capsys):
    store = tell(tell(tmp_path / "store", stages=["t2i/1111111111111111", "sft/3333333333333333"]), "Abacus 9", 20)
    tell(store, "Abacus 9", stages=["t2vi/2222222222222222"])
    tell(store, stages=["t2i/1111111111111111", "sft/3333333333333333"])  # a later attempt counts
    code, said = call(capsys, "--runs", str(store), "--write")
    known, unknown = sorted(said["devices"], key=lambda d: d["device"] != H800)
    assert code == 0 and [s["stage"] for s in known["stages"]] == ["sft/33333333", "t2i/11111111"]
    assert [s["stage"] for s in unknown["stages"]] == ["t2vi/22222222"] and "file" not in unknown
    assert "no name of the catalogue" in unknown["not_written"]
    assert [p.name for p in machine.folder().glob("*.calibration.yaml")] == ["nvidia-h800-bf16.calibration.yaml"]


def test_torn_killed_and_old_events_are_read_or_named(tmp_path, capsys):
    store = tell(tmp_path / "store")
    torn = store / "t2i/1111111111111111/events.jsonl"
    torn.write_bytes(b'{"half\n7\n' + torn.read_bytes() + b'{"type": "met')
    lines(store, "killed/4444444444444444")
    lines(store, "nonsense/5555555555555555", predicted_step_s=-1.0)
    vae = JsonlSink(store / "vae/6666666666666666/events.jsonl")
    vae.metrics(1, {"step_s": 1.0})
    JsonlSink(store / "curate/7777777777777777/events.jsonl").event("attempt_started")
    tell(store, steps=2, stages=["sft/3333333333333333"])
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in store.rglob("*") if p.is_file()}
    rows, remarks = read(Store(store))
    assert [r.stage for r in rows].count("t2i/11111111") == 2
    (killed,) = [r for r in rows if r.stage == "killed/44444444"]
    assert killed.error == pytest.approx(0.25) and killed.work is None and killed.steps == 2
    assert {s.split("/")[0]: why for s, why in remarks.items()} == {
        "killed": "judged by its log lines, not fitted: killed, running, or of a version that told no sizes",
        "nonsense": "its times do not read: ValueError('measured -0.8 s, predicted -1.0 s')",
        "sft": "1 of 1 sizes left out: fewer than 3 steps after the first",
        "vae": "no prediction of two log lines or more: not a DiT, or a device that is not known",
    }
    parser = argparse.ArgumentParser()
    tracked_command.add_arguments(parser)
    assert tracked_command.call(parser.parse_args(["--runs", str(store)])) == 0
    shown = capsys.readouterr().out
    assert "killed/44444444     1      2         0.8            1   +25.0%" in shown
    assert "vae/66666666: no prediction" in shown
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in store.rglob("*") if p.is_file()} == before


def test_nothing_to_judge_by_is_an_error(tmp_path, capsys):
    with pytest.raises(ConfigError, match="no step times in the events of 0 stages"):
        call(capsys, "--runs", str(tmp_path))
    with pytest.raises(ConfigError, match="FILE.csv or --runs"):
        call(capsys)
    with pytest.raises(ConfigError, match="--save FILE.yaml"):
        call(capsys, os.devnull, "--write")
