"""The benchmark of a training step: its count of operations is torch's, and its check can fail."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture
def dit_step(monkeypatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import dit_step

    yield dit_step
    for name in ("dit_step", "model_speed", "plain_dit", "plain_vae"):
        sys.modules.pop(name, None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="measures the real thing where there is a device")
def test_at_toy_size_the_count_is_torchs(dit_step, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dit_step.py", "--check", "--json", "--steps", "2"])
    assert dit_step.main() == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["counted_tflop"] == row["tflop"] > 0
    assert row["tokens"] == 4 * 3 * 4 * 4 and row["predicted_bytes"] > 16 * row["parameters"]


def test_what_misses_a_bar_is_told(dit_step):
    row = {"case": "8k", "mfu": 0.51, "mfu_bar": 0.5, "predicted_bytes": 100, "peak_bytes": 105}
    row |= {"counted_tflop": 0.0, "tflop": 1.0}
    assert dit_step.faults(row) == []
    assert "MFU 49.0%" in dit_step.faults(row | {"mfu": 0.49})[0]
    assert "memory is 0.80" in dit_step.faults(row | {"peak_bytes": 125})[0]
    assert "torch counts 1.1" in dit_step.faults(row | {"counted_tflop": 1.1})[0]


def test_the_models_on_a_device_have_about_2_billion_parameters_and_fit_on_it(dit_step):
    short, long = dit_step.cases(cuda=True)
    for case in (short, long):
        how = dit_step.Training(case.parallel, 1, dit_step.PRECISION)
        assert dit_step.dit_parameters(case.cfg).total == pytest.approx(2e9, rel=0.05)
        assert dit_step.train_memory(case.cfg, case.batch, how).total < 141e9
    assert short.tokens == 2 * 8640 and long.tokens == 25_296
    assert short.flops / 1e12 == pytest.approx(277, rel=0.02)  # notes/training.md, 2.3
