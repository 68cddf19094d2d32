"""`stepvideo evaluate votes` and `plan` on our own, FastChat's, VideoAlign's and unknown tables."""

from __future__ import annotations

import json

import numpy as np
import pytest
from intervals import bare, bare_cells

from stepvideo.cli import main
from stepvideo.errors import ArtifactError
from stepvideo.evaluation.votes import SCALES, Vote, write_votes
from stepvideo.evaluation.votes_import import read_any


def _study(prompts: int = 40, lead: float = 0.3, models=("new", "old", "other"), seed: int = 0) -> list[Vote]:
    """Two models meet on every prompt, three annotators vote, the earlier in the list is better."""
    rng = np.random.default_rng(seed)
    out = []
    for p in range(prompts):
        a, b = sorted(rng.choice(len(models), 2, replace=False).tolist())
        shared = lead + rng.normal(0, 0.7)
        for r in range(3):
            z = shared + rng.normal(0, 0.7)
            side = "ab"[int(rng.integers(2))]
            names = {"model_a": models[a], "model_b": models[b], "category": "sky" if p % 2 else "sea"}
            outcome = int(z > 0.3) - int(z < -0.3)
            out.append(Vote("s", "compare", f"i{p}", f"p{p}", f"r{r}", outcome=outcome, shown_left=side, **names))
    return out


def _run(capsys, *args) -> tuple[int, str]:
    code = main(["evaluate", *map(str, args)])
    said = capsys.readouterr()
    return code, said.out + said.err


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_our_own_table_gives_every_figure_with_an_interval(tmp_path, capsys, suffix):
    path, page = tmp_path / f"votes{suffix}", tmp_path / "votes.html"
    gold = Vote("s", "compare", "g", "pg", "r0", outcome=0, role="aa", expected=0, model_a="new", model_b="new")
    skipped = Vote("s", "compare", "i0", "p0", "r3", skipped="does not play")
    write_votes(path, [*_study(), gold, skipped])
    code, text = _run(capsys, "votes", path, "--json")
    found = json.loads(text)
    assert code == 0 and found["votes"] == 120 and found["left_out"] == {"aa": 1, "skipped": 1}
    assert {(d["a"], d["b"]) for d in found["duels"]} == {("new", "old"), ("new", "other"), ("old", "other")}
    for d in found["duels"]:
        for line in (d["overall"], *d["categories"], *d["annotators"]):
            score = line["score"]["score"]
            assert score["low"] < score["value"] < score["high"] or score["value"] in (0, 1)
        assert sum(c["prompts"] for c in d["categories"]) == d["overall"]["prompts"]
    assert found["ranking"]["names"][0] == "new" and bare(found) == [] and "jackknife" in found["intervals"]
    (agreement,) = found["agreements"]
    assert agreement["alpha"]["nominal"]["low"] < agreement["alpha"]["nominal"]["value"]
    code, text = _run(capsys, "votes", path, "--against", "old", "--html", page)
    assert code == 0 and "### new against old" in text and "### other against old" in text
    assert "### Agreement of annotators" in text and "Left out: 1 skipped, 1 aa." in text
    html = page.read_text()
    assert bare_cells(html) == [] and "equals tie in" in _run(capsys, "votes", path)[1]
    assert "<svg" in html and "http" not in html.replace("http-equiv", "") and "<script" not in html
    _run(capsys, "votes", path, "--against", "old", "--html", page)
    assert page.read_text() == html


def test_ratings_give_the_tables_of_metric_2(tmp_path, capsys):
    rng, path = np.random.default_rng(0), tmp_path / "r.csv"
    rows = [
        Vote("s", "rate", f"{m}{p}", f"p{p}", f"r{r}", model=m, category="sky", **dict(zip(SCALES, scores)))
        for p in range(12)
        for m in ("new", "old")
        for r in range(2)
        for scores in [rng.integers(1, 6, 4).tolist()]
    ]
    write_votes(path, rows)
    code, text = _run(capsys, "votes", path)
    assert code == 0
    for title in ("Sums: new - old", "Sums by annotator", "Means, 1 to 5", "Differences", "Agreement of annotators"):
        assert f"### {title}" in text
    sums = [f"{sum(v.scores['motion_smoothness'] for v in rows if v.model == m)}" for m in ("new", "old")]
    assert "-".join(sums) in text


