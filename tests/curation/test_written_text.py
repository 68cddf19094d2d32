"""images_2 has the share of written text that was asked for, whichever sort there is too much of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepvideo.config import load
from stepvideo.curation import subsets
from stepvideo.curation.config import LEVELS, Filter, SubsetsConfig, WrittenTextConfig
from stepvideo.curation.records import clip_schema, write_table
from stepvideo.curation.written_text import steered
from stepvideo.data.clips import CATALOG, load_ids
from stepvideo.errors import ConfigError, StepVideoError

values = st.lists(st.sampled_from([0.0, 1.0, float("nan")]), min_size=1, max_size=200)


def names(n: int) -> list[str]:
    return [f"i{i}" for i in range(n)]


@given(values, st.floats(0.01, 0.99))
def test_no_more_is_left_out_than_the_share_needs(text: list[float], share: float) -> None:
    tag, ids = np.array(text), names(len(text))
    kept, told = steered(ids, tag, WrittenTextConfig(share, least=0.0), False)
    has, plain = int((tag[kept] == 1).sum()), int((tag[kept] != 1).sum())
    assert (told["with_text"], told["without_text"], told["unknown"]) == (has, plain, int(np.isnan(tag).sum()))
    left_out = [int((tag[~kept] == 1).sum()), int((tag[~kept] != 1).sum())]
    assert min(left_out) == 0 or has + plain == 0  # of one sort only
    if has + plain:
        ratio = share / (1 - share)
        assert has <= plain * ratio + 1e-6 if left_out[0] else has + 1e-6 >= plain * ratio
        if left_out[0]:
            assert has + 1 > plain * ratio - 1e-6  # one more would be too many
        elif left_out[1]:
            assert has < (plain + 1) * ratio + 1e-6


def test_who_goes_does_not_depend_on_the_others() -> None:
    ids, tag = names(400), np.array([float(i % 4 == 0) for i in range(400)])
    kept, told = steered(ids, tag, WrittenTextConfig(0.1), False)
    assert told["before"] == 0.25 and told["after"] == pytest.approx(0.1, abs=0.002)
    order = np.random.default_rng(0).permutation(400)
    again, _ = steered([ids[i] for i in order], tag[order], WrittenTextConfig(0.1), False)
    assert {ids[i] for i in np.flatnonzero(kept)} == {ids[order[i]] for i in np.flatnonzero(again)}
    fewer, _ = steered(ids[:200], tag[:200], WrittenTextConfig(0.1), False)
    first = {ids[i] for i in np.flatnonzero(kept) if i < 200}
    assert len(first & {ids[i] for i in np.flatnonzero(fewer)}) > 0.9 * len(first)


def test_too_few_with_text_is_an_error_or_as_near_as_may_be() -> None:
    tag = np.array([1.0] * 10 + [0.0] * 85 + [np.nan] * 5)
    with pytest.raises(StepVideoError, match=r"10 of 100 images have written text \(5 were not read\).*leave 20"):
        steered(names(100), tag, WrittenTextConfig(0.5, least=0.4), False)
    kept, told = steered(names(100), tag, WrittenTextConfig(0.5, least=0.4), True)
    assert kept.sum() == 40 and kept[:10].all() and told["after"] == 0.25
    kept, told = steered(names(100), 1 - np.nan_to_num(tag), WrittenTextConfig(0.5, least=0.4), True)
    assert kept.sum() == 40 and kept[:10].all() and told["after"] == 0.75


def catalog(folder: Path) -> Path:
    rows = []
    for i in range(20):
        for kind, name in (("clip", f"c{i}"), ("frame", f"f{i}"), ("image", f"i{i}")):
            row = dict.fromkeys(clip_schema().names)
            row |= {"clip_id": name, "kind": kind, "frames": 25 if kind == "clip" else 1, "height": 64, "width": 64}
            row |= {"parent": f"c{i}" if kind == "frame" else None, "tag_blur": float(i)}
            rows.append(row | {"captions": '{"short": {"en": ["x"]}}', "caption_source": "sidecar"})
    write_table(rows, clip_schema(), folder / CATALOG)
    return folder


def test_the_stage_steers_what_the_filters_leave_and_says_so(tmp_path: Path, context) -> None:
    source, tables = catalog(tmp_path / "c"), tmp_path / "t" / "tables"
    tables.mkdir(parents=True)
    read = {f"i{i}": float(i % 2) for i in range(20)} | {f"f{i}": 0.0 for i in range(10)}  # some frames were not read
    pq.write_table(pa.table({"clip_id": [*read], "text_frames": [*read.values()]}), tables / "text.parquet")
    config = SubsetsConfig(
        filters=[Filter("frames", "above", [0.0] * LEVELS)],
        image_filters=[Filter("blur", "above", [4.0])],
        written_text=WrittenTextConfig(0.1),
    )
    ctx = context("s", config, curate=source, tags=tables.parent)
    subsets.run(ctx)
    first, second = (load_ids(ctx.out / f"{name}.parquet") for name in ("images", "images_2"))
    assert len(first) == 40 and set(second) < set(first) and min(int(i[1:]) for i in second) == 4
    assert sum(read.get(i) == 1 for i in second) == 2 and len(second) == 26  # 24 without, so 2 with: 2 / 26 ≤ 0.1
    level = json.loads((ctx.out / "funnel.json").read_text())["images_2"]
    assert (level["into"], level["filters"][0]["left"], level["left"]) == (40, 32, 26)
    told = {"target": 0.1, "before": 0.25, "after": 2 / 26, "with_text": 2, "without_text": 24, "unknown": 10}
    assert level["written_text"] == told
    without = context("none", config, curate=source)
    with pytest.raises(StepVideoError, match=r"written_text.share needs the table text: set stages.tags.backends.text"):
        subsets.run(without)


def test_shares_are_checked() -> None:
    with pytest.raises(ConfigError, match="written_text.share is 1.5"):
        load(SubsetsConfig, {"written_text": {"share": 1.5}})
