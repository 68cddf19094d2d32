"""What a closed study says, what an open one does not, and what is made of it: pairs, labels, pages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from intervals import bare, bare_cells
from made_study import NAMES, fidelity, session, study
from starlette.testclient import TestClient

from stepvideo.cli import main
from stepvideo.curation.labelling.answers import read_answers
from stepvideo.curation.labelling.questions import FAIL, PASS, QUESTIONS, SLOTS, pseudonym
from stepvideo.data.video_io import write_video
from stepvideo.errors import StepVideoError
from stepvideo.evaluation.votes import read_votes
from stepvideo.preference import labelling
from stepvideo.preference.access import Names
from stepvideo.preference.closing import close
from stepvideo.preference.pairs_table import pairs, write_pairs
from stepvideo.preference.report import SIMULATED, report, title
from stepvideo.preference.report_page import html, text
from stepvideo.preference.rules import Rules
from stepvideo.preference.server import create_app
from stepvideo.preference.session import Session
from stepvideo.preference.simulated import Annotator, crowd
from stepvideo.preference.simulated_client import Direct, Http, Judge, oracle_judge, take_part
from stepvideo.preference.table import label_rows, vote_rows
from stepvideo.world.attributes import train_combinations
from stepvideo.world.config import RenderConfig
from stepvideo.world.render import render

MIXED = {"simulated": True, "practice": 1, "raters": 3, "gold": 0.1, "aa": 0.1, "repeats": 0.1}
CROWD = [*crowd(3), Annotator("simulated-left", constant="left"), Annotator("simulated-rushed", dwell_s=0.0)]


def judge(qualities: Mapping[str, float]) -> Judge:
    """The made videos hold their own names."""
    return lambda _, film: qualities[film.decode()]


def answered(folder: Path, kind: str = "compare", votes: int = 16, **settings: object) -> Session:
    """A study that three honest annotators and two careless ones have answered."""
    made = study(kind, votes, 8, 8, **(MIXED | {"must_watch": 0.0, "raters": 5} | settings))
    found, _ = session(made, folder, [p.name for p in CROWD])
    for who in CROWD:
        take_part(Direct(found, folder, who.name), who, judge(fidelity(made)))
    return found


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Session, Path]:
    folder = tmp_path_factory.mktemp("closed")
    found = answered(folder)
    close(found, folder)
    return found, folder


def test_an_open_study_tells_quality_and_nothing_of_the_models(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    found = answered(tmp_path, votes=6)
    with pytest.raises(StepVideoError, match=r"open(.|\n)*--blind"):
        report(found, tmp_path)
    said = report(found, tmp_path, blind=True)
    shown = json.dumps(said.as_dict()) + html(said) + text(said)
    assert "results" not in said.as_dict() and not any(name in shown for name in (*NAMES, "/x/", "p1-0"))
    assert said.agreements[0].raw and {q.annotator for q in said.annotators} == {p.name for p in CROWD}
    assert main(["study", "report", str(tmp_path)]) == 2
    assert main(["study", "pairs", str(tmp_path), "--out", str(tmp_path / "p.jsonl")]) == 2
    assert "close" in capsys.readouterr().err and not (tmp_path / "p.jsonl").exists()


def test_results_stand_with_and_without_the_exclusions(closed: tuple[Session, Path]) -> None:
    said = report(*closed)
    verdicts = {q.annotator: q.verdict for q in said.annotators}
    assert verdicts.pop("simulated-left") == verdicts.pop("simulated-rushed") == "excluded"
    assert "excluded" not in verdicts.values()
    assert said.results is not None
    kept, every = (said.results.counted, said.results.every)
    scores = [found.duels[0].overall.score.score for found in (kept, every)]
    assert scores[0].value > 0.9 > scores[1].value > 0.5
    assert bare(said.as_dict()) == [] == bare_cells(html(said)) and "jackknife" in said.as_dict()["intervals"]
    assert kept.votes + said.rows["excluded"] == every.votes == 80 == said.rows["included"] + said.rows["excluded"]
    assert sum(said.excluded.values()) == said.rows["excluded"]
    assert {line.name for line in kept.duels[0].categories} == {"Food", "Sports"}
    assert said.results.decided[NAMES].wins > 13 and said.results.decisions["majority"] > 13
    agreed = [found[0].raw for found in (said.agreements, said.before)]
    assert agreed[0] and agreed[1] and agreed[0].value > agreed[1].value


def test_the_page_is_one_file_without_scripts_and_says_who_answered(closed: tuple[Session, Path]) -> None:
    page = html(report(*closed))
    assert page.count(SIMULATED) == 2 and "<script" not in page and "src=" not in page and "href=" in page
    assert "one side in a row" in page and all(name in page for name in NAMES)
    assert text(report(*closed)).startswith(f"# made: {SIMULATED}")


def test_simulated_answers_are_never_presented_as_peoples(closed: tuple[Session, Path]) -> None:
    found, folder = closed
    rows = read_votes(folder / "exports" / "votes.csv").answers
    assert rows and all(v.simulated == "true" for v in rows)
    people = [replace(v, simulated="") for v in rows]
    assert title("s", people) == "s" and "PARTLY SIMULATED" in title("s", [*people, rows[0]])
    for_people, _ = session(study(), folder / "people")
    with pytest.raises(StepVideoError, match="a study for people"):
        Direct(for_people, folder / "people", "simulated-1")


def test_other_rules_after_the_fact_are_called_so(closed: tuple[Session, Path]) -> None:
    found, folder = closed
    assert report(found, folder).fixed_before
    said = report(found, folder, rules=Rules(alpha=1e-9, watch=1e-9, min_dwell_s=0.0))
    assert not said.fixed_before and "after the study was made" in html(said) and "after the study" in text(said)


def test_the_commands_print_and_write_what_they_found(
    closed: tuple[Session, Path], capsys: pytest.CaptureFixture
) -> None:
    _, folder = closed
    page = folder / "report.html"
    assert main(["study", "report", str(folder), "--html", str(page), "--adjudicator", "simulated-1"]) == 0
    assert (
        SIMULATED in page.read_text(encoding="utf-8")
        and "teacher-model against student-model" in capsys.readouterr().out
    )
    assert main(["study", "queue", str(folder), "--json"]) == 0
    assert {"item", "why", "decided"} == set(json.loads(capsys.readouterr().out)[0])
    assert main(["study", "export", str(folder), "--to", "videoalign", "--out", str(folder / "va.csv")]) == 0
    lines = (folder / "va.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("path_A,path_B,prompt,VQ,MQ,TA,Overall") and "side shown" in capsys.readouterr().out


def test_answers_of_another_tool_join_the_studys_own(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    answered(tmp_path, votes=6)
    out = tmp_path / "out"
    assert main(["study", "export", str(tmp_path), "--to", "csv", "--out", str(out)]) == 0
    tasks = (out / "tasks.csv").read_text(encoding="utf-8-sig").splitlines()
    names = [line.split(",")[0] for line in tasks[1:] if len(line.split(",")[0]) == 32]
    answers = tmp_path / "answers.csv"
    answers.write_text("task,annotator,choice\n" + "".join(f"{n},w,tie\n" for n in names), encoding="utf-8")
    options = ["--from", "csv", "--simulated"]
    assert main(["study", "import", str(tmp_path), str(answers), *options]) == 0
    capsys.readouterr()
    assert main(["study", "report", str(tmp_path), "--blind", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {q["annotator"]: q["tie_share"]["value"] for q in said["annotators"]}["w"] == 1.0 and said["blind"]
    assert main(["study", "export", str(tmp_path), "--to", "csv", "--out", str(out)]) == 2  # the name is taken


def test_preferences_of_a_closed_study_are_pairs_for_dpo(tmp_path: Path) -> None:
    found = answered(tmp_path, "prefer", votes=12)
    close(found, tmp_path)
    out = tmp_path / "pairs.jsonl"
    assert main(["study", "pairs", str(tmp_path), "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 11 and all(r["simulated"] is True for r in rows)
    first = rows[0]
    assert (first["winner"], first["loser"], first["seed_winner"]) == ("p1-0", "p1-1", 0)
    assert first["votes"].count(1) >= 2 and first["lang"] == "zh" and first["prompt"] == "第1个"
    results = report(found, tmp_path).results
    assert results and not results.counted.duels and results.counted.votes > 12 and not results.decided
    assert "ties among the votes" in html(report(found, tmp_path))
    write_pairs(tmp_path / "none.jsonl", [])
    with pytest.raises(StepVideoError, match="kind prefer"):
        pairs(study("compare"), [])


def test_ratings_are_summed_and_compared(tmp_path: Path) -> None:
    found = answered(tmp_path, "rate", votes=12)
    close(found, tmp_path)
    said = report(found, tmp_path)
    assert said.results and said.results.counted.ratings
    assert bare(said.as_dict()) == [] == bare_cells(html(said))
    cells = said.results.counted.ratings.overall[NAMES[0]]
    kept = [v for v in vote_rows(found, tmp_path) if v.role == "vote" and v.annotator in ("simulated-1", "simulated-2")]
    assert cells["motion_smoothness"].mean.n == 36 and len(kept) == 24
    assert cells["motion_smoothness"].total > sum(v.scores["motion_smoothness"] for v in kept) > 24 * 3.5
    assert {a.question for a in said.agreements} == set(cells)
    assert {q.annotator: q.verdict for q in said.annotators}["simulated-left"] == "excluded"
    assert "Sums" in html(said) and not said.results.decisions


def test_labels_go_where_label_import_takes_them(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    captions = {s: "" for s in SLOTS} | {"dense_zh": "一只猫", "short_en": "a cat"}
    rows = [{"data": {"clip_id": f"p{n}"} | {f"current_{s}": t for s, t in captions.items()}} for n in (1, 2, 3)]
    (tasks / "tasks.json").write_text(json.dumps(rows), encoding="utf-8")
    assert main(["study", "labels", str(tmp_path / "s"), "--tasks", str(tasks), "--prompts"]) == 0
    prompts = [json.loads(line) for line in (tasks / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert prompts[0] == {"id": "p1", "zh": "一只猫", "en": "a cat"}
    made = study("label", 3, 0, simulated=True, must_watch=0.0, practice=0, repeats=0.0, raters=1)
    found, _ = session(made, tmp_path / "s", ["w"])
    take_part(Direct(found, tmp_path / "s", "w"), Annotator("w", noise=0.0), judge(fidelity(made)), most=2)
    last = found.next("w")
    for m in last["media"]:
        found.media("w", m["id"], lambda _: True)
    labels = dict.fromkeys(QUESTIONS, FAIL) | {"dense_zh": "两只猫", "note": "x"}
    found.vote("w", last["assignment"], "k", {"labels": labels}, [1.0], 5.0)
    assert main(["study", "labels", str(tmp_path / "s"), "--tasks", str(tasks)]) == 2
    close(found, tmp_path / "s")
    assert main(["study", "labels", str(tmp_path / "s"), "--tasks", str(tasks)]) == 0
    votes = read_answers([tasks / "answers.csv"], {r["data"]["clip_id"]: captions for r in rows}).votes
    given = {tuple(v.verdicts.values()) for v in votes}
    assert given == {(PASS,) * 5, (FAIL,) * 5} and {v.annotator for v in votes} == {pseudonym("w")}
    assert [dict(v.captions) for v in votes if v.captions] == [{"dense_zh": "两只猫"}]
    assert "simulated answers" in capsys.readouterr().out
    with pytest.raises(StepVideoError, match="not among the 1"):
        labelling.write(tmp_path / "a.csv", label_rows(found), {"p1"})


def test_simulated_annotators_take_part_over_http(tmp_path: Path) -> None:
    made = study("compare", 6, 1, 1, **(MIXED | {"must_watch": 0.0}))
    found, tokens = session(made, tmp_path, ["simulated-1"])
    who = crowd(1)[0]
    app, url = create_app(found, tmp_path, Names("127.0.0.1")), "http://127.0.0.1"
    with TestClient(app, base_url=url) as client:
        place = Http(url, tokens[who.name], client)
        assert take_part(place, who, judge(fidelity(made)), most=3) == 3
        rest = take_part(place, who, judge(fidelity(made)))
        with pytest.raises(StepVideoError, match="401"):
            Http(url, "wrong", client)
    rows = vote_rows(found, tmp_path)
    assert len(rows) == 3 + rest and sum(v.role == "vote" for v in rows) == 6
    assert all(v.simulated and not v.model_a for v in rows)


def test_the_oracle_judges_a_film_by_what_its_prompt_asks_for(tmp_path: Path) -> None:
    asked, other = train_combinations()[0], train_combinations()[-1]
    form = RenderConfig(size=64, frames=9, backgrounds=["plain"])
    films = []
    for n, attrs in enumerate((asked, other)):
        write_video(tmp_path / f"{n}.mp4", render(attrs, n, form), 8.0)
        films.append((tmp_path / f"{n}.mp4").read_bytes())
    see = oracle_judge({"what was asked": asked})
    right, wrong = (see({"zh": "别的", "en": "what was asked"}, film) for film in films)
    assert right > wrong + 0.2 and 0 <= wrong <= right <= 1
    with pytest.raises(StepVideoError, match="no attributes"):
        see({"en": "something else"}, films[0])
