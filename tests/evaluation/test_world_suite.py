"""The suite of hard cases: what it asks for, its truth, and what the metrics say of that truth."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from stepvideo.cli import main
from stepvideo.errors import ConfigError
from stepvideo.evaluation.metrics.base import Asked, measure
from stepvideo.evaluation.metrics.registry import metrics_of
from stepvideo.evaluation.suites.schema import read, write
from stepvideo.evaluation.suites.world import CATEGORIES, RARE, truth, world_suite
from stepvideo.world.attributes import Attrs, is_held_out, rare_combinations

SUITE = world_suite(16, seed=1)
ENCODERS = Path(__file__).parents[2] / "weights" / "text"


def test_categories_are_equal_in_size_and_rows_say_their_truth(tmp_path):
    write(tmp_path / "s.jsonl", SUITE)
    assert read(tmp_path / "s.jsonl") == SUITE and world_suite(16, seed=1).digest == SUITE.digest
    assert Counter(p.category for p in SUITE.prompts) == dict.fromkeys(CATEGORIES, 16)
    assert SUITE.languages == ["zh", "en"] and world_suite(16, seed=2).digest != SUITE.digest
    for p in SUITE.prompts:
        assert ("event" in p.aux) == (p.category != RARE) and p.licence
        if p.aux.get("frequency") in ("never", "seldom"):
            attrs = Attrs.from_dict(p.aux["attrs"])
            assert is_held_out(attrs) == (p.aux["frequency"] == "never")
            assert (attrs in rare_combinations()) == (p.aux["frequency"] == "seldom")
    for wrong in ({"wording": "other"}, {"per_category": 3}):
        with pytest.raises(ConfigError):
            world_suite(**wrong)


def test_sequences_come_in_twins_of_one_object_in_both_orders():
    rows = [p for p in SUITE.prompts if p.category == "action_sequence"]
    for a, b in zip(rows[::2], rows[1::2], strict=True):
        assert a.aux["attrs"] == b.aux["attrs"] and a.dimensions == b.dimensions[::-1] and a.en != b.en
    assert len({p.dimensions for p in rows}) == 8


def test_the_metrics_give_full_marks_to_the_truth_and_none_to_another_row_s():
    metrics = metrics_of(["oracle", "events"])
    named = {"event": 0, "objects": 0, "oracle_all": 0}
    for number, p in enumerate(SUITE.prompts):
        asked = Asked(p.en, "en", p.category, p.dimensions, p.aux)
        found = measure(truth(p, number, 64, 17), 25, asked, metrics).values
        for name in named:
            if found[name] is not None:
                assert found[name] == 1, (p.id, name)
                named[name] += 1
        if p.category == "action_sequence":
            other = SUITE.prompts[number ^ 1]
            found = measure(truth(other, number ^ 1, 64, 17), 25, asked, metrics).values
            assert found["event"] == 0 and found["oracle_all"] == 1  # the right object, in the wrong order
    assert named == {"event": 48, "objects": 4, "oracle_all": 60}


def test_other_rows_have_no_score_and_a_reason():
    video = np.zeros((4, 64, 64, 3), np.uint8)
    (events,) = metrics_of(["events"])
    found = measure(video, 25, Asked("a dog"), [events])
    assert set(found.values.values()) == {None} and "hard case" in found.reasons["event"]
    event = next(p for p in SUITE.prompts if "event" in p.aux)
    found = measure(video, 25, Asked(event.en, aux=event.aux), [events])
    assert found.values["event"] is None and "frames" in found.reasons["event"]


def test_command(tmp_path, capsys):
    out = tmp_path / "hard.jsonl"
    assert main(["suite", "world", "--out", str(out), "--per-category", "4", "--truth", str(tmp_path / "t")]) == 0
    assert "evaluate videos" in capsys.readouterr().out
    assert len(read(out).prompts) == 16 and len(list((tmp_path / "t").glob("*.mp4"))) == 16
    assert (tmp_path / "t" / "manifest.jsonl").exists()


@pytest.mark.parametrize(("wording", "code"), [("known", 0), ("natural", 1)])
def test_the_shipped_encoders_spell_the_known_wording_only(tmp_path, capsys, wording, code):
    args = ["suite", "world", "--out", str(tmp_path / "s.jsonl"), "--wording", wording, "--text", str(ENCODERS)]
    assert main([*args, "--json"]) == code
    found = json.loads(capsys.readouterr().out)
    hard = {"action_sequence": 40, "bouncing": 40, "falling": 40}
    assert found["unspelled_zh"] == (hard if code else {}) and found["unspelled_en"] == {}
