"""The tables and plots of the curation's stages, from artifacts as the stages write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stepvideo import storage
from stepvideo.artifact import Artifact
from tasks.figures import Figures, figures

LEVEL: dict[str, Any] = {"subset": "s1", "into": 10, "left": 7}
FILTERS = [
    {"filter": "blur ≥", "threshold": 1.25, "removed_alone": 3, "removed": 3, "left": 7},
    {"filter": "nsfw ≤", "threshold": 0.5, "removed_alone": 0, "removed": 0, "left": 7},
]


def made(folder: Path, kind: str, **metrics: float) -> Figures:
    found = figures(Artifact(folder, {"kind": kind, "metrics": metrics}))
    assert found is not None
    assert all(len(row) == len(found.columns) for row in found.rows)
    ElementTree.fromstring(found.svg)
    return found


def test_files_to_clips(tmp_path: Path) -> None:
    about = {"files": 9, "accepted": 7, "quarantined": {"no_video": 2}, "shots": 20, "dropped_shots": 4}
    storage.write_json(tmp_path / "out" / "funnel.json", about | {"kinds": {"clip": 16, "image": 1, "frame": 16}})
    found = made(tmp_path, "curate")
    assert found.rows[:3] == [("files", 9), ("quarantined: no_video", 2), ("accepted", 7)]
    assert found.as_dict()["columns"] == ["step", "count"] and ["clips", 16] in found.as_dict()["data"]
    assert "| quarantined: no_video | 2 |" in found.markdown()


def test_shares_of_tags(tmp_path: Path) -> None:
    for name, absent in (("nsfw", ""), ("aesthetic", "no weights | none")):
        table = pa.table({"clip_id": ["a"]}).replace_schema_metadata({"backend": "b", "version": "2", "absent": absent})
        (tmp_path / "out" / "tables").mkdir(parents=True, exist_ok=True)
        pq.write_table(table, tmp_path / "out" / "tables" / f"{name}.parquet")
    found = made(tmp_path, "tags", nsfw=0.5, aesthetic=0.0)
    assert found.rows == [("aesthetic", 0.0, "b", "2", "no weights | none"), ("nsfw", 0.5, "b", "2", "")]
    assert "no weights \\| none" in found.markdown()


def test_the_funnel_of_subsets(tmp_path: Path) -> None:
    storage.write_json(
        tmp_path / "out" / "funnel.json",
        {"base": {"clips": 12, "candidates": 10}, "levels": [LEVEL | {"filters": FILTERS}]},
    )
    storage.write_atomic(tmp_path / "out" / "funnel.svg", '<svg xmlns="http://www.w3.org/2000/svg"/>')
    found = made(tmp_path, "subsets")
    assert [row[0] for row in found.rows] == ["candidates", "clips", "", "s1"]
    assert found.rows[2][1:] == ("blur ≥", 1.25, 3, 3, 7) and found.rows[3][-2:] == (3, 7)


@pytest.mark.parametrize("kind", ["captions", "labels"])
def test_captions(tmp_path: Path, kind: str) -> None:
    group = {"captions": 5, "different": 4, "flagged": 1, "length": {"mean": 7.5}, "vocabulary": 9, "clip_score": None}
    storage.write_json(tmp_path / "out" / "statistics.json", {"groups": {"short/en/vlm": group}})
    assert made(tmp_path, kind).rows == [("short/en/vlm", 5, 4, 1, 7.5, 9, None)]


def test_other_stages_have_none(tmp_path: Path) -> None:
    assert figures(Artifact(tmp_path, {"kind": "train"})) is None
    assert figures(Artifact(tmp_path, {"kind": "curate"})) is None