def test_simulated_votes_are_called_that(tmp_path, capsys):
    path = tmp_path / "v.jsonl"
    write_votes(path, [Vote(**{**vars(v), "simulated": "true"}) for v in _study()])
    assert (
        "120 of the votes are of SIMULATED annotators; they say nothing about people." in _run(capsys, "votes", path)[1]
    )


def test_a_crowd_of_annotators_does_not_make_a_table_of_a_thousand_lines(tmp_path, capsys):
    path = tmp_path / "v.csv"
    votes = _study(60, models=("new", "old"))
    write_votes(path, [Vote(**{**vars(v), "annotator": f"r{(i // 3 + i % 3) % 60}"}) for i, v in enumerate(votes)])
    code, text = _run(capsys, "votes", path)
    assert code == 0 and "The 30 with most votes, of 60; --json has all." in text and text.count("| r") == 30
    assert len(json.loads(_run(capsys, "votes", path, "--json")[1])["duels"][0]["annotators"]) == 60


def test_fastchats_table_is_recognised(tmp_path):
    path = tmp_path / "battles.jsonl"
    lines = [
        {"question_id": "q1", "model_a": "x", "model_b": "y", "winner": "model_a", "judge": "u1", "turn": 1},
        {"question_id": "q1", "model_a": "y", "model_b": "x", "winner": "model_a", "judge": "u2", "turn": 1},
        {"question_id": "q2", "model_a": "x", "model_b": "y", "winner": "tie (bothbad)", "judge": "u1", "turn": 1},
        {"question_id": "q2", "model_a": "x", "model_b": "y", "winner": "tie", "judge": "u1", "turn": 2},
    ]
    path.write_text("".join(json.dumps(x) + "\n" for x in lines))
    found = read_any(path).answers
    assert [v.outcome for v in found] == [1, 1, 0, 0] and [v.note for v in found] == ["", "", "both bad", ""]
    assert found[0].item == found[1].item and found[2].item != found[3].item
    assert [v.annotator for v in found] == ["u1", "u2", "u1", "u1"] and found[1].model_a == "y"


