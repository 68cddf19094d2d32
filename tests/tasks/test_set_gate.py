"""The gates over captions and subsets: what is wrong is named, what moved is a warning."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_gates import catalog

from stepvideo.curation.records import write_table
from stepvideo.data.captions import caption_schema
from tasks.gates import GateFailed
from tasks.set_gate import check_captions, check_shards, check_subsets

IDS = [*(f"{i:032x}" for i in range(20)), f"{99:032x}"]  # those of the catalog


def captions(folder: Path, change: dict[int, dict] | None = None, letters: int = 10) -> Path:
    blank = dict.fromkeys(caption_schema().names) | {"kind": "short", "language": "en", "source": "vlm", "flags": []}
    rows = [blank | {"clip_id": i, "text": f"{'a' * letters} {n}", "tokens_in": 1} for n, i in enumerate(IDS)]
    for at, fields in (change or {}).items():
        rows[at] |= fields
    write_table(rows, caption_schema(), folder / "captions.parquet")
    pq.write_table(pa.table({"clip_id": IDS}), folder / "clips.parquet")
    return folder


def test_good_captions_pass_and_bad_ones_are_named(tmp_path: Path) -> None:
    source, good = catalog(tmp_path / "c"), captions(tmp_path / "good")
    report = check_captions(good, source, tmp_path / "docs")
    assert report.success and not report.warnings and report.docs_index_path.exists()
    assert check_captions(good, source, tmp_path / "docs").cached
    wrong = {0: {"text": " "}, 1: {"kind": "haiku"}, 2: {"clip_id": "f" * 32}, 3: {"clip_score": 1.5}}
    wrong |= {5: {"clip_id": IDS[4], "text": "aaaaaaaaaa 4"}}
    bad = captions(tmp_path / "bad", wrong)
    pq.write_table(pa.table({"clip_id": IDS[:-1]}), bad / "clips.parquet")
    with pytest.raises(GateFailed) as e:
        check_captions(bad, source, tmp_path / "docs2")
    found = {(f.suite, f.expectation.split("(")[0]): f.samples for f in e.value.report.failed}
    assert found["captions", "text column_values_to_match_regex"] == [IDS[0]]
    assert found["captions", "kind column_values_to_be_in_set"] == [IDS[1]]
    assert found["captions", "in_catalog column_values_to_be_in_set"] == ["f" * 32]
    assert found["captions", "clip_score column_values_to_be_between"] == [IDS[3]]
    assert found["captions", "compound_columns_to_be_unique"] == [IDS[4]] * 2
    assert ("clips", "whole_catalog column_values_to_be_in_set") in found and len(found) == 6


def test_doubted_and_drifting_captions_are_warnings(tmp_path: Path) -> None:
    source, before = catalog(tmp_path / "c"), captions(tmp_path / "a")
    doubted = captions(tmp_path / "b", {i: {"flags": ["length"]} for i in range(15)}, letters=40)
    found = check_captions(doubted, source, tmp_path / "docs", before).warnings
    assert [f.expectation.split(" ")[0] for f in found] == ["doubted", "flagged", "letters"]
    assert "observed 0.7143; more than half of what was written here" in str(found[0])
    assert "its mean moved since the last version" in str(found[1])


def test_what_people_wrote_is_doubted_without_a_warning(tmp_path: Path) -> None:
    theirs = {"source": "sidecar", "flags": ["length"]}
    made = captions(tmp_path / "a", dict.fromkeys(range(20), theirs))
    assert check_captions(made, catalog(tmp_path / "c"), tmp_path / "docs").warnings == []
    made = captions(tmp_path / "b", dict.fromkeys(range(len(IDS)), theirs))  # all of them
    assert check_captions(made, catalog(tmp_path / "d"), tmp_path / "docs2").warnings == []


def subsets(folder: Path, **sets: list[str]) -> Path:
    folder.mkdir()
    given = {f"s{i + 1}": IDS[: 12 - 2 * i] for i in range(6)} | {"sft_1": IDS[:2], "images": IDS[15:], "images_2": []}
    for name, ids in (given | sets).items():
        pq.write_table(pa.table({"clip_id": pa.array(ids, pa.string())}), folder / f"{name}.parquet")
    return folder


def test_sets_are_nested_and_without_strangers_and_repeats(tmp_path: Path) -> None:
    source = catalog(tmp_path / "c")
    assert check_subsets(subsets(tmp_path / "good"), source, tmp_path / "docs").success
    wrong = {"s3": [*IDS[:7], IDS[14]], "sft_1": [IDS[13], "f" * 32], "images_2": [IDS[16], IDS[16]]}
    with pytest.raises(GateFailed, match="the subsets in") as e:
        check_subsets(subsets(tmp_path / "bad", **wrong), source, tmp_path / "docs2")
    found = {(f.suite, f.expectation.split(" ")[0]): f.samples for f in e.value.report.failed}
    assert found == {
        ("s3", "nested"): [IDS[14]],
        ("sft_1", "nested"): [IDS[13], "f" * 32],
        ("sft_1", "in_catalog"): ["f" * 32],
        ("images_2", "clip_id"): [IDS[16]] * 2,
    }


def test_an_index_points_into_its_tars(tmp_path: Path) -> None:
    source, folder = catalog(tmp_path / "c"), tmp_path / "shards"
    folder.mkdir()
    (folder / "a.tar").write_bytes(bytes(4096))

    def index(**changes: list) -> Path:
        columns = {"tar": ["a.tar"] * 3, "key": IDS[:3], "offset": [512, 1536, 2560], "size": [100] * 3}
        columns |= {"json_offset": [1024, 2048, 3072], "json_size": [100] * 3, "frames": [17] * 3}
        pq.write_table(pa.table(columns | changes), folder / "index.parquet")
        return folder

    assert check_shards(index(), source, tmp_path / "docs").success
    with pytest.raises(GateFailed, match="the shards in") as e:
        check_shards(
            index(
                key=[IDS[0], IDS[1], "f" * 32],
                size=[100, 0, 100],
                json_size=[100, 4000, 1],
                tar=["a.tar", "a.tar", "b.tar"],
            ),
            source,
            tmp_path / "docs2",
        )
    found = {f.expectation.split(" ")[0]: f.samples for f in e.value.report.failed}
    assert found == {"in_catalog": ["f" * 32], "in_tar": [IDS[1], "f" * 32], "size": [IDS[1]]}
