"""The benchmarks of the emulator run: all that a GPU would run, on tiny steps of a CPU; and their bars are bars."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stepvideo.emulator import calibrate, fit
from stepvideo.emulator.calibration import Calibration
from stepvideo.emulator.hardware import find
from stepvideo.emulator.machine import Target
from stepvideo.emulator.measured import read
from stepvideo.emulator.train_memory import Training, train_memory
from stepvideo.parallel.config import TrainParallelConfig

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("emulator_gpu")


@pytest.fixture
def structure(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("emulator_structure")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_tiny_steps_of_a_cpu_go_through_all_of_it(gpu, precision, capsys, monkeypatch):
    for name, shapes in {
        "GEMMS": ((64, 64, 128), (64, 64, 64), (32, 32, 64)),
        "ATTENTIONS": ((16, 2, 64), (64, 2, 64)),
        "BETWEEN": (32, 2, 64),
        "COPIED": 2**12,
    }.items():
        monkeypatch.setitem(getattr(calibrate, name), "cpu", shapes)
    told = ["--device=cpu", "--cases=tiny", "--seconds=0.01", "--rounds=2", f"--precision={precision}"]
    assert gpu.main(told) == 0
    found = json.loads(capsys.readouterr().out)
    assert [r["width"] for r in found["rows"]] == [64, 128]
    assert all(r["seconds"] > 0 and r["predicted"] > 0 and r["spread"] >= 0 for r in found["rows"])
    assert found["memory"] is None and not found["ok"]  # a CPU's is not measured, so no bar of it is met
    assert {"gemm_efficiency", "attention_efficiency", "memory_efficiency"} <= set(found["constants"])


def test_bars_are_missed_by_what_misses_them(gpu):
    def row(error: float, memory: float | None) -> dict:
        return {"error": error, "memory_error": memory}

    good = [row(0.01, 0.01), row(-0.04, -0.049), row(0.099, 0.0)]
    assert gpu.verdict(good)["ok"]
    for bad in ([*good, row(0.11, 0)], [*good, row(0.01, 0.051)], [row(-0.06, 0)] * 3, [row(0.01, None)]):
        assert not gpu.verdict(bad)["ok"]
    assert set(gpu.BARS) == {"median", "max", "memory"} and gpu.BARS == {"median": 0.05, "max": 0.1, "memory": 0.05}


def test_a_gpus_steps_are_predicted_and_judged_by_time_and_memory(gpu):
    """The largest cases, with times as they would be if the model were true."""
    target = Target("H200", find("H200"), Calibration(), "prior")
    for case in gpu.CASES["cuda"]:
        free = gpu.judged(case, target, "bf16", [(1.0, 1.0)])
        assert free["memory_predicted"] < 100e9  # of 141: leaves room for what torch keeps
        again = gpu.judged(
            case, target, "bf16", [(free["predicted"] * f, free["memory_predicted"]) for f in (0.9, 1, 1.3)]
        )
        assert (again["error"], again["memory_error"]) == (pytest.approx(0), pytest.approx(0))
        assert again["spread"] == pytest.approx(0.4)


def test_shapes_of_calibration_and_of_steps_are_disjoint(gpu):
    for kind, names in {"cuda": ["cuda"], "cpu": ["cpu", "fresh"]}.items():
        assert len(calibrate.GEMMS[kind]) <= 3 and len(calibrate.ATTENTIONS[kind]) <= 2
        calibrated = {tokens for tokens, *_ in calibrate.ATTENTIONS[kind]}
        for cfg, b in (case for name in names for case in gpu.CASES[name]):
            tokens = b.latent[0] * b.latent[1] * b.latent[2] // cfg.patch_size**2
            assert tokens not in calibrated
            assert (b.samples * tokens, cfg.inner_dim) not in {(m, k) for m, k, _ in calibrate.GEMMS[kind]}
    seen, fresh = ([str(c) for c in gpu.CASES[name]] for name in ("cpu", "fresh"))
    assert not set(seen) & set(fresh)


def test_the_middle_of_several_calibrations(gpu):
    one = calibrate.Measured(((1, 2, 3, 4.0),), ((1, 2, 3, 1.0),), 5.0, 6.0, 7.0)
    two, three = replace(one, gemms=((1, 2, 3, 9.0),), moved=1.0), replace(one, gemms=((1, 2, 3, 5.0),), launch=9.0)
    assert gpu.middle([one, two, three]) == replace(one, gemms=((1, 2, 3, 5.0),))


def test_an_optimizer_that_passes_over_lists_holds_one_more_copy(gpu):
    """As `training.optim` makes it: the square roots of all second moments at once."""
    cfg, batch = gpu.CASES["tiny"][1]
    m = train_memory(cfg, batch, Training(TrainParallelConfig(), precision="32-true"), reserve=0)
    assert m.updating == m.master and m.total == m.master + m.optimizer + m.gradients + m.updating


GPT = "gpus,global_batch,micro_batch,hidden_size,attention_heads,layers,sequence_length,tensor_parallel,data_parallel,"
GPT += "pipeline_parallel,iteration_time_ms\n"


def test_every_fold_chooses_its_structure_without_its_own_rows(structure, tmp_path):
    """Steps that a structure without launches made: it is found by folds, and predicts what it was not fitted to."""
    plan = "{gpus},{batch},{micro},{hidden},16,{layers},1024,{tensor},1,1,{ms}\n"
    rows = [
        {"gpus": t, "tensor": t, "batch": 2 * m, "micro": m, "hidden": h, "layers": n}
        for h, n in ((1024, 8), (1024, 12), (2048, 8))
        for t in (1, 2, 4)
        for m in (1, 4)
    ]
    path = tmp_path / "made.csv"
    path.write_text(GPT + "".join(plan.format(**r, ms=1) for r in rows))
    file = read(path)
    truth = Calibration(launch_s=1e-6, gemm_efficiency=0.6, kernel_s=1e-5, gemm_unaligned=0.5, data_overlap=0.0)
    made = np.concatenate([fit.predict(file, r, truth) for r in file.runs])
    path.write_text(GPT + "".join(plan.format(**r, ms=1e3 * s) for r, s in zip(rows, made)))
    among = {name: structure.ANY[name] for name in ("kept", "no launches")}
    found = structure.nested(read(path), among, lambda line: None)
    assert found["model"]["folds"] == 3 and found["width"]["folds"] == 2 and found["rows"] == len(rows)
    assert found["model"]["chosen"] == {"no launches": 3}
    assert found["model"]["nested"]["mean"] < found["model"]["plain"]["mean"]


def test_models_side_by_side_cost_what_they_cost_alone(structure, tmp_path):
    path = tmp_path / "two.csv"
    path.write_text(
        GPT + "2,8,4,1024,16,24,1024,2,1,1,100\n4,8,2,2048,16,12,2048,2,2,1,100\n1,8,8,1024,16,24,1024,1,1,1,9\n"
    )
    file = read(path)
    alone = {line: s for r in file.runs for line, s in zip(r.lines, fit.predict(file, r, file.prior))}
    rows = structure.rows_of(file)
    beside = fit.predict(file, rows.runs, file.prior)
    assert [alone[line] for line in rows.runs.lines] == pytest.approx(list(beside))
    assert rows.widths == (1024, 2048) and rows.cell.tolist() == [0, 0, 1]
