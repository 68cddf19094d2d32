"""The gate over side tables: what is wrong is named with its clips, what moved is a warning, absent ones pass."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_gates import catalog

from stepvideo.errors import StepVideoError
from tasks.gates import GateFailed
from tasks.table_gate import check_tables

IDS = [f"{i:032x}" for i in range(20)]


def tags(folder, ids=IDS, absent="", **columns):
    (folder / "tables").mkdir(parents=True)
    table = pa.table({"clip_id": ids, **columns}).replace_schema_metadata({"absent": absent})
    pq.write_table(table, folder / "tables" / "text.parquet")
    return folder


def test_good_tables_pass_and_are_not_checked_twice(tmp_path):
    source = catalog(tmp_path / "c")
    good = tags(tmp_path / "t", text_area=[0.1] * 20, text=["a"] * 20, boxes=[[1, 2]] * 20)
    report = check_tables(good, source, tmp_path / "docs")
    assert report.success and not report.warnings and report.checked >= 7 and report.docs_index_path.exists()
    assert check_tables(good, source, tmp_path / "docs").cached


def test_strangers_repeats_and_impossible_values_are_named(tmp_path):
    ids = [*IDS[:18], "f" * 32, IDS[3]]
    bad = tags(tmp_path / "t", ids, text_area=[1.5, *[0.1] * 19])
    with pytest.raises(GateFailed, match="the side tables in .* fails 3 critical") as e:
        check_tables(bad, catalog(tmp_path / "c"), tmp_path / "docs")
    found = {f.expectation.split("(")[0]: f.samples for f in e.value.report.failed}
    assert found["clip_id column_values_to_be_unique"] == [IDS[3]] * 2
    assert found["in_catalog column_values_to_be_in_set"] == ["f" * 32]
    assert found["text_area column_values_to_be_between"] == [IDS[0]]


def test_what_moved_or_is_missing_is_a_warning_and_an_absent_backend_is_not(tmp_path):
    source = catalog(tmp_path / "c")
    spread = [i / 20 for i in range(20)]
    before = tags(tmp_path / "a", text_area=spread)
    moved = tags(tmp_path / "b", text_area=[min(1.0, v + 0.3) for v in spread])
    (drift,) = check_tables(moved, source, tmp_path / "docs1", before).warnings
    assert "text_area column_mean_to_be_between" in drift.expectation
    assert not check_tables(tags(tmp_path / "s", text_area=spread[::-1]), source, tmp_path / "docs2", before).warnings
    few = tags(tmp_path / "f", text_area=[*[None] * 10, *spread[:10]])
    (missing,) = check_tables(few, source, tmp_path / "docs3").warnings
    assert "text_area column_values_to_not_be_null" in missing.expectation
    empty = tags(tmp_path / "e", absent="no weights", text_area=pa.nulls(20, pa.float64()))
    assert not check_tables(empty, source, tmp_path / "docs4", before).warnings


def test_a_folder_without_tables_is_an_error(tmp_path):
    with pytest.raises(StepVideoError, match="has no tables"):
        check_tables(tmp_path, catalog(tmp_path / "c"), tmp_path / "docs")
