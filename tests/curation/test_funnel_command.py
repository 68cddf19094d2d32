"""`stepvideo funnel`: other thresholds on a catalog that is there."""

from __future__ import annotations

import argparse
import json
import time

import pytest
from test_curation_subsets import catalog
from test_side_tables import table

from stepvideo import storage
from stepvideo.cli import main
from stepvideo.curation import funnel_command
from stepvideo.curation.config import SubsetsConfig
from stepvideo.data.clips import load_catalog
from stepvideo.errors import ConfigError, StepVideoError


def funnel(capsys, *argv: str) -> dict:
    parser = argparse.ArgumentParser()
    funnel_command.add_arguments(parser)
    assert funnel_command.call(parser.parse_args([str(a) for a in (*argv, "--json")])) == 0
    return json.loads(capsys.readouterr().out)


def test_thresholds_replace_the_default_ones_and_add_to_them(tmp_path, capsys):
    root = catalog(tmp_path / "c")
    ids = [c.clip_id for c in load_catalog(root) if c.kind == "clip"]
    table(tmp_path / "tags/tables/text.parquet", ids, text_area=[i / len(ids) for i in range(len(ids))])
    plain = funnel(capsys, root, "--none")
    assert [level["left"] for level in plain["levels"]] == [plain["base"]["candidates"]] * 6
    found = funnel(capsys, root, "text_area<=0.5", "motion_mean>=50%", "--tables", tmp_path / "tags")
    names = [s["filter"] for s in found["levels"][0]["filters"]]
    assert names == [f.name for f in SubsetsConfig().filters] + ["text_area ≤"]
    motion = next(s for s in found["levels"][0]["filters"] if s["filter"] == "motion_mean ≥")
    assert motion["removed_alone"] == pytest.approx(plain["base"]["candidates"] / 2, abs=1)
    alone = funnel(capsys, root, "text_area<=0.5", "--none", "--tables", tmp_path / "tags", "--svg", tmp_path / "f.svg")
    assert (tmp_path / "f.svg").read_text().startswith("<svg")
    said = [c.clip_id for c in load_catalog(root) if c.kind == "clip" and c.caption_source == "sidecar"]
    kept = sum(ids.index(i) / len(ids) <= 0.5 for i in said)
    assert alone["levels"][0]["left"] == alone["levels"][5]["left"] == kept


def test_the_table_for_people_has_the_same_numbers(tmp_path, capsys):
    root = catalog(tmp_path / "c")
    levels = funnel(capsys, root)["levels"]
    lines = funnel_command.table({"clips": 3}, levels).splitlines()
    last = [line.split() for line in lines if line.startswith("s")]
    assert [int(words[-1]) for words in last[1:]] == [level["left"] for level in levels]


@pytest.mark.parametrize("text", ["motion_mean", "motion_mean>0.1", "a>=1,2", "a>=x", "a>=10%,1,1,1,1,1", "a>=120%"])
def test_what_is_no_threshold_is_refused(text):
    with pytest.raises(ConfigError, match="is no threshold"):
        funnel_command.rule(text)


def test_an_unknown_tag_is_named(tmp_path, capsys):
    with pytest.raises(StepVideoError, match="no tag 'motions' in the catalog; it has .*motion_mean"):
        funnel(capsys, catalog(tmp_path / "c"), "motions>=1")


def test_ten_thousand_clips_take_seconds(tmp_path, capsys):
    root = catalog(tmp_path / "c", n=10_000)
    started = time.process_time()
    funnel(capsys, root)
    assert time.process_time() - started < 5


def test_a_store_is_enough_and_options_may_stand_anywhere(tmp_path, capsys):
    store = tmp_path / "store"
    root = catalog(store / "curate" / "k" / "out")
    ids = [c.clip_id for c in load_catalog(root) if c.kind == "clip"]
    table(store / "tags/k/out/tables/text.parquet", ids, text_area=[0.5] * len(ids))
    for kind, inputs in (("curate", {}), ("tags", {"curate": {"digest": "d-curate"}})):
        about = {"kind": kind, "stage": kind, "key": "k", "digest": f"d-{kind}", "inputs": inputs}
        storage.write_json(store / kind / "k" / "manifest.json", about)
    assert main(["funnel", str(store), "--none", "--uncaptioned", "--json", "text_area<=0.4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["base"]["candidates"] == len(ids) and found["levels"][0]["left"] == 0
