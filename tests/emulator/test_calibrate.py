"""Calibration: constants come back from times that the cost model itself made, and from this machine."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from stepvideo.cli import main
from stepvideo.emulator import calibrate, machine
from stepvideo.emulator.calibration import Calibration
from stepvideo.emulator.compute import BACKWARD, Machine
from stepvideo.emulator.hardware import find
from stepvideo.errors import ConfigError

TRUTH = Calibration(
    gemm_efficiency=0.7,
    gemm_wave=0.6,
    attention_efficiency=0.5,
    attention_half=800.0,
    memory_efficiency=0.6,
    stream_efficiency=0.72,
    launch_s=7e-6,
    intra_efficiency=0.7,
    intra_latency_s=8e-6,
)


def made(gpu, truth: Calibration) -> calibrate.Measured:
    """What `measure` would find if the model were true."""
    device = Machine(gpu, truth)
    gemms = tuple((m, k, n, float(device.product(m, k, n)) + truth.launch_s) for m, k, n in calibrate.GEMMS["cuda"])
    attentions = []
    for s, h, d in calibrate.ATTENTIONS["cuda"]:
        rate = gpu.peak() * truth.attention_efficiency * s / (s + truth.attention_half)
        attentions.append((s, h, d, (1 + BACKWARD) * 4 * s * s * h * d / rate))
    moved = gpu.memory_gbs * 1e9 * truth.memory_efficiency
    link = gpu.intra_gbs * 1e9 * truth.intra_efficiency
    gathered = tuple((4 * n, 7 * truth.intra_latency_s + 7 * 4 * n / link) for n in calibrate.GATHERED)
    copied = gpu.memory_gbs * 1e9 * truth.stream_efficiency
    return calibrate.Measured(gemms, tuple(attentions), copied, moved, truth.launch_s, 8, gathered)


def test_constants_come_back_from_times_that_they_made():
    gpu = find("H200")
    taken = made(gpu, TRUTH)
    seen = calibrate.hardware(taken, "NVIDIA H200", 141e9, 132)
    assert seen.bf16_tflops == gpu.bf16_tflops and "measured on NVIDIA H200" in seen.source
    found = calibrate.constants(taken, seen)
    for name, value in TRUTH.values().items():
        if name in found.provenance:
            assert getattr(found, name) == pytest.approx(value, rel=0.03), name
    assert len(found.provenance) == 9 and all(
        p.startswith("measured on NVIDIA H200") for p in found.provenance.values()
    )


def test_an_unknown_device_is_described_by_what_it_did():
    taken = made(find("A100"), TRUTH)
    seen = calibrate.hardware(taken, "a GPU of tomorrow", 100e9, 108)
    best = max(2 * m * k * n / s for m, k, n, s in taken.gemms)
    assert seen.peak() == pytest.approx(best / calibrate.BEST) and seen.memory == 100e9
    found = calibrate.constants(taken, seen)
    again = [float(Machine(seen, found).product(m, k, n)) for m, k, n, _ in taken.gemms]
    assert np.abs(np.log(np.array(again) / [s for *_, s in taken.gemms])).max() < 0.2


def test_this_machine_in_seconds_and_predictions_use_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(machine.VARIABLE, str(tmp_path))
    assert "prior" in machine.target().basis
    assert main(["emulate", "calibrate", "--device=cpu", "--seconds=0.01", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["peak_tflops"] > 1e-4 and {"gemm_efficiency", "attention_efficiency"} <= set(found["constants"])
    own = machine.target()
    assert own.basis.startswith("measured") and own.element == 4
    assert own.gpu.bf16_tflops == pytest.approx(found["peak_tflops"])
    name = calibrate.device_name(torch.device("cpu"))
    known = machine.of_device(name, "fp32")
    assert known is not None and known.calibration == own.calibration
    assert machine.of_device(name, "bf16").basis.startswith("prior")  # type: ignore[union-attr]
    assert machine.target(gpu="H200").gpu == find("H200")


def test_what_is_missing_is_told(tmp_path):
    with pytest.raises(ConfigError, match="tpu"):
        calibrate.device_of("tpu")
    (tmp_path / "x.calibration.yaml").write_text("gemm_efficiency: 0.5\n")
    with pytest.raises(ConfigError, match="x.hardware.yaml"):
        machine.target(file=str(tmp_path / "x.calibration.yaml"))
    assert main(["emulate", "calibrate", "--device=cpu", "--seconds=-1"]) == 2


@pytest.mark.gpu
def test_a_gpu_is_predicted_from_three_products_and_two_attentions():
    """The bars of a GPU; `benchmarks/emulator_gpu.py --check` is the same with its report."""
    import subprocess
    import sys

    run = subprocess.run([sys.executable, "benchmarks/emulator_gpu.py", "--check"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:]
