"""Nested by construction, for any tags and thresholds; every id accounted for; empty subsets named."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepvideo.config import dump, load
from stepvideo.curation import subsets
from stepvideo.curation.config import LEVELS, Filter, SubsetsConfig
from stepvideo.curation.funnel import ladder, svg, thresholds
from stepvideo.curation.records import clip_schema, write_table
from stepvideo.data.clips import CATALOG, load_catalog, load_ids
from stepvideo.errors import ConfigError, StepVideoError

value = st.one_of(st.floats(-100, 100), st.just(float("nan")))


@st.composite
def filters(draw: st.DrawFn) -> Filter:
    keep, quantile = draw(st.sampled_from(["above", "below"])), draw(st.booleans())
    levels = draw(st.lists(st.floats(0, 1) if quantile else st.floats(-100, 100), min_size=LEVELS, max_size=LEVELS))
    return Filter(draw(st.sampled_from("ab")), keep, sorted(levels, reverse=keep == "below"), quantile)


@given(st.lists(st.tuples(value, value), min_size=1, max_size=60), st.lists(filters(), max_size=4))
def test_every_subset_contains_the_next(rows: list[tuple[float, float]], rules: list[Filter]) -> None:
    columns = {"a": np.array([r[0] for r in rows]), "b": np.array([r[1] for r in rows])}
    try:
        masks, table = ladder(columns, rules, len(rows))
    except StepVideoError as e:
        assert "is empty" in str(e)
        return
    for inner, outer in zip(masks[1:], masks):
        assert not (inner & ~outer).any()
    for mask, row in zip(masks, table):
        assert row["left"] == mask.sum() == row["into"] - sum(f["removed"] for f in row["filters"])
        for step in row["filters"]:
            assert step["removed"] <= step["removed_alone"]


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=50))
def test_quantile_thresholds_keep_at_least_their_share(values: list[float]) -> None:
    tag = np.array(values)
    rule = Filter("a", "above", [0.0, 0.1, 0.2, 0.5, 0.8, 1.0], quantile=True)
    masks, _ = ladder({"a": tag}, [rule], len(tag))
    for q, threshold, mask in zip(rule.values, thresholds(rule, tag), masks):
        assert mask.sum() >= (1 - q) * len(tag) - 1e-9
        assert (tag[mask] >= threshold).all()


def catalog(folder: Path, n: int = 60, frames: int = 25) -> Path:
    """A catalog without media: clips c0 … with a single frame f0 … each, stills i0 …; every sixth has no caption."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        for kind, name in (("clip", "c"), ("frame", "f"), ("image", "i")):
            row = dict.fromkeys(clip_schema().names)
            row |= {"clip_id": f"{name}{i}", "kind": kind, "parent": f"c{i}" if kind == "frame" else None}
            row |= {"frames": frames if kind == "clip" else 1, "height": 64, "width": 64, "caption_overlap": 1.0}
            row |= {"captions": '{"short": {"en": ["x"]}}', "caption_source": "none" if i % 6 == 0 else "sidecar"}
            if kind == "clip":
                row |= {
                    f"tag_{t}": float(rng.gamma(2.0)) for t in ("blur", "blur_fixed", "saturation_mean", "motion_mean")
                }
                row |= {f"tag_{t}": float(rng.gamma(2.0)) for t in ("motion_max", "motion_min")}
            else:
                row["tag_blur"] = float(i)
            rows.append(row)
    write_table(rows, clip_schema(), folder / CATALOG)
    return folder


def test_the_stage_writes_nested_subsets_images_and_sft_sets(tmp_path: Path, context) -> None:
    ctx = context("subsets", SubsetsConfig(sft_sets=3), curate=catalog(tmp_path / "c"))
    metrics = subsets.run(ctx)
    sets = [set(load_ids(ctx.out / f"s{i}.parquet")) for i in range(1, LEVELS + 1)]
    assert all(inner <= outer for inner, outer in zip(sets[1:], sets))
    assert sets[5] < sets[0]
    assert [metrics[f"s{i}"] for i in range(1, LEVELS + 1)] == [len(s) for s in sets]
    assert not any(int(i[1:]) % 6 == 0 for i in sets[0])
    sft = [load_ids(ctx.out / f"sft_{i}.parquet") for i in (1, 2, 3)]
    assert sorted(i for s in sft for i in s) == sorted(sets[-1])
    images = load_ids(ctx.out / "images.parquet")
    assert {f"c{i[1:]}" for i in images if i[0] == "f"} == sets[0]
    assert sum(i[0] == "i" for i in images) == 50
    funnel = json.loads((ctx.out / "funnel.json").read_text())
    assert funnel["base"] == {"clips": 60, "without_captions": 10, "too_short": 0, "outliers": 0, "duplicates": 0} | {
        "candidates": 50
    }
    assert [row["left"] for row in funnel["levels"]] == [len(s) for s in sets]
    texts = [
        t.text for t in ElementTree.fromstring((ctx.out / "funnel.svg").read_text()).iter() if t.tag.endswith("text")
    ]
    assert {"s1", "s6", str(len(sets[5]))} <= set(texts)


