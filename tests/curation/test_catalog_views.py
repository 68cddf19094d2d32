"""SQL over a catalog and its side tables: one row a clip, every column, and nothing renamed without a word."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stepvideo.cli import main
from stepvideo.curation.records import clip_schema, write_table
from stepvideo.curation.views import answer, connect
from stepvideo.data.captions import caption_schema
from stepvideo.errors import StepVideoError


@pytest.fixture
def places(tmp_path: Path) -> dict:
    """Four clips; the fourth has no row in the side tables, the third is in no subset."""
    root = tmp_path / "it's here"
    rows = [dict.fromkeys(clip_schema().names) | {"clip_id": f"c{i}", "kind": "clip", "frames": i} for i in range(4)]
    write_table(rows, clip_schema(), root / "curate" / "catalog.parquet")
    said = [dict.fromkeys(caption_schema().names) | {"clip_id": f"c{i // 2}", "text": f"text {i}"} for i in range(3)]
    write_table(said, caption_schema(), root / "captions" / "captions.parquet")

    def table(path: str, **columns: list) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), root / path)

    table("tags/tables/text.parquet", clip_id=["c2", "c1", "c0"], text_area=[0.2, 0.1, 0.0])
    table("tags/tables/camera.parquet", clip_id=["c0", "c1", "c2"], camera=["static", "pan_left", None])
    table("concepts/concepts.parquet", clip_id=["c0", "c1"], cluster=[7, 8])
    table("captions/tables/alignment.parquet", clip_id=["c0"], clip_score=[0.3])
    table("subsets/tables/left_out.parquet", clip_id=["c2"], reason=["duplicate"])
    for name, ids in (("s1", ["c0", "c1", "c3"]), ("s2", ["c1"]), ("sft_1", ["c1"])):
        table(f"subsets/{name}.parquet", clip_id=ids)
    tables = [root / "tags", root / "concepts"]
    return {f: root / f for f in ("curate", "subsets", "captions")} | {"tables": tables}


def test_clips_has_every_clip_once_with_all_its_columns(places: dict) -> None:
    found = connect(**places).sql("SELECT * FROM clips ORDER BY clip_id").to_arrow_table().to_pylist()
    assert [r["clip_id"] for r in found] == ["c0", "c1", "c2", "c3"]
    columns = ("text_area", "camera", "cluster", "clip_score", "subset")
    assert [[r[c] for c in columns] for r in found] == [
        [0.0, "static", 7, 0.3, "s1"],
        [0.1, "pan_left", 8, None, "s2"],
        [0.2, None, None, None, None],
        [None, None, None, None, "s1"],
    ]
    assert found[3]["frames"] == 3


def test_other_views_join_too(places: dict) -> None:
    query = """SELECT clips.clip_id, count(*) FROM clips JOIN captions USING (clip_id) JOIN memberships USING (clip_id)
               WHERE memberships.subset = 'sft_1' GROUP BY ALL"""
    assert connect(**places).execute(query).fetchall() == [("c1", 1)]
    assert connect(**places).execute("SELECT reason FROM left_out JOIN clips USING (clip_id)").fetchall() == [
        ("duplicate",)
    ]
    assert connect(places["curate"]).execute("SELECT count(*), count(subset) FROM clips").fetchall() == [(4, 0)]


def test_the_command_prints_an_answer(places: dict, capsys: pytest.CaptureFixture[str]) -> None:
    options = [o for t in places["tables"] for o in ("--tables", str(t))] + ["--subsets", str(places["subsets"])]
    query = "SELECT subset, count(*) AS n FROM clips WHERE text_area < 0.15 GROUP BY 1 ORDER BY 1"
    assert main(["browse", str(places["curate"]), *options, "--sql", query, "--csv"]) == 0
    assert capsys.readouterr().out == "subset,n\ns1,1\ns2,1\n"
    assert main(["browse", str(places["curate"]), "--sql", "SELECT nothing FROM clips"]) == 2
    assert '"nothing" not found' in capsys.readouterr().err
    assert "n" in answer("SELECT 1 AS n", **places)


def test_columns_of_one_name_are_an_error(places: dict) -> None:
    pq.write_table(pa.table({"clip_id": ["c0"], "camera": ["x"]}), places["tables"][0] / "tables" / "zoom.parquet")
    with pytest.raises(StepVideoError, match="the tables camera and zoom both have a column 'camera'"):
        connect(**places)
