"""The votes table: round trips, and refusals that name file, line, column, value and fix."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepvideo.errors import ArtifactError
from stepvideo.evaluation.votes import SCALES, Vote, read_votes, split, write_votes

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8).map(str.strip)
NAMES = WORDS.filter(bool)


@st.composite
def votes(draw) -> Vote:
    kind = draw(st.sampled_from(["compare", "prefer", "rate"]))
    skipped = draw(st.sampled_from(["", "", "video does not play"]))
    answer = {}
    if not skipped and kind == "rate":
        answer = {scale: draw(st.integers(1, 5)) for scale in SCALES}
    elif not skipped:
        answer = {"outcome": draw(st.sampled_from([1, 0, -1]))}
    return Vote(
        study=draw(WORDS),
        kind=kind,
        item=draw(NAMES),
        prompt_id=draw(NAMES),
        annotator=draw(NAMES),
        prompt=draw(WORDS),
        note=draw(WORDS),
        dwell_s=draw(st.one_of(st.none(), st.floats(0, 1e6))),
        shown_left=draw(st.sampled_from(["", "a", "b"])),
        time=draw(st.sampled_from(["", "2026-11-22T01:30:00+00:00"])),
        expected=draw(st.sampled_from([None, 0, 1])),
        skipped=skipped,
        **answer,
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(votes(), max_size=6, unique_by=lambda v: (v.item, v.annotator)), st.sampled_from([".csv", ".jsonl"]))
def test_what_is_written_is_read(tmp_path_factory, rows, suffix):
    path = tmp_path_factory.mktemp("v") / f"votes{suffix}"
    write_votes(path, rows)
    assert read_votes(path) == split(rows)
    first = path.read_bytes()
    write_votes(path, rows)
    assert path.read_bytes() == first


def _vote(**changes) -> Vote:
    base = {"study": "s", "kind": "compare", "item": "i", "prompt_id": "p", "annotator": "x", "outcome": 1}
    return Vote(**{**base, **changes})


def test_skipped_rows_are_apart_and_only_votes_count():
    rows = [_vote(), _vote(item="g", role="gold", expected=0, outcome=0), _vote(outcome=None, skipped="no sound")]
    found = split(rows)
    assert found.answers == rows[:2] and found.skipped == rows[2:] and found.counted() == rows[:1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"outcome": None}, "outcome is missing"),
        ({"outcome": 2}, "outcome=2: give one of 1, 0, -1"),
        ({"outcome": 1, "skipped": "dark"}, "empty one of the two"),
        ({"motion_smoothness": 3}, "a row of kind compare has none"),
        ({"kind": "rate"}, "outcome=1: a row of kind rate has none"),
        ({"kind": "rate", "outcome": None, **dict.fromkeys(SCALES, 3), "aesthetic_appeal": 6}, "aesthetic_appeal=6"),
        ({"kind": "rate", "outcome": None, "motion_smoothness": 3}, "instruction_following is missing"),
        ({"kind": "elo"}, "kind='elo'"),
        ({"role": "extra"}, "role='extra'"),
        ({"shown_left": "left"}, "shown_left='left'"),
        ({"annotator": ""}, "annotator is empty"),
        ({"time": "yesterday"}, "time='yesterday'"),
        ({"dwell_s": float("nan")}, "dwell_s=nan"),
    ],
)
def test_a_vote_refuses_what_it_cannot_mean(changes, words):
    with pytest.raises(ValueError, match=words):
        _vote(**changes)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("v.csv", "kind,item,prompt_id,annotator,outcome\ncompare,i,p,x,won\n", "line 2, column outcome: 'won'"),
        ("v.csv", "kind,item,prompt_id,annotator,outcome\ncompare,i,p,x,\n", "line 2: outcome is missing"),
        ("v.csv", "kind,item,prompt_id,annotator,winner\ncompare,i,p,x,1\n", "column 'winner'"),
        ("v.csv", "kind,item,prompt_id,outcome\ncompare,i,p,1\n", "no column 'annotator'"),
        ("v.csv", "kind,item,prompt_id,annotator,outcome\ncompare,i,p\n", "line 2 ends before 'annotator'"),
        ("v.csv", "kind,item,prompt_id,annotator,outcome\ncompare,i,p,x,1,2\n", "line 2 has more cells"),
        ("v.csv", "kind,item,prompt_id,annotator,outcome\n" + "compare,i,p,x,1\n" * 2, "line 3.*line 2 already"),
        ("v.jsonl", '{"kind": "compare"\n', "line 1 is not JSON"),
        ("v.jsonl", "[1]\n", "give one object a vote"),
        ("v.txt", "", "give votes as .csv"),
    ],
)
def test_reading_names_file_line_column_and_value(tmp_path, name, text, words):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ArtifactError, match=words) as e:
        read_votes(path)
    assert str(path) in str(e.value)


def test_tables_that_passed_through_a_spreadsheet_are_read(tmp_path):
    path = tmp_path / "v.csv"
    path.write_bytes("\ufeffkind, item,prompt_id,annotator,outcome\r\ncompare,i,p,x,-1.0\r\n".encode())
    assert read_votes(path).answers == [_vote(study="", outcome=-1)]
