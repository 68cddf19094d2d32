from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepvideo.curation.captions import clean, look_up, read_sidecars, title_from
from stepvideo.errors import StepVideoError

A = {"start": 0, "end": 30, "captions": {"short": {"en": ["a"]}}, "attributes": [{"colour": "red"}]}
B = {"start": 30, "end": 60, "captions": {"short": {"en": ["b"]}}, "attributes": []}


def test_the_shot_that_covers_most_of_the_clip_lends_its_captions() -> None:
    assert look_up([A, B], 3, 27, 0.5) == (A, 1.0)
    assert look_up([A, B], 20, 60, 0.5) == (B, 0.75)
    assert look_up([A, B], 25, 125, 0.5) == (None, 0.3)
    assert look_up([], 0, 10, 0.0) == (None, 0.0)


def test_sidecars_are_read_from_any_folder_and_cleaned(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    entry = {
        "file": "v/a.mp4",
        "shots": [{"start": 0, "end": 5, "captions": {"short": {"zh": "一个圆", "en": [" x ", "", "x"]}}}],
    }
    (folder / "sidecars.jsonl").write_text(json.dumps(entry) + "\n\n" + json.dumps({"file": "v/b.mp4"}) + "\n")
    found = read_sidecars(tmp_path)
    assert found["deep/er/v/a.mp4"][0]["captions"] == {"short": {"zh": ["一个圆"], "en": ["x"]}}
    assert found["deep/er/v/b.mp4"] == []


@pytest.mark.parametrize("line", ["{", "[]", '{"shots": []}', '{"file": "a", "shots": [{"start": 5, "end": 5}]}'])
def test_a_line_that_is_no_entry_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "sidecars.jsonl").write_text('{"file": "ok.mp4"}\n' + line + "\n")
    with pytest.raises(StepVideoError, match=r"sidecars\.jsonl:2"):
        read_sidecars(tmp_path)


def test_unknown_kinds_are_dropped() -> None:
    assert clean({"short": {"en": ["x"], "fr": ["y"]}, "haiku": {"en": ["z"]}}) == {"short": {"en": ["x"]}}


def test_titles_from_file_names() -> None:
    assert title_from("a/Big_Buck-Bunny.mp4") == {"title": {"en": ["Big Buck Bunny"]}}
    assert title_from("空 ünïcode.mp4") == {"title": {"zh": ["空 ünïcode"]}}
    assert title_from("000042.mp4") == {}
