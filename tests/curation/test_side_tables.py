"""Side tables: found in artifacts, joined by clip, refused when they are ambiguous; subsets filter by them."""

from __future__ import annotations

import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_curation_subsets import catalog

from stepvideo.curation import side_tables, subsets
from stepvideo.curation.config import LEVELS, Filter, SubsetsConfig
from stepvideo.data.clips import load_catalog, load_ids
from stepvideo.errors import ArtifactError, StepVideoError


def table(path, ids, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"clip_id": ids, **columns}), path)
    return path


def test_numbers_and_truth_values_in_the_order_that_is_asked_for(tmp_path):
    a = table(tmp_path / "a.parquet", ["x", "y"], area=[0.5, None], camera=["pan", "zoom"], subtitle=[True, False])
    b = table(tmp_path / "b.parquet", ["y"], count=[3])
    found = side_tables.numbers([a, b], ["y", "x", "z"])
    assert sorted(found) == ["area", "count", "subtitle"]
    assert found["subtitle"].tolist()[:2] == [0.0, 1.0] and found["count"].tolist()[0] == 3.0
    assert [math.isnan(v) for v in found["area"]] == [True, False, True]
    assert [math.isnan(v) for v in found["count"]] == [False, True, True]


def test_what_is_no_side_table_is_refused(tmp_path):
    a = table(tmp_path / "a.parquet", ["x"], area=[1.0])
    with pytest.raises(StepVideoError, match="both have a column 'area'"):
        side_tables.numbers([a, table(tmp_path / "b.parquet", ["x"], area=[2.0])], ["x"])
    with pytest.raises(ArtifactError, match="has a clip twice"):
        side_tables.numbers([table(tmp_path / "c.parquet", ["x", "x"], area=[1.0, 2.0])], ["x"])
    (tmp_path / "d.parquet").write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match="d.parquet is no side table"):
        side_tables.numbers([tmp_path / "d.parquet"], ["x"])


def test_subsets_filter_by_them(tmp_path, context):
    root = catalog(tmp_path / "c")
    ids = [c.clip_id for c in load_catalog(root) if c.kind == "clip"]
    table(tmp_path / "tags/tables/text.parquet", ids, text_area=[i / len(ids) for i in range(len(ids))])
    rules = [Filter("text_area", "below", [0.8, 0.7, 0.6, 0.5, 0.4, 0.3])]
    assert LEVELS == len(rules[0].values)
    ctx = context("s", SubsetsConfig(filters=rules), curate=root, tags=tmp_path / "tags")
    metrics = subsets.run(ctx)
    last = load_ids(ctx.out / "s6.parquet")
    assert 0 < metrics["s6"] == len(last) < metrics["s1"]
    assert all(ids.index(i) / len(ids) <= 0.3 for i in last)
