"""Near-duplicates, outliers and rare concepts act on the subsets: one of each group stays, weights reach training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stepvideo.curation import subsets
from stepvideo.curation.config import LEVELS, Filter, SubsetsConfig
from stepvideo.curation.records import clip_schema, write_table
from stepvideo.curation.verdicts import Verdicts
from stepvideo.data.clips import CATALOG, load_ids, load_weights
from stepvideo.errors import ArtifactError

ALL = [Filter("frames", "above", [0.0] * LEVELS)]
SAME = "0123456789abcdef" * 8
CLOSE = SAME[:-1] + "e"  # one bit of the last frame


def catalog(folder: Path, **clips: dict[str, Any]) -> Path:
    """A catalog of captioned rows; each is a clip of 25 frames unless it says otherwise."""
    rows = []
    for name, said in clips.items():
        row = dict.fromkeys(clip_schema().names)
        row |= {"clip_id": name, "kind": "clip", "frames": 25, "height": 64, "width": 64, "caption_overlap": 1.0}
        rows.append(row | {"captions": '{"short": {"en": ["x"]}}', "caption_source": "sidecar"} | said)
    write_table(rows, clip_schema(), folder / CATALOG)
    return folder


def side_table(folder: Path, name: str, **columns: list[Any]) -> Path:
    (folder / "tables").mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "tables" / f"{name}.parquet")
    return folder


def made(context, name: str, catalog: Path, tables: Path, **changes: Any):
    config = SubsetsConfig(filters=ALL, sft_sets=1, caption_sources=["sidecar", "rule"], **changes)
    ctx = context(name, config, curate=catalog, tags=tables)
    metrics = subsets.run(ctx)
    about = json.loads((ctx.out / "funnel.json").read_text())
    out = pq.read_table(ctx.out / "tables" / "left_out.parquet").to_pylist()
    return ctx.out, metrics, about, {r["clip_id"]: (r["reason"], r["kept"]) for r in out}


def test_of_near_duplicates_the_best_captioned_then_the_largest_stays(tmp_path: Path, context) -> None:
    source = catalog(
        tmp_path / "c",
        small={"height": 32},
        ruled={"caption_source": "rule", "height": 640},
        large={"height": 96},
        mute={"captions": "{}", "caption_source": "none", "height": 960},
        other={},
        flat={},
        black={},
        still={"kind": "image", "frames": 1},
        copy={"kind": "image", "frames": 1},
        single={"kind": "frame", "frames": 1, "parent": "large"},
        lost={"kind": "frame", "frames": 1, "parent": "small"},
    )
    signatures = {"small": SAME, "ruled": CLOSE, "large": SAME, "mute": SAME, "other": SAME[::-1]}
    signatures |= {"flat": "0" * 128, "black": "0" * 128, "still": SAME[:16], "copy": SAME[:16]}
    tables = side_table(tmp_path / "t", "copies", clip_id=[*signatures], signature=[*signatures.values()])
    out, metrics, about, left_out = made(context, "s", source, tables)
    assert left_out == {n: ("duplicate", "large") for n in ("small", "ruled")} | {"copy": ("duplicate", "still")}
    assert load_ids(out / "s1.parquet") == ["large", "other", "flat", "black"]
    assert load_ids(out / "images.parquet") == ["still", "single"]
    assert about["base"] == {"clips": 7, "without_captions": 1, "too_short": 0, "outliers": 0, "duplicates": 2} | {
        "candidates": 4
    }
    assert about["images_left_out"] == {"outliers": 0, "duplicates": 1} and metrics["duplicates"] == 3
    assert load_weights(out / "s1.parquet") == {}
    verdicts = Verdicts.read(out)
    assert (
        verdicts.of("small", "clip", {}) == ("out", "duplicate, here of large")
        and verdicts.of("large", "clip", {})[0] == "s6"
    )
    out, _, _, left_out = made(context, "all", source, tables, duplicates=True)
    assert not left_out and len(load_ids(out / "s1.parquet")) == 6
    out, _, _, left_out = made(context, "exact", source, tables, duplicate_bits=0.0)
    assert sorted(left_out) == ["copy", "small"]


def test_concepts_weigh_and_a_near_duplicate_stands_in_for_what_is_no_candidate(tmp_path: Path, context) -> None:
    source = catalog(
        tmp_path / "c", far={}, usual={}, rare={}, again={}, short={"frames": 9}, standin={}, unknown={}, echo={}
    )
    concepts = {
        "clip_id": ["far", "usual", "rare", "again", "short", "standin", "echo"],
        "weight": [0.0, 1.0, 2.5, 0.0, 3.0, 0.0, 0.0],
        "duplicate_of": [None, None, None, "rare", None, "short", "far"],
    }
    tables = side_table(tmp_path / "t", "concepts", **concepts)
    out, metrics, about, left_out = made(context, "s", source, tables)
    assert left_out == {"far": ("outlier", None), "again": ("duplicate", "rare")}
    weights = {"usual": 1.0, "rare": 2.5, "standin": 3.0, "unknown": 1.0, "echo": 1.0}
    for name in ("s1", "s6", "sft_1"):
        assert load_weights(out / f"{name}.parquet") == weights
    assert (metrics["outliers"], about["base"]["outliers"], about["base"]["candidates"]) == (1, 1, 5)
    out, _, _, left_out = made(context, "far", source, tables, outliers=True)
    assert {*load_ids(out / "s1.parquet")} == {*weights, "far"} - {"echo"} and "far" not in left_out


def test_with_concepts_signatures_are_not_asked(tmp_path: Path, context) -> None:
    source = catalog(tmp_path / "c", a={}, b={})
    tables = side_table(tmp_path / "t", "copies", clip_id=["a", "b"], signature=[SAME, SAME])
    pq.write_table(
        pa.table({"clip_id": ["a", "b"], "weight": [1.0, 1.0], "duplicate_of": pa.array([None, None], pa.string())}),
        tables / "tables" / "concepts.parquet",
    )
    assert made(context, "s", source, tables)[3] == {}


def test_a_table_of_another_form_is_named(tmp_path: Path, context) -> None:
    tables = side_table(tmp_path / "t", "copies", clip_id=["a"], hash=["x"])
    with pytest.raises(ArtifactError, match=r"copies.parquet has no columns signature"):
        made(context, "s", catalog(tmp_path / "c", a={}), tables)


def test_captions_that_are_made_for_the_clip_cover_it(tmp_path: Path, context) -> None:
    """No sidecar, so no overlap with a shot of one: a threshold on it is about sidecars."""
    from stepvideo.data.captions import caption_schema

    source = catalog(
        tmp_path / "c",
        told={},
        partly={"caption_overlap": 0.6},
        ruled={"captions": "{}", "caption_source": "none", "caption_overlap": None},
    )
    captions = tmp_path / "captions"
    said = [("told", "sidecar"), ("partly", "sidecar"), ("ruled", "rule")]
    rows = [dict.fromkeys(caption_schema().names) | {"clip_id": i, "source": s, "flags": []} for i, s in said]
    write_table(rows, caption_schema(), captions / "captions.parquet")
    pq.write_table(pa.table({"clip_id": [i for i, _ in said]}), captions / "clips.parquet")
    overlap = [Filter("caption_overlap", "above", [0.9] * LEVELS)]
    for sources, expected in ((["sidecar"], ["told"]), (["sidecar", "rule"], ["told", "ruled"])):
        config = SubsetsConfig(filters=overlap, sft_sets=1, caption_sources=sources)
        ctx = context("-".join(sources), config, curate=source, captions=captions)
        subsets.run(ctx)
        assert load_ids(ctx.out / "s1.parquet") == expected
