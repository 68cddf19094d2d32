"""`stepvideo compare` over runs as the cascade leaves them: what is found, what is missing, how things are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from intervals import bare, bare_cells
from made_runs import MadeRuns

from stepvideo import cli, storage

A, B, C = "20261101-120000-aaaaaa", "20261102-120000-bbbbbb", "20261103-120000-cccccc"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeRuns:
    """A: the base. B: another learning rate, a better model. C: other captions and no evaluation."""
    runs = MadeRuns(tmp_path_factory.mktemp("made"))
    runs.run(A)
    runs.run(B, lr=0.2, better=25, runtime={"threads": 4})
    runs.run(C, languages=("en",), evaluated=False, state="failed", data_md5="bb.dir")
    return runs


@pytest.fixture
def compare(made: MadeRuns, capsys: pytest.CaptureFixture[str]):
    def call(*args: str) -> dict[str, Any]:
        assert cli.main(["compare", *args, "--json", *made.at]) == 0
        return json.loads(capsys.readouterr().out)

    return call


def test_only_settings_that_differ_are_shown_and_which_of_them_matter(compare) -> None:
    found = compare(A, B)
    assert {s["key"]: (s["values"], s["decides"]) for s in found["config"]} == {
        "stages.sft.optim.lr": ([0.1, 0.2], True),
        "runtime.threads": (["(absent)", 4], False),
    }
    assert found["equal_settings"] > 5


def test_the_first_difference_is_named_and_what_follows_is_not_taken_for_one(compare) -> None:
    found = compare(A, B, C)
    first, second = found["lineage"]
    assert first["first"] == "the first difference is sft.1: optim.lr 0.1 → 0.2 (1 more by itself)"
    states = {s["stage"]: s["state"] for s in first["stages"]}
    assert states == {"raw": "equal", "captions": "equal", "sft.1": "differs", "evaluate.sft.1": "differs"}
    assert second["first"].startswith("the first difference is raw: content aa.dir → bb.dir; data_md5 aa.dir → bb.dir")
    states = {s["stage"]: (s["state"], s["why"]) for s in second["stages"]}
    assert states["captions"] == ("differs", ["languages ['zh', 'en'] → ['en']"])
    assert states["sft.1"] == ("follows", ["from captions"]) and states["evaluate.sft.1"][0] == "absent"


def test_differences_are_paired_corrected_and_judged(compare) -> None:
    found = compare(A, B)["tests"]
    tests = {(t["split"], t["measure"]): t for t in found}
    assert {m for _, m in tests} == {"colour", "direction", "size", "count", "all", "preferred by the oracle"}
    everything = tests["heldout", "all"]  # 0 of 30 prompts against 15 of 30
    assert everything["base"]["value"] == 0 and everything["other"]["value"] == 0.5
    assert everything["difference"]["value"] == 0.5 and everything["difference"]["low"] > 0.3
    assert everything["p"] == pytest.approx(2 / 2**15)
    assert everything["p_holm"] >= everything["p"] and everything["verdict"] == "higher"
    assert everything["p_holm"] == pytest.approx(len(found) * everything["p"], rel=0.7)
    train = tests["train", "all"]  # 20 of 30 against 30 of 30
    assert (train["base"]["value"], train["other"]["value"], train["verdict"]) == (pytest.approx(2 / 3), 1.0, "higher")
    back = {(t["split"], t["measure"]): t for t in compare(B, A)["tests"]}
    assert back["heldout", "all"]["verdict"] == "lower"


def test_nothing_is_found_where_nothing_is(made: MadeRuns, compare) -> None:
    made.run("20261104-120000-dddddd", lr=0.3, better=1)
    assert {t["verdict"] for t in compare(A, "dddddd")["tests"]} == {"no difference shown"}


def test_a_rate_stands_with_its_interval_or_in_a_test(compare) -> None:
    both, three = compare(A, B), compare(A, B, C)
    assert bare(both) == [] and both["rates"] == {} == three["rates"]  # the tests show them all
    assert "sft.1.loss" in both["metrics"] and not [m for m in both["metrics"] if m.startswith("evaluate.")]
    alone = compare(C, A)  # C was not evaluated: nothing is tested, and what A's evaluation found is not lost
    nothing, rate = alone["rates"]["evaluate.sft.1.main/train/all"]
    assert (nothing, rate["value"], rate["n"]) == (None, pytest.approx(2 / 3), 30) and alone["tests"] == []
    assert rate["low"] < 0.5 < rate["value"] < rate["high"] and "evaluate.sft.1.main/train/shape" not in alone["rates"]
    assert bare(alone) == []


def test_gates_that_differ_are_shown_and_damaged_ones_told(made: MadeRuns, compare) -> None:
    name = made.run("20261105-120000-eeeeee", lr=0.4, better=2)
    key = storage.read_json(made.store.root / "_runs" / name / "run.json")["stages"]["evaluate.sft.1"]["key"]
    path = made.store.dir("evaluate.sft.1", key) / "out" / "summary.json"
    summary = storage.read_json(path)
    gate = {"reconstruction": {"colour": {"rate": 0.75, "n": 96, "bar": 0.95}, "shape": {"rate": None, "n": 0}}}
    storage.write_json(path, {**summary, "gate": gate})
    found = compare(A, name)
    nothing, rate = found["rates"]["evaluate.sft.1.gate/reconstruction/colour"]
    assert nothing is None and (rate["value"], rate["n"]) == (0.75, 96) and rate["low"] < 0.7 < 0.8 < rate["high"]
    assert len(found["rates"]) == 1
    path.write_text("{")
    assert "rates of evaluate.sft.1: eeeeee: not measured" in "\n".join(compare(C, name)["missing"])
    storage.write_json(path, summary)


def test_what_is_missing_is_said(compare) -> None:
    missing = "\n".join(compare(A, B, C)["missing"])
    assert "cccccc of evaluate.sft.1: it never began" in missing
    assert "metrics of evaluate.sft.1: not measured, cccccc has no such evaluation" in missing
    assert "videos of evaluate.sft.1: cccccc has none" in missing


def test_curves_have_each_step_once_and_cost_counts_lost_attempts(compare) -> None:
    found = compare(A, B, C)
    curve = found["curves"]["sft.1"]
    assert list(curve) == ["loss", "lr"]
    assert [p[0] for p in curve["loss"][:2]] == [40, 40] and curve["loss"][0][1] == pytest.approx(1 / 5, rel=1e-5)
    cost = found["cost"]["sft.1"]
    assert cost[0] == {"seconds": 10.0, "lost": 3.0, "attempts": 2, "device_seconds": 26.0, "cached": False}
    assert found["cost"]["raw"][1]["cached"] is True
    assert found["totals"][1]["spent_device_seconds"] == 52.0 and found["totals"][1]["stages"] == 4


def test_runs_and_artifacts_by_all_their_names(made: MadeRuns, compare) -> None:
    runs = [r for r in (A, B)]
    newest = {"latest": -1, "latest~1": -2}
    known = sorted(p.name for p in (made.store.root / "_runs").iterdir())
    for name, place in newest.items():
        assert compare(A, name)["subjects"][1]["about"].startswith(f"run {known[place]}")
    assert [s["name"] for s in compare("aaaaaa", "20261102")["subjects"]] == [r[-6:] for r in runs]
    key = storage.read_json(made.store.root / "_runs" / A / "run.json")["stages"]["sft.1"]["key"]
    other = storage.read_json(made.store.root / "_runs" / B / "run.json")["stages"]["sft.1"]["key"]
    found = compare(f"sft.1/{key[:6]}", f"sft.1/{other}")
    assert [s["key"] for s in found["config"]] == ["optim.lr"]
    assert {t["verdict"] for t in found["tests"] if t["measure"] == "all"} == {"higher"}  # of the model's evaluation
    assert len(found["videos"]) == 3 and found["videos"][0]["text"] == "a red square <0>"
    mixed = compare(A, f"sft.1/{other}")
    assert "sft.1.optim.lr" in {s["key"] for s in mixed["config"]}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([A], "name two runs or artifacts"),
        ([A, "latest~99"], "latest~99"),
        (["2026", A], "ambiguous"),
        ([A, "nope"], "no artifact 'nope'"),
    ],
)
def test_wrong_names(made: MadeRuns, capsys: pytest.CaptureFixture[str], args: list[str], said: str) -> None:
    assert cli.main(["compare", *args, *made.at]) == 2
    assert said in capsys.readouterr().err


def test_the_terminal_says_it_too(made: MadeRuns, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["compare", A, B, *made.at, "--html", str(tmp_path / "page.html")]) == 0
    out = capsys.readouterr().out
    assert "the first difference is sft.1" in out and "stages.sft.optim.lr" in out and "higher" in out
    assert "single values, without intervals" in out and "What stages say of themselves" in out
    page = (tmp_path / "page.html").read_text()
    assert "<script>alert" not in page and "a red square <0>" not in page.split('type="application/json"')[0]
    assert len(list((tmp_path / "page_files").iterdir())) == 6
    assert bare_cells(page.split('type="application/json"')[0]) == [] and "rates by themselves" not in page
    assert cli.main(["compare", C, A, *made.at, "--html", str(tmp_path / "alone.html")]) == 0
    assert "66.7 % (49–81)" in capsys.readouterr().out and "66.7 % (49–81)" in (tmp_path / "alone.html").read_text()
    assert str(made.store.root) not in page.split('type="application/json"')[1]  # links are relative
