"""People's labels: out as tasks, back as answers, decided by the stated rule, and in force where SFT sets are drawn."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepvideo.cli import main
from stepvideo.curation import subsets
from stepvideo.curation.captioning import alignment
from stepvideo.curation.config import SubsetsConfig
from stepvideo.curation.labelling import stage
from stepvideo.curation.labelling.adjudicate import adjudicate, agreement
from stepvideo.curation.labelling.config import LabelsConfig, LabelsRuntime
from stepvideo.curation.labelling.questions import FAIL, PASS, QUESTIONS, SLOTS, UNSURE, Vote, pseudonym
from stepvideo.curation.labelling.table import read_labels, write_labels
from stepvideo.curation.records import clip_schema, files_schema, write_table
from stepvideo.curation.views import connect
from stepvideo.data.captions import caption_schema, load_captions, load_sources
from stepvideo.data.clips import load_ids
from stepvideo.data.video_io import read_video, write_video
from stepvideo.errors import ArtifactError
from stepvideo.storage import checksums, sha256_file

CLIPS = 6


def name(i: int) -> str:
    return f"{i:032x}"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Cropped windows of one file, with English captions, the first five of them in sft_1."""
    root = tmp_path_factory.mktemp("labels")
    frames = np.repeat(np.arange(60, 240, 3, dtype=np.uint8), 48 * 64 * 3).reshape(60, 48, 64, 3)
    write_video(root / "curate" / "media" / "a.mp4", frames, 10.0)
    rows = [
        dict.fromkeys(clip_schema().names)
        | {"clip_id": name(i), "kind": "clip", "file": "media/a.mp4", "first_frame": 10 * i, "frames": 10}
        | {"height": 48, "width": 32, "fps": 10.0, "crop": [16, 0, 32, 48], "captions": "{}"}
        | {"caption_source": "none", "source_role": "raw", "source_file": "a.mp4", "tag_blur": float(i)}
        | {"source_start": 10 * i, "source_end": 10 * i + 10}
        for i in range(CLIPS)
    ]
    write_table(rows, clip_schema(), root / "curate" / "catalog.parquet")
    write_table([], files_schema(), root / "curate" / "files.parquet")
    blank = dict.fromkeys(caption_schema().names) | {"language": "en", "source": "vlm", "flags": []}
    said = [blank | {"clip_id": name(i), "kind": "short", "text": f"clip, {i}\nsecond line"} for i in range(CLIPS)]
    said += [blank | {"clip_id": name(0), "kind": "short", "text": "a variant"}]
    said += [blank | {"clip_id": name(0), "kind": "title", "text": "a title"}]
    write_table(said, caption_schema(), root / "captions" / "captions.parquet")
    seen = pa.table({"clip_id": [name(i) for i in range(CLIPS)], "captions": pa.array([1] * CLIPS, pa.int32())})
    seen = seen.append_column("sources", pa.array([["vlm"]] * CLIPS))
    pq.write_table(seen, root / "captions" / "clips.parquet")
    (root / "captions" / "tables").mkdir()
    (root / "subsets").mkdir()
    pq.write_table(alignment.table([name(0)], [], "", "none"), root / "captions" / "tables" / "alignment.parquet")
    pq.write_table(pa.table({"clip_id": [name(i) for i in range(5)]}), root / "subsets" / "sft_1.parquet")
    return {role: root / role for role in ("curate", "captions", "subsets")}


def export(places: dict[str, Path], out: Path, *more: str) -> int:
    options = ["--subsets", str(places["subsets"]), "--captions", str(places["captions"]), "--out", str(out)]
    return main(["label", "export", str(places["curate"]), *options, *more])


