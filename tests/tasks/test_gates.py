"""The data gate: good catalogs pass, bad ones are stopped by name, warnings do not stop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepvideo.curation.records import clip_schema, file_row, files_schema, write_table
from stepvideo.data.clips import CATALOG
from stepvideo.errors import ArtifactError
from tasks import gates

Change = Callable[[list[dict[str, Any]]], None]


def catalog(folder: Path, change: Change | None = None) -> Path:
    rows = []
    for i in range(20):
        row = dict.fromkeys(clip_schema().names)
        row |= {"clip_id": f"{i:032x}", "kind": "clip", "file": f"media/{i}.mp4", "stored": "source", "first_frame": 3}
        row |= {"frames": 19, "height": 64, "width": 64, "fps": 25.0, "captions": '{"short": {"en": ["x"]}}'}
        row |= {"caption_source": "sidecar", "caption_overlap": 1.0, "source_role": "world", "source_file": f"{i}.mp4"}
        row |= {"source_sha256": "a" * 64, "source_start": 3, "source_end": 22}
        row |= {f"tag_saturation_{s}": 80.0 for s in ("mean", "max", "min")} | {
            "tag_blur": 200.0,
            "tag_blur_fixed": 200.0,
        }
        row |= {"tag_motion_mean": 1.0, "tag_motion_max": 2.0, "tag_motion_min": 0.5, "tag_motion_rate": 25.0}
        rows.append(row)
        (folder / "media").mkdir(parents=True, exist_ok=True)
        (folder / "media" / f"{i}.mp4").write_bytes(b"x")
    frame = rows[0] | {"clip_id": f"{99:032x}", "kind": "frame", "parent": rows[0]["clip_id"], "frames": 1, "fps": 0.0}
    rows.append(frame | {f"tag_motion_{s}": None for s in ("mean", "max", "min", "rate")})
    if change:
        change(rows)
    write_table(rows, clip_schema(), folder / CATALOG)
    from stepvideo.curation.records import Source

    sources = [Source("world", f"{i}.mp4", folder, "video", "a" * 64, 1) for i in range(20)]
    write_table([file_row(s, "accepted") for s in sources], files_schema(), folder / "files.parquet")
    return folder


def test_a_good_catalog_passes_and_is_not_checked_twice(tmp_path: Path) -> None:
    source, docs = catalog(tmp_path / "c"), tmp_path / "docs"
    report = gates.check_catalog(source, docs, min_frames=17)
    assert report.success
    assert (report.warnings, report.failed, report.cached) == ([], [], False)
    assert report.checked > 40
    page = report.docs_index_path.read_text(encoding="utf-8")
    assert "catalog" in page
    assert list(docs.glob("validations/**/*.html"))
    again = gates.check_catalog(source, docs, min_frames=17)
    assert (again.cached, again.checked) == (True, report.checked)
    with pytest.raises(gates.GateFailed, match="frames"):  # another expectation: the kept verdict does not count
        gates.check_catalog(source, docs, min_frames=20)


def test_broken_rules_are_all_named_with_clips(tmp_path: Path) -> None:
    def spoil(rows: list[dict[str, Any]]) -> None:
        rows[1]["clip_id"] = rows[2]["clip_id"]
        rows[3]["tag_saturation_mean"] = 300.0
        rows[4]["captions"] = None
        rows[5]["file"] = "media/gone.mp4"
        rows[6]["frames"] = 5
        rows[7]["tag_motion_max"] = 0.1
        rows[20]["parent"] = "f" * 32

    source = catalog(tmp_path / "c", spoil)
    with pytest.raises(gates.GateFailed) as e:
        gates.check_catalog(source, tmp_path / "docs", min_frames=17)
    found = {(f.suite, f.expectation.split("(")[0]): f.samples for f in e.value.report.failed}
    assert found[("catalog", "clip_id column_values_to_be_unique")] == [f"{2:032x}"] * 2
    assert found[("catalog", "tag_saturation_mean column_values_to_be_between")] == [f"{3:032x}"]
    assert found[("catalog", "captions column_values_to_not_be_null")] == [f"{4:032x}"]
    assert found[("catalog", "media_present column_values_to_be_in_set")] == [f"{5:032x}"]
    assert found[("clips", "frames column_values_to_be_between")] == [f"{6:032x}"]
    assert found[("catalog", "parent_known column_values_to_be_in_set")] == [f"{99:032x}"]
    assert ("clips", "column_pair_values_a_to_be_greater_than_b") in found
    assert len(found) == 7
    assert f"{3:032x}" in str(e.value)
    assert (tmp_path / "docs" / "index.html").exists()
    with pytest.raises(gates.GateFailed):  # a kept verdict fails again
        gates.check_catalog(source, tmp_path / "docs", min_frames=17)


def test_warnings_are_returned_and_do_not_stop(tmp_path: Path) -> None:
    def still_and_silent(rows: list[dict[str, Any]]) -> None:
        for row in rows[:15]:
            row |= {"caption_source": "none", "captions": "{}", "caption_overlap": None}
            row |= {"tag_motion_mean": 0.0, "tag_motion_min": 0.0}

    report = gates.check_catalog(catalog(tmp_path / "c", still_and_silent), tmp_path / "docs", min_frames=17)
    assert report.success
    assert {w.expectation.split()[0] for w in report.warnings} == {"caption_source", "tag_motion_mean"}
    assert all(w.severity == "warning" for w in report.warnings)


def test_a_missing_column_is_a_critical_failure_not_a_silent_pass(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    source = catalog(tmp_path / "c")
    table = pq.read_table(source / CATALOG)
    pq.write_table(table.drop_columns(["tag_blur"]), source / CATALOG)
    with pytest.raises(gates.GateFailed, match="tag_blur"):
        gates.check_catalog(source, tmp_path / "docs")


def test_no_catalog_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="catalog.parquet is missing"):
        gates.check_catalog(tmp_path, tmp_path / "docs")