def test_equal_seeds_give_equal_bytes_and_another_seed_other_sft_sets(tmp_path: Path, context) -> None:
    source = catalog(tmp_path / "c")
    runs = [context(n, SubsetsConfig(seed=s), curate=source) for n, s in (("a", 0), ("b", 0), ("c", 1))]
    for ctx in runs:
        subsets.run(ctx)
    a, b, c = ({p.name: p.read_bytes() for p in ctx.out.rglob("*.*")} for ctx in runs)
    assert a == b
    assert a["s6.parquet"] == c["s6.parquet"]
    assert a["sft_1.parquet"] != c["sft_1.parquet"]


def test_the_second_images_are_the_better_ones(tmp_path: Path, context) -> None:
    source = catalog(tmp_path / "c")
    plain = context("plain", SubsetsConfig(), curate=source)
    subsets.run(plain)
    assert load_ids(plain.out / "images_2.parquet") == load_ids(plain.out / "images.parquet")
    ctx = context("some", SubsetsConfig(image_filters=[Filter("blur", "above", [0.3], quantile=True)]), curate=source)
    subsets.run(ctx)
    images, better = (load_ids(ctx.out / f"{name}.parquet") for name in ("images", "images_2"))
    blur = {c.clip_id: c.tags["blur"] for c in load_catalog(source, images)}
    assert set(better) < set(images) and len(better) == pytest.approx(0.7 * len(images), abs=2)  # two images a value
    assert min(blur[i] for i in better) >= max(blur[i] for i in set(images) - set(better))
    level = json.loads((ctx.out / "funnel.json").read_text())["images_2"]
    assert (level["into"], level["left"]) == (len(images), len(better))


def test_overlapping_sft_sets_have_their_share() -> None:
    ids = [f"{i:03d}" for i in range(100)]
    one, two = subsets.sft_sets(ids, 2, 0.6, 0)
    assert len(one) == len(two) == 60
    assert 0 < len(set(one) & set(two)) < 60
    with pytest.raises(StepVideoError, match="SFT set empty"):
        subsets.sft_sets(ids[:2], 3, 0.0, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"filters": [Filter("blur", "above", [0, 0, 0, 99, 99, 99])]}, r"s4 is empty: blur ≥ 99 drops the last 50"),
        ({"filters": [Filter("glow", "above", [0.0] * 6)]}, r"no tag 'glow'.*motion_mean"),
        ({"min_frames": 26}, "longest captioned clip has 25 frames"),
        ({"caption_sources": ["filename"]}, "none of 60 clips has captions from filename"),
    ],
)
def test_errors_name_the_threshold(tmp_path: Path, context, change: dict, words: str) -> None:
    ctx = context("s", SubsetsConfig(**change), curate=catalog(tmp_path / "c"))
    with pytest.raises(StepVideoError, match=words):
        subsets.run(ctx)


def test_the_config_survives_its_plain_form_and_refuses_nonsense() -> None:
    assert load(SubsetsConfig, dump(SubsetsConfig())) == SubsetsConfig()
    for bad in ({"values": [1, 2]}, {"values": [6, 5, 4, 3, 2, 1]}, {"values": [0] * 6, "keep": "between"}):
        with pytest.raises(ConfigError, match="filter blur"):
            load(SubsetsConfig, {"filters": [{"tag": "blur"} | bad]})


def test_the_figure_draws_what_is_left_and_what_went() -> None:
    _, table = ladder({"a": np.arange(10.0)}, [Filter("a", "above", [1, 2, 3, 4, 5, 6])], 10)
    assert svg(table).count("<rect") == 2 * LEVELS
