"""Files of measurements with other shapes than the published ones: read in any form, predicted by physical sense."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepvideo.cli import main
from stepvideo.emulator.fit import predict
from stepvideo.emulator.measured import read
from stepvideo.errors import ConfigError

COLUMNS = ("gpus", "global_batch", "micro_batch", "hidden_size", "attention_heads", "layers", "sequence_length")
COLUMNS += ("tensor_parallel", "data_parallel", "pipeline_parallel", "iteration_time_ms")
ROW = dict(zip(COLUMNS, (4, 16, 4, 1024, 16, 24, 1024, 1, 2, 2, 250.5)))
LLAMA = {"config": "a", "width_of": "70b", "layers": 12, "tensor_parallel": 2, "context_parallel": 2}
LLAMA |= {"pipeline_parallel": 1, "data_parallel": 2, "micro_batches": 3, "sequence_length": 8192, "measured_ms": 900}


def text(*rows: dict, separator: str = ",", end: str = "\n") -> str:
    return end.join(separator.join(map(str, line)) for line in (rows[0], *(r.values() for r in rows))) + end


@pytest.fixture
def written(tmp_path):
    def write(*rows: dict, **how: str):
        path = tmp_path / f"runs{len(list(tmp_path.iterdir()))}.csv"
        path.write_bytes(text(*rows, **how).encode())
        return path

    return write


def seconds(file) -> np.ndarray:
    return np.concatenate([predict(file, r, file.prior) for r in file.runs])


widths = st.sampled_from([(768, 12), (1536, 16), (2304, 24), (4096, 32), (6144, 48), (20480, 128)])


@st.composite
def gpt_rows(draw) -> dict:
    hidden, heads = draw(widths)
    tensor = draw(st.sampled_from([t for t in (1, 2, 4, 8) if heads % t == 0]))
    pipeline, data = draw(st.sampled_from([1, 2, 7, 64])), draw(st.sampled_from([1, 2, 4]))
    micro, count = draw(st.sampled_from([1, 3, 8])), draw(st.sampled_from([1, 5, 64]))
    row = {"gpus": tensor * data * pipeline, "global_batch": micro * count * data, "micro_batch": micro}
    row |= {"hidden_size": hidden, "attention_heads": heads, "layers": draw(st.integers(pipeline, 130))}
    row |= {"sequence_length": draw(st.sampled_from([1, 127, 2048, 32768])), "tensor_parallel": tensor}
    return row | {"data_parallel": data, "pipeline_parallel": pipeline, "iteration_time_ms": 1000.0}


def more(row: dict, **times: int) -> dict:
    """The row with these columns so many times as large, and GPUs and batch as they then are."""
    new = row | {c: row[c] * n for c, n in times.items()}
    batch = new["global_batch"] * times.get("micro_batch", 1) * times.get("data_parallel", 1)
    return new | {"gpus": new["gpus"] * times.get("data_parallel", 1), "global_batch": batch}


@settings(max_examples=40, deadline=None)
@given(gpt_rows())
def test_more_work_is_never_faster_and_larger_batches_never_cost_more_a_sample(tmp_path_factory, row):
    def of(changed: dict) -> float:
        path = tmp_path_factory.getbasetemp() / "shape.csv"
        path.write_text(text(changed))
        [runs] = (file := read(path)).runs  # of which those that do not fit would recompute
        return float(predict(file, runs.recomputing(0.0), file.prior)[0])

    row = row | {"iteration_time_ms": 1000.0}
    own = of(row)
    assert np.isfinite(own) and own > 0
    for column in ("layers", "sequence_length", "micro_batch", "global_batch", "data_parallel", "hidden_size"):
        assert of(more(row, **{column: 2})) >= own * (1 - 1e-12), column
    assert of(more(row, global_batch=2)) <= 2 * own * (1 + 1e-12)  # more micro-batches, the same bubble
    if row["pipeline_parallel"] == 1:
        assert of(more(row, micro_batch=2)) <= of(more(row, global_batch=2)) * (1 + 1e-12)


@pytest.mark.parametrize("row", [ROW, LLAMA])
def test_order_of_columns_line_ends_marks_and_other_columns_change_nothing(written, row):
    plain = seconds(read(written(row)))
    turned = dict(reversed(row.items()))
    whole = {c: f"{v}.0" if isinstance(v, int) else f" {v} " for c, v in row.items()}
    for other in (
        written(turned),
        written(row, end="\r\n"),
        written({"\ufeff" + next(iter(row)): next(iter(row.values()))} | dict(list(row.items())[1:])),
        written(row | {"note": "a, quoted".join('""'), "cost in EUR": "", "": ""}),
        written(whole),
    ):
        assert seconds(read(other)) == pytest.approx(plain)


def test_one_to_2048_gpus_are_predicted_by_another_file(written, capsys):
    shapes = ((1, 1, 1), (1, 1, 2), (8, 2, 1), (8, 16, 16), (4, 8, 64))
    rows = [
        ROW
        | {"gpus": t * d * p, "tensor_parallel": t, "data_parallel": d, "pipeline_parallel": p, "layers": 96}
        | {"micro_batch": 3, "global_batch": 3 * 5 * d, "hidden_size": 6144, "attention_heads": 48}
        for t, d, p in shapes
    ]
    assert rows[-1]["gpus"] == rows[-2]["gpus"] == 2048
    command = ["emulate", "validate", str(written(*rows)), "--calibrated-on", str(written(ROW)), "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == len(rows)
    assert np.isfinite([found["mape"], found["max"]]).all()


def test_times_that_no_constants_explain_are_fitted_within_their_ranges(written, capsys):
    rows = [ROW | {"layers": n, "iteration_time_ms": t} for n, t in ((12, 1e-3), (24, 1e9), (30, 250))]
    assert main(["emulate", "validate", str(written(*rows)), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(c["low"] <= c["value"] <= c["high"] for c in found["constants"])
    assert np.isfinite([found["mape"], found["max"]]).all()


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("hidden_size", "", "line 3, column hidden_size: '' is not a whole number"),
        ("hidden_size", "1024 wide", "line 3, column hidden_size: '1024 wide'"),
        ("layers", "24.5", "line 3, column layers: '24.5' is not a whole number"),
        ("layers", "inf", "line 3, column layers: 'inf' is not a whole number"),
        ("layers", "-24", "line 3, column layers: '-24' is not a whole number"),
        ("iteration_time_ms", "250 ms", "line 3, column iteration_time_ms: '250 ms' is not a time in milliseconds"),
        ("iteration_time_ms", "inf", "line 3, column iteration_time_ms: 'inf'"),
        ("gpus", "0", "line 3, column gpus: '0'"),
        ("tensor_parallel", "3", "line 3, column gpus: 4 is not tensor · data · pipeline = 12"),
    ],
)
def test_a_bad_value_in_the_middle_is_named_by_line_and_column(written, column, value, said):
    with pytest.raises(ConfigError, match=said):
        read(written(ROW, ROW | {column: value}, ROW))


def test_other_separators_and_bytes_that_are_no_text_are_refused(written, tmp_path):
    with pytest.raises(ConfigError, match=r"line 1: column .* missing"):
        read(written(ROW, separator=";"))
    (tmp_path / "wide.csv").write_bytes(text(ROW).encode("utf-16"))
    with pytest.raises(ConfigError, match=r"wide\.csv"):
        read(tmp_path / "wide.csv")


def test_rows_in_another_order_are_the_same_measurements(written):
    rows = [ROW | {"layers": n, "iteration_time_ms": 10.0 * n} for n in (12, 24, 30)]
    first, again = (read(written(*order)) for order in (rows, rows[::-1]))
    assert sorted(seconds(first)) == pytest.approx(sorted(seconds(again)))
    assert len(first.runs) == len(again.runs) == 3
