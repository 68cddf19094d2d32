"""Other tools get tasks that name nothing, and give back what they were given; what a format cannot hold is named."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_study import NAMES, session, study

from stepvideo.errors import StepVideoError
from stepvideo.evaluation.votes import SCALES, Vote
from stepvideo.preference.config import CHOICES
from stepvideo.preference.exchange import key, labelstudio, plain, videoalign
from stepvideo.preference.exchange.form import Answer, lost
from stepvideo.preference.quality import shown_answer

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12)
NAME = st.text("abcxyz._-", min_size=1, max_size=6)
TASKS = key.tasks(study(), key.entries(study()))
SAME_FOLDER = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def answer_lists(draw: st.DrawFn) -> list[Answer]:
    """Answers of all forms, in the order of the tasks, as tools write them."""
    found = []
    for task in TASKS:
        for who in draw(st.lists(NAME, max_size=2, unique=True)):
            form = draw(st.sampled_from(["choice", "scores", "labels", "skipped"]))
            more: dict[str, object] = {"dwell_s": draw(st.floats(0, 1e4)), "time": "2026-11-22T01:30:00Z"}
            if form == "choice":
                more["choice"] = draw(st.sampled_from(CHOICES))
            elif form == "scores":
                more["scores"] = draw(st.fixed_dictionaries({s: st.integers(1, 5) for s in SCALES}))
            elif form == "labels":
                label = TEXT.filter(bool)
                more["labels"] = draw(st.fixed_dictionaries({"clarity": st.just("pass"), "dense_zh": label}))
            else:
                more["skipped"] = draw(TEXT.filter(bool))
            found.append(Answer(task.task, who, **more))  # type: ignore[arg-type]
    return found


@given(answers=answer_lists())
@SAME_FOLDER
def test_plain_tables_hold_everything(tmp_path: Path, answers: list[Answer]) -> None:
    path = tmp_path / "answers.csv"
    path.write_text(plain.answered(TASKS, answers), encoding="utf-8", newline="")
    assert plain.read(path) == answers and lost(answers, plain.UNHELD) == {}


@given(answers=answer_lists(), pairwise=st.booleans())
@SAME_FOLDER
def test_label_studio_holds_all_but_what_is_named(tmp_path: Path, answers: list[Answer], pairwise: bool) -> None:
    path = tmp_path / "export.json"
    path.write_text(labelstudio.answered(TASKS, answers, pairwise), encoding="utf-8")
    found = labelstudio.read(path)
    differ = [a for a, b in zip(answers, found, strict=True) if a != b]
    unheld = labelstudio.UNHELD_PAIRWISE if pairwise else labelstudio.UNHELD
    assert sum(lost(answers, unheld).values()) == len(differ)
    assert all(a.skipped or (pairwise and a.choice in ("tie", "both_bad")) for a in differ)


def test_tasks_are_blind_and_their_sides_balanced(tmp_path: Path) -> None:
    made = study(votes=40, golds=4, alike=4, repeats=0.1)
    session(made, tmp_path)
    rows = key.entries(made)
    given_tasks = key.tasks(made, rows)
    key.place_media(made, tmp_path, rows, tmp_path / "out" / "media")
    said = (
        labelstudio.tasks(given_tasks) + plain.tasks(given_tasks) + "".join(p.name for p in tmp_path.rglob("out/**/*"))
    )
    for secret in (*NAMES, "/x/", "i000", "gold", "p1-0", *(s.media for i in made.items for s in (i.a, i.b) if s)):
        assert secret not in said
    assert len({m for t in given_tasks for m in t.media}) == 2 * len(given_tasks)  # also the two sides of an A/A pair
    lefts = [e.left for e in rows if e.role != "repeat"]
    assert abs(lefts.count("a") - lefts.count("b")) <= 1
    again = {e.item: e.left for e in rows if e.role == "repeat"}
    assert len(again) == 4 and all(e.left != again[e.item] for e in rows if e.role == "vote" and e.item in again)
    first = next(e for e in rows if e.role == "aa")
    shown = [(tmp_path / "out" / "media" / key.media_name(made, first, slot)).read_bytes().decode() for slot in (0, 1)]
    truth = made.by_id[first.item]
    assert truth.b and shown == (
        [truth.a.media, truth.b.media] if first.left == "a" else [truth.b.media, truth.a.media]
    )
    assert key.entries(made) == rows != key.entries(made, name="second")
    assert not {e.role for e in key.entries(made, only=["i00003"])} - {"vote"}


def test_answers_become_blind_votes_on_the_sides_that_were_shown(tmp_path: Path) -> None:
    made = study(repeats=0.2)
    rows = key.entries(made, name="ls")
    key.save_key(tmp_path, "ls", rows)
    entries = key.load_key(tmp_path, "ls")
    answers = [Answer(e.task, "w", choice="left", dwell_s=3.0) for e in rows]
    found = key.votes(made, entries, answers, "ls.json")
    assert {shown_answer(v) for v in found} == {"left"} and not any(v.model_a or v.model_b for v in found)
    assert {v.expected for v in found if v.role == "gold"} == {1} and {v.expected for v in found if v.role == "aa"} == {
        0
    }
    assert all(v.item == f"{v.repeat_of}-repeat" for v in found if v.role == "repeat")
    bad = key.votes(made, entries, [Answer(rows[0].task, "w", choice="both_bad")], "ls.json", simulated=True)[0]
    assert (bad.outcome, bad.note, bad.simulated) == (0, "both bad", "true")
    wrong = [Answer("nowhere", "w", choice="left"), answers[0], answers[0], Answer(rows[1].task, "w", choice="up")]
    with pytest.raises(StepVideoError, match=r"3 answers(.|\n)*nowhere(.|\n)*already(.|\n)*up"):
        key.votes(made, entries, wrong, "ls.json")


def test_rated_videos_come_back_with_their_scores(tmp_path: Path) -> None:
    made = study("rate", repeats=0.0)
    rows = key.entries(made)
    scores = dict(zip(SCALES, (5, 4, 3, 2), strict=True))
    (tmp_path / "x.csv").write_text(plain.answered(key.tasks(made, rows), [Answer(rows[0].task, "w", scores=scores)]))
    found = key.votes(made, {e.task: e for e in rows}, plain.read(tmp_path / "x.csv"), "x.csv")
    assert found[0].scores == scores and found[0].kind == "rate" and found[0].shown_left == ""


@pytest.mark.parametrize(
    ("kind", "pairwise"), [("compare", False), ("prefer", True), ("rate", False), ("label", False)]
)
def test_the_interface_shows_what_the_tasks_have(kind: str, pairwise: bool) -> None:
    made = study(kind)
    root = ElementTree.fromstring(labelstudio.interface(kind, SCALES, pairwise))
    data = json.loads(labelstudio.tasks(key.tasks(made, key.entries(made))))[0]["data"]
    asked = {e.get("value", "")[1:] for e in root.iter() if e.get("value", "").startswith("$current") is False
             and e.get("value", "").startswith("$")}  # fmt: skip
    assert asked <= set(data)
    assert len(list(root.iter("Video"))) == (2 if made.config.paired else 1)
    assert len(list(root.iter("Pairwise"))) == int(pairwise)
    assert len(list(root.iter("Rating"))) == (4 if kind == "rate" else 0)


def test_what_is_no_export_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('[{"id": 1, "choice": "left"}]')
    with pytest.raises(StepVideoError, match="JSON-MIN"):
        labelstudio.read(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(StepVideoError, match="no column annotator, task"):
        plain.read(path)
    path.write_text("INPUT:task,annotator,OUTPUT:choice\nt,w,left\nu,,\n")
    assert plain.read(path) == [Answer("t", "w", choice="left")]


def test_videoalign_tables_go_both_ways(tmp_path: Path) -> None:
    path = tmp_path / "va.csv"
    path.write_text(
        "path_A,path_B,prompt,VQ,MQ,TA,fps_A,num_frames_A\n"
        'v/1.mp4,v/2.mp4,"a cat, asleep",A,same,B,24,49\nv/1.mp4,v/3.mp4,一只猫,B,A,same,24,49\n'
    )
    votes = videoalign.read(path)
    assert [v.outcome for v in votes] == [1, 0, -1, -1, 1, 0] and votes[0].study == "videoalign:VQ"
    path.write_text(videoalign.write(votes, videoalign.files, fps=24.0, frames=49))
    assert videoalign.read(path) == votes and videoalign.lost(votes) == {}
    own = [Vote("s", "compare", "i1", "p1", "w", "a dog", outcome=1, category="Animals", shown_left="a", dwell_s=3.0)]
    path.write_text(videoalign.write(own, lambda v: ("a.mp4", "b.mp4")))
    assert "a.mp4,b.mp4,a dog,,,,A," in path.read_text()
    assert videoalign.lost(own) == {"category": 1, "dwell time": 1, "side shown": 1}
    path.write_text("path_A,path_B,prompt,VQ\na,b,c,left\n")
    with pytest.raises(StepVideoError, match="line 2, VQ: 'left'"):
        videoalign.read(path)
