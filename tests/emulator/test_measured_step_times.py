"""The bars on measured step times, and files that are refused. Measurements: shared/emulator_data."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import pytest

from stepvideo.emulator import validate
from stepvideo.emulator.measured import read
from stepvideo.emulator.plan import NUMBERS
from stepvideo.errors import ConfigError

DATA = Path(os.environ.get("STEPVIDEO_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "emulator_data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no measurements in {DATA} (set STEPVIDEO_SHARED)")

GPT = "gpus,global_batch,micro_batch,hidden_size,attention_heads,layers,sequence_length,tensor_parallel,data_parallel,"
GPT += "pipeline_parallel,iteration_time_ms\n"
ROW = "4,16,4,1024,16,24,1024,1,2,2,250.5\n"
LLAMA = "config,width_of,layers,tensor_parallel,context_parallel,pipeline_parallel,data_parallel,micro_batches,"
LLAMA += "sequence_length,measured_ms\n"


@needs_data
@pytest.mark.parametrize(
    ("name", "mean", "most"),
    [("a100_single_node", 9, 40), ("a100_multi_node", 14.7, 60), ("b200_dense", 5, 12)],
)
def test_models_held_out_are_predicted_within_the_bars(name, mean, most):
    found = validate.validate(DATA / f"{name}.csv")
    assert found["mape"] <= mean
    assert found["max"] <= most
    assert found["rows"] == len(read(DATA / f"{name}.csv")) == sum(m["rows"] for m in found["models"])
    assert found["fitted"] <= 9
    assert all(c["low"] <= c["value"] <= c["high"] for c in found["constants"])


@needs_data
def test_constants_of_one_node_predict_many_nodes():
    found = validate.validate(DATA / "a100_multi_node.csv", calibrated_on=DATA / "a100_single_node.csv")
    assert found["mape"] <= 17
    assert found["held_out"] == "all"


@needs_data
def test_their_simulators_figure_is_no_input(tmp_path):
    rows = (DATA / "b200_dense.csv").read_text().splitlines()
    header = rows[0].split(",")
    dropped = [header.index(c) for c in ("their_simulated_ms", "measured_gib", "their_simulated_gib")]
    file = tmp_path / "b200_dense.csv"
    file.write_text("".join(",".join(v for i, v in enumerate(r.split(",")) if i not in dropped) + "\n" for r in rows))
    for mine, theirs in zip(read(file).runs, read(DATA / "b200_dense.csv").runs, strict=True):
        assert (mine.model, mine.work, mine.lines.tolist()) == (theirs.model, theirs.work, theirs.lines.tolist())
        assert mine.seconds.tolist() == theirs.seconds.tolist()
        assert all((getattr(mine.plan, n) == getattr(theirs.plan, n)).all() for n in NUMBERS)


@needs_data
def test_a_saved_calibration_predicts_as_the_measurements_it_was_fitted_to(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    validate.add_arguments(parser)
    single, saved = str(DATA / "a100_single_node.csv"), str(tmp_path / "a100.yaml")
    assert validate.call(parser.parse_args([single, "--calibrated-on", single, "--save", saved, "--json"])) == 0
    fitted = json.loads(capsys.readouterr().out)
    assert validate.call(parser.parse_args([single, "--calibrated-on", saved, "--json"])) == 0
    again = json.loads(capsys.readouterr().out)
    assert {"mape", "max", "rows"} <= set(again)
    assert again["mape"] == pytest.approx(fitted["mape"])
    assert validate.call(parser.parse_args([single, "--calibrated-on", saved])) == 0
    shown = capsys.readouterr().out
    assert "predicted without fitting anything to it" in shown
    line = next(line for line in shown.splitlines() if "gemm_efficiency" in line)
    assert line.split()[:2] == ["gemm_efficiency", f"{fitted['constants'][0]['value']:.4g}"]


def test_columns_that_nobody_reads_are_left_alone(tmp_path):
    file = tmp_path / "one.csv"
    file.write_text(GPT.replace("\n", ",source,\n") + ROW.replace("\n", ",a paper,\n"))
    assert len(read(file)) == 1


@needs_data
def test_rows_that_do_not_show_it_recompute_as_the_study_did(tmp_path):
    file = tmp_path / "wide.csv"
    file.write_text(GPT + "64,64,1,3072,32,30,2048,4,16,1,1000\n")
    alone, study = read(file), read(DATA / "a100_multi_node.csv")
    assert alone.runs[0].plan.recompute == 0
    assert alone.as_done_in(study).runs[0].plan.recompute == 1
    assert alone.as_done_in(read(DATA / "a100_single_node.csv")) is alone


def test_a_file_of_one_model_needs_another_to_be_calibrated_on(tmp_path):
    file = tmp_path / "one.csv"
    file.write_text(GPT + ROW)
    with pytest.raises(ConfigError, match="one model only.*--calibrated-on"):
        validate.validate(file)
    assert validate.validate(file, calibrated_on=file)["rows"] == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: column .* missing"),
        (GPT.replace("layers,", ""), "line 1: column layers missing"),
        (GPT.replace("\n", ",gpus\n") + ROW, "line 1: column 'gpus' is there twice"),
        (GPT, "no rows below the header"),
        (
            GPT + ROW + "\n" + ROW.replace("1024,16", "wide,16"),
            "line 4, column hidden_size: 'wide' is not a whole number",
        ),
        (
            GPT + ROW.replace("250.5", "-3"),
            "line 2, column iteration_time_ms: '-3' is not a time in milliseconds above 0",
        ),
        (GPT + ROW.replace("250.5", "nan"), "line 2, column iteration_time_ms: 'nan'"),
        (GPT + ROW.replace(",250.5", ""), "line 2, column pipeline_parallel: 10 values for 11 columns"),
        (GPT + ROW.replace("4,16,4", "8,16,4"), "line 2, column gpus: 8 is not tensor · data · pipeline = 4"),
        (GPT + ROW.replace("4,16,4", "4,17,4"), "line 2, column global_batch: 17 is no multiple"),
        (GPT + ROW.replace("1024,16,24", "1024,15,24"), "line 2: heads=15 must divide hidden=1024"),
        (
            GPT + ROW.replace("1024,16,24", "1000,25,24").replace("1,2,2,", "2,2,1,"),
            "line 2, column tensor_parallel: tens",
        ),
        (GPT + ROW.replace("1024,16,24", "1024,16,1"), "line 2, column pipeline_parallel: more pipeline chunks than"),
        (GPT + ROW.replace("1024,16,24", f"1024,16,{'9' * 30}"), "line 2, column layers: '9+' is not a whole number"),
        (GPT + ROW.replace("250.5", "1e-308"), "line 2, column iteration_time_ms: '1e-308' is not a time"),
        (GPT + ROW.replace("250.5", "2" * 200_000), "line 2: field larger than"),
        (LLAMA + "a,13b,12,1,1,1,1,4,4096,100\n", "line 2, column width_of: '13b' is not one of 8b, 70b, 405b"),
    ],
)
def test_a_malformed_file_is_refused_naming_line_and_column(tmp_path, text, said):
    file = tmp_path / "runs.csv"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read(file)
    with pytest.raises(ConfigError, match="missing.csv"):
        read(tmp_path / "missing.csv")