@pytest.fixture(scope="module")
def tasks(places: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tasks")
    assert export(places, out) == 0
    return out


def rows(tasks: Path) -> list[dict[str, str]]:
    with (tasks / "tasks.csv").open(encoding="utf-8-sig", newline="") as f:
        return list(csv.DictReader(f))


def filled(tasks: Path, path: Path, said: list[dict[str, str]]) -> Path:
    """tasks.csv with answers: {"clip": number, …} each; other rows stay as they are."""
    found = {r["clip_id"]: r for r in rows(tasks)}
    for answer in said:
        found[name(int(answer["clip"]))] |= {k: v for k, v in answer.items() if k != "clip"}
    with path.open("w", encoding="utf-8", newline="") as f:
        writer = csv.DictWriter(f, list(rows(tasks)[0]))
        writer.writeheader()
        writer.writerows(found.values())
    return path


def good(clip: int, annotator: str = "Ann", **more: str) -> dict[str, str]:
    return {"clip": str(clip), "annotator": annotator} | dict.fromkeys(QUESTIONS, PASS) | more


def imported(tasks: Path, out: Path, *answers: Path, **options: object) -> int:
    more = [o for k, v in options.items() for o in (f"--{k}", str(v))]
    return main(["label", "import", *map(str, answers), "--tasks", str(tasks), "--out", str(out), *more])


def test_tasks_show_the_clip_as_training_reads_it(tasks: Path) -> None:
    found = json.loads((tasks / "tasks.json").read_text(encoding="utf-8"))
    assert [t["data"]["clip_id"] for t in found] == [name(i) for i in range(5)]
    third = found[2]["data"]
    assert third["current_short_en"] == "clip, 2\nsecond line" and third["current_dense_zh"] == ""
    assert "blur 2" in third["tags"] and third["video"] == f"media/{name(2)}.mp4"
    film = read_video(tasks / "media" / f"{name(2)}.mp4")
    assert film.shape == (10, 48, 32, 3) and abs(float(film[0].mean()) - (60 + 3 * 20)) < 4
    assert rows(tasks)[2]["current_short_en"] == third["current_short_en"]
    interface = ElementTree.fromstring((tasks / "label_config.xml").read_text(encoding="utf-8"))
    assert {c.get("name") for c in interface.iter("Choices")} == set(QUESTIONS)
    texts = {t.get("name"): t.get("value") for t in interface.iter("TextArea")}
    assert texts["dense_zh"] == "$current_dense_zh" and set(texts) == {*SLOTS, "note"}
    assert interface.find("Video").get("value") == "$video"  # type: ignore[union-attr]


def test_answers_become_one_table(tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = [good(0, short_en="a better caption"), good(1, watermark=FAIL), good(2, motion=UNSURE), good(3, clarity="")]
    csv_file = filled(tasks, tmp_path / "ann.csv", said)
    assert imported(tasks, tmp_path / "labels.parquet", csv_file) == 0
    out = capsys.readouterr().out
    assert "4 of 5 clips labelled by 1 people, 1 rows without an answer" in out
    assert "1 approved, 1 rejected, 2 open" in out and f"open: {name(2)}: motion: nobody is sure" in out
    labels = read_labels(tmp_path / "labels.parquet")
    assert [r["approved"] for r in labels] == [True, False, None, None]
    assert labels[0]["corrected"] == {"short_en": "a better caption"} and labels[1]["watermark_ok"] is False
    assert labels[0]["votes"][0]["annotator"] == pseudonym(" ann") and "Ann" not in str(labels)
    first = checksums(tmp_path)["labels.parquet"]
    assert imported(tasks, tmp_path / "labels.parquet", csv_file) == 0
    assert checksums(tmp_path)["labels.parquet"] == first


def test_label_studio_comes_back_the_same(tasks: Path, tmp_path: Path) -> None:
    made = json.loads((tasks / "tasks.json").read_text(encoding="utf-8"))

    def answer(verdict: str, by: object, text: str, **more: object) -> dict:
        result = [{"from_name": q, "type": "choices", "value": {"choices": [verdict]}} for q in QUESTIONS]
        result += [{"from_name": "short_en", "type": "textarea", "value": {"text": [text]}}]
        return {"completed_by": by, "result": result, **more}

    unchanged = made[0]["data"]["current_short_en"]
    made[0]["annotations"] = [answer(PASS, {"email": "ann@x.org"}, unchanged), answer(FAIL, 7, "", was_cancelled=True)]
    made[1]["annotations"] = [answer(PASS, 7, "un chat")]
    for task in made[2:]:
        task["annotations"] = []
    (tmp_path / "export.json").write_text(json.dumps(made), encoding="utf-8")
    assert imported(tasks, tmp_path / "labels.parquet", tmp_path / "export.json") == 0
    labels = read_labels(tmp_path / "labels.parquet")
    assert [r["approved"] for r in labels] == [True, True]
    assert [r["corrected"] for r in labels] == [{}, {"short_en": "un chat"}]
    assert labels[0]["votes"][0]["annotator"] == pseudonym("ann@x.org")


def test_what_cannot_be_used_is_named_by_row(tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = [good(0, motion="maybe"), good(1, annotator=""), good(2)]
    one, two = filled(tasks, tmp_path / "one.csv", said), filled(tasks, tmp_path / "two.csv", [good(2)])
    two.write_text(two.read_text(encoding="utf-8").replace(name(3), "f" * 32, 1).replace(name(3), "x"))
    text = two.read_text(encoding="utf-8").replace("\r\n", "\n").splitlines(keepends=True)
    two.write_text("".join(text) + ",".join(["e" * 32, *[""] * (len(rows(tasks)[0]) - 2), "a note"]) + "\n")
    assert imported(tasks, tmp_path / "labels.parquet", one, two) == 2
    err = capsys.readouterr().err
    assert "4 answers cannot be used" in err and not (tmp_path / "labels.parquet").exists()
    assert f"{one} row 2: motion is 'maybe'; give pass, fail, unsure" in err
    assert f"{one} row 3: there is no annotator" in err
    assert f"{two} row 4: Ann answered for clip {name(2)} in {one} row 4 already" in err
    assert f"{two} row 7: clip '{'e' * 32}' is not among the 5 that were asked for" in err
    (tmp_path / "no.csv").write_text("clip,who\n")
    assert imported(tasks, tmp_path / "labels.parquet", tmp_path / "no.csv") == 2
    assert "no column annotator, clip_id" in capsys.readouterr().err
    (tmp_path / "min.json").write_text('[{"clip_id": "x"}]')
    assert imported(tasks, tmp_path / "labels.parquet", tmp_path / "min.json") == 2
    assert "JSON-MIN will not do" in capsys.readouterr().err


def test_two_who_disagree_leave_it_open_until_a_third_or_an_adjudicator_decides(
    places: dict[str, Path], tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ann = filled(tasks, tmp_path / "ann.csv", [good(0), good(1, short_en="one"), good(2)])
    bob = filled(tasks, tmp_path / "bob.csv", [good(0, "Bob", clarity=FAIL), good(1, "Bob", short_en="two")])
    eve = filled(tasks, tmp_path / "eve.csv", [good(0, "Eve"), good(1, "Eve", short_en="two"), good(2, "Eve")])
    out = tmp_path / "labels.parquet"

    def decided(*files: Path, **options: object) -> list[tuple[bool | None, str]]:
        assert imported(tasks, out, *files, **options) == 0
        return [(r["approved"], r["decided"]) for r in read_labels(out)]

    assert decided(ann, bob) == [(None, "open"), (None, "open"), (True, "agreed")]
    said = capsys.readouterr().out
    assert f"open: {name(0)}: clarity: {ann} row 2, {bob} row 2 differ" in said
    assert f"open: {name(1)}: short_en: {ann} row 3, {bob} row 3 differ" in said
    assert "clarity 0.50, aesthetics 1.00" in said
    assert export(places, tmp_path / "open", "--open", str(out)) == 0
    assert [r["clip_id"] for r in rows(tmp_path / "open")] == [name(0), name(1)]
    assert decided(ann, bob, least=2) == [(None, "open")] * 3
    assert decided(bob, least=2) == [(None, "open")] * 2
    assert decided(ann, bob, eve) == [(True, "majority"), (True, "agreed"), (True, "agreed")]
    assert read_labels(out)[1]["corrected"] == {"short_en": "two"}
    assert decided(ann, bob, adjudicator="bob") == [(False, "adjudicated"), (True, "adjudicated"), (True, "agreed")]
    assert read_labels(out)[1]["corrected"] == {"short_en": "two"}
    assert imported(tasks, out, ann, adjudicator="nobody") == 2
    assert "no answer by that name" in capsys.readouterr().err


verdicts = st.fixed_dictionaries({}, optional=dict.fromkeys(QUESTIONS, st.sampled_from([PASS, FAIL, UNSURE])))


@given(st.lists(verdicts, min_size=1, max_size=5))
def test_the_rule_holds_for_any_votes(given_votes: list[dict[str, str]]) -> None:
    votes = [Vote("c", f"a{i}", v, where=f"row {i}") for i, v in enumerate(given_votes)]
    (label,) = adjudicate(votes)
    for question in QUESTIONS:
        said = [v.verdicts.get(question) for v in votes]
        more = (said.count(PASS) > said.count(FAIL)) - (said.count(PASS) < said.count(FAIL))
        assert label.verdicts[question] is {1: True, 0: None, -1: False}[more]
    passed = set(label.verdicts.values())
    assert label.approved is (False if False in passed else None if None in passed else True)
    assert bool(label.why) == (label.approved is None) == (label.decided == "open")
    assert adjudicate(reversed(votes))[0].verdicts == label.verdicts
    (alone,) = adjudicate([*votes, Vote("c", "chief", dict.fromkeys(QUESTIONS, FAIL))], {"chief"})
    assert alone.approved is False and alone.decided == "adjudicated"
    assert all(share is None or 0 <= share <= 1 for share in agreement(votes).values())


def test_corrections_win_wherever_captions_are_read(places: dict[str, Path], tmp_path: Path, context) -> None:
    votes = [
        Vote(name(0), "a", dict.fromkeys(QUESTIONS, PASS), {"short_en": "better"}),
        Vote(name(1), "a", dict.fromkeys(QUESTIONS, FAIL)),
        Vote(name(2), "a", {}, {"dense_zh": "一只猫"}),
    ]
    path = tmp_path / "labels.parquet"
    write_labels(adjudicate(votes), path)
    config = LabelsConfig(content=sha256_file(path), runtime=LabelsRuntime(path=str(path)))
    given = {"curate": places["curate"], "captions": places["captions"]}
    ctx = context("labels", config, **given)
    metrics = stage.run(ctx)
    counts = {k: metrics[k] for k in ("labelled", "approved", "rejected", "open", "corrected")}
    assert counts == {"labelled": 3, "approved": 1, "rejected": 1, "open": 1, "corrected": 2}
    said = load_captions(ctx.out)
    assert said[name(0)] == {"short": {"en": ["better"]}, "title": {"en": ["a title"]}}
    assert said[name(2)]["dense"] == {"zh": ["一只猫"]} and said[name(1)] == load_captions(places["captions"])[name(1)]
    assert load_sources(ctx.out)[name(0)] == {"human", "vlm"} and len(said) == CLIPS
    seen = pq.read_table(ctx.out / "clips.parquet").to_pylist()
    assert (seen[0]["captions"], seen[0]["sources"]) == (2, ["human", "vlm"])
    options = SubsetsConfig(min_frames=5, filters=[], caption_sources=["vlm"], sft_sets=1, images=False, frames=False)
    chosen = context("subsets", options, curate=places["curate"], captions=ctx.out)
    assert subsets.run(chosen)["s6"] == CLIPS and load_ids(chosen.out / "sft_1.parquet") == [name(0)]
    unlabelled = context("unlabelled", options, **given)
    assert subsets.run(unlabelled)["sft"] == CLIPS
    stale = LabelsConfig(content="0", runtime=LabelsRuntime(path=str(path)))
    with pytest.raises(ArtifactError, match="is not the table that this run was planned with"):
        stage.run(context("stale", stale, **given))
    write_labels(adjudicate([Vote("f" * 32, "a", {})]), path)
    config = LabelsConfig(content=sha256_file(path), runtime=LabelsRuntime(path=str(path)))
    with pytest.raises(ArtifactError, match=f"1 clips that the catalog has not, such as {'f' * 32}"):
        stage.run(context("strange", config, **given))
    with pytest.raises(ArtifactError, match="stepvideo label import"):
        read_labels(places["curate"] / "catalog.parquet")


def test_its_columns_join_the_catalog(places: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "tags" / "tables" / "labels.parquet"
    write_labels(adjudicate([Vote(name(1), "a", dict.fromkeys(QUESTIONS, PASS))]), path)
    query = "SELECT clip_id FROM clips WHERE approved AND motion_ok AND len(votes) = 1"
    found = connect(places["curate"], tables=[tmp_path / "tags"]).execute(query).fetchall()
    assert found == [(name(1),)]