def test_videoaligns_table_asks_which_dimension_is_meant(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("path_A,path_B,prompt,VQ,MQ,TA\na/1.mp4,b/1.mp4,a cat,A,B,same\na/2.mp4,b/2.mp4,a dog,B,B,A\n")
    with pytest.raises(ArtifactError, match="--column outcome=NAME, one of VQ, MQ, TA"):
        read_any(path)
    for dimension, outcomes in (("VQ", [1, -1]), ("MQ", [-1, -1]), ("TA", [0, 1])):
        found = read_any(path, {"outcome": dimension}).answers
        assert [v.outcome for v in found] == outcomes
        assert [(v.model_a, v.model_b, v.prompt_id) for v in found] == [("A", "B", "a cat"), ("A", "B", "a dog")]


@pytest.mark.parametrize(
    ("column", "values", "outcomes"),
    [
        ("Winner", ["x", "y", "Tie"], [1, -1, 0]),
        ("result", ["WIN", "loss", "draw"], [1, -1, 0]),
        ("preference", ["1", "0.5", "0"], [1, 0, -1]),
        ("vote", ["1", "0", "-1"], [1, 0, -1]),
    ],
)
def test_usual_words_and_numbers_are_understood(tmp_path, column, values, outcomes):
    path = tmp_path / "v.csv"
    rows = "".join(f"x,y,p{i},{v}\n" for i, v in enumerate(values))
    path.write_text(f"Model A,Model B,Prompt ID,{column}\n{rows}")
    assert [v.outcome for v in read_any(path).answers] == outcomes


def test_left_means_the_model_that_was_on_the_left(tmp_path):
    path = tmp_path / "v.csv"
    path.write_text("left_model,right_model,prompt,choice\nx,y,p,left\nx,y,q,right\n")
    assert [v.outcome for v in read_any(path).answers] == [1, -1]
    path.write_text("model_a,model_b,prompt,shown_left,choice\nx,y,p,b,left\nx,y,q,a,left\n")
    assert [v.outcome for v in read_any(path).answers] == [-1, 1]
    path.write_text("model_a,model_b,prompt,choice\nx,y,p,left\n")
    with pytest.raises(ArtifactError, match="'left' is no outcome that is known; add --value left=a"):
        read_any(path)


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("model_a,model_b,prompt,winner\nx,y,p,1\nx,y,q,0\n", {}, "0 and 1 alone do not say"),
        ("model_a,model_b,prompt,winner\nx,y,p,z\n", {}, "line 2, column winner: 'z' is no outcome"),
        ("model_a,model_b,prompt,winner\nx,y,p,\n", {}, "line 2, column winner: is empty"),
        ("model_a,model_b,winner\nx,y,x\n", {}, "no column names the prompt"),
        ("model_a,model_b,prompt,won\nx,y,p,x\n", {}, "which column says who won"),
        ("model_a,model_b,prompt,won\nx,y,p,x\n", {"columns": {"outcome": "wins"}}, "no column 'wins'"),
        ("model_a,model_b,prompt,won\nx,y,p,x\n", {"columns": {"colour": "won"}}, "colour is none of"),
        ("prompt," + ",".join(SCALES) + "\np,1,2,3,4\n", {}, "no column of the model"),
        (
            "model,prompt," + ",".join(SCALES) + "\nm,p,1,2,3,9\n",
            {},
            "line 2, column aesthetic_appeal: '9' is no score",
        ),
        ("model_a,prompt,winner\n", {}, "holds no vote"),
    ],
)
def test_what_is_ambiguous_is_asked_for(tmp_path, text, options, words):
    path = tmp_path / "v.csv"
    path.write_text(text)
    with pytest.raises(ArtifactError, match=words):
        read_any(path, **options)


def test_options_map_columns_and_values(tmp_path, capsys):
    path = tmp_path / "v.csv"
    path.write_text("m1,m2,q,who\n" + "".join(f"x,y,q{i},{i % 2}\n" for i in range(8)))
    columns = [f"--column={c}" for c in ("model_a=m1", "model_b=m2", "prompt_id=q", "outcome=who")]
    code, text = _run(capsys, "votes", path, *columns, "--value", "1=a", "--value", "0=b", "--json")
    assert code == 0 and json.loads(text)["duels"][0]["overall"]["tally"] == {"anybody": [4, 0, 4]}
    code, text = _run(capsys, "votes", path, "--column", "outcome")
    assert code == 2 and "--column outcome: give two names" in text
    code, text = _run(capsys, "votes", path, "--claim", "50")
    assert code == 2 and "--claim 50" in text


def test_plan_prints_prompts_and_checks_itself(capsys):
    arguments = ("plan", "--score", ".55", "--ties", ".4", "--raters", "1", "--prompts", "300")
    code, text = _run(capsys, *arguments, "--check", "--json")
    found = json.loads(text)
    assert code == 0 and found["prompts"] == 469 and found["by_raters"]["3"] < 469
    assert found["given"]["power"] == pytest.approx(0.61, abs=0.02) and found["given"]["smallest_score"] > 0.55
    assert found["simulated_power"] == pytest.approx(0.8, abs=0.03) and bare(found) == []
    assert f"({100 * found['simulated_power_low']:.1f} to" in _run(capsys, *arguments, "--check")[1]
    code, text = _run(capsys, *arguments)
    assert code == 0 and text.startswith("469 prompts with 1 annotators each")
    code, text = _run(capsys, "plan", "--score", "0.5")
    assert code == 2 and "--score=0.5: give a score" in text
