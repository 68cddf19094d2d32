"""Every notebook runs as it lies there, and what it stores and says is what the code gives now."""

from __future__ import annotations

import importlib.util
import json
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
NAMES = (
    "what-does-the-vae-keep",
    "how-does-flow-matching-draw-a-video",
    "what-does-semu-say-about-table-2",
    "what-did-each-training-step-change",
    "is-the-difference-between-two-models-real",
)


@cache
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebooks_tool", ROOT / "scripts" / "notebooks.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stored(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def run(name: str) -> dict[str, Any]:
    """The answer of the present code, which must be the stored one."""
    now = tool().cleaned(tool().execute(FOLDER / f"{name}.ipynb", timeout_s=500))
    assert len(tool().pictures(now)) == 1
    found = tool().answer(now)
    assert tool().differences(tool().answer(stored(name)), found) == []
    return found


def test_there_are_five_and_the_page_names_each() -> None:
    assert sorted(p.stem for p in FOLDER.glob("*.ipynb")) == sorted(NAMES)
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"({name}.ipynb)" in page for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_is_short_and_shows_one_picture_of_its_own_code(name: str) -> None:
    found = stored(name)
    assert len(found.cells) <= 12
    assert found.cells[0].cell_type == "markdown" and found.cells[0].source.splitlines()[0].endswith("?")
    (picture,) = tool().pictures(found)
    assert 5_000 < len(picture) <= tool().MOST_PICTURE
    assert found.metadata["stepvideo"]["code"] == tool().code_digest(found), "edited since it was run"
    assert tool().cleaned(found) == stored(name), "run scripts/notebooks.py: outputs are stored clean"


def test_vae() -> None:
    said = run("what-does-the-vae-keep")
    assert said["fewer_numbers"] == 136
    psnr = said["psnr"]
    assert min(psnr["plain"], psnr["gradient"]) > 30 > 25 > max(psnr["stripes"], psnr["checks"])
    assert all(share >= 0.9 for share in said["read_right"].values())


def test_flow_matching() -> None:
    said = run("how-does-flow-matching-draw-a-video")
    possible = said["clips_possible"]
    assert possible[0] == 12 and possible[-1] == 1 and possible == sorted(possible, reverse=True)
    assert 1.5 < possible[2] < 11.5, "the picture shows the decision, not only its ends"
    assert said["error_of_the_mean"] < 0.01, "one step from noise leads to the mean of the clips"
    distance = said["distance_by_steps"]
    assert distance["1"] > 0.3 and distance["16"] < 0.001
    assert said["drawn"] == {"colour": "red", "shape": "circle", "direction": "right"}


def test_table_2() -> None:
    said = run("what-does-semu-say-about-table-2")
    assert said["bars_met"] and said["mae"] < 0.15 and said["loo_mae"] < 0.30 and said["exact"] == 8
    assert said["adopted"]["report_estimate"] == 35.59 and abs(said["adopted"]["ours"] - 35.59) < 0.35


def test_training_steps() -> None:
    said = run("what-did-each-training-step-change")
    data = json.loads((FOLDER / "data" / "stages.json").read_text(encoding="utf-8"))
    names = list(data["models"])
    assert said["prompts"] == len(data["prompts"]) >= 100 and list(said["right"]) == names
    assert len(said["change"]) == len(said["verdicts"]) == len(names) - 1
    assert set(said["verdicts"]) <= {"better", "worse", "no change shown"}
    for (change, low, high), verdict in zip(said["change"], said["verdicts"]):
        assert low <= change <= high
        assert verdict != "better" or low > 0
        assert verdict != "worse" or high < 0
    means = [sum(said["right"][n].values()) / len(said["right"][n]) for n in names]
    for before, after, (change, _, _) in zip(means, means[1:], said["change"]):
        assert abs(after - before - change) < 0.002
    assert all(
        m["source"]["git_sha"] and m["source"]["command"].startswith("stepvideo ") for m in data["models"].values()
    )


def test_difference() -> None:
    said = run("is-the-difference-between-two-models-real")
    assert said["wrong_by_prompt"] <= 0.09 < 0.14 < said["wrong_by_video"]
    assert said["found_by_prompt"] > 0.9 and abs(said["power"] - 0.8) < 0.05
    assert said["score"] < said["score_without_ties"], "ties left out flatter the winner"
    assert said["verdicts"] == ["no difference shown", "preferred"]


def test_what_is_stored_is_compared_and_cleaned(tmp_path: Path) -> None:
    differences = tool().differences
    assert differences({"a": 1.0, "b": [2, "x"]}, {"a": 1.001, "b": [2, "x"]}) == []
    assert differences({"a": 1.0}, {"a": 1.2}) == ["answer.a: 1.0 stored, 1.2 now"]
    assert differences({"a": 1}, {"b": 1}) == ["answer: a, b on one side only"]
    assert differences([2, 3], [2]) == ["answer: 2 values stored, 1 now"]
    assert differences({"a": True}, {"a": 1}) == ["answer.a: True stored, 1 now"]

    def shows(*outputs: Any) -> Any:
        cell = nbformat.v4.new_code_cell("x", outputs=list(outputs))
        return nbformat.v4.new_notebook(cells=[cell])

    stream = nbformat.v4.new_output
    joined = tool().cleaned(shows(stream("stream", text='{"a":'), stream("stream", text=" 1}\n")))
    assert tool().answer(joined) == {"a": 1}
    for bad in (
        stream("stream", name="stderr", text="a warning"),
        stream("stream", text=f"{ROOT}/weights"),
        stream("display_data", data={"image/png": "A" * 300_000}),
    ):
        with pytest.raises(ValueError, match="cell-01"):
            tool().cleaned(shows(bad))


def test_a_changed_answer_is_told_and_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    cell = nbformat.v4.new_code_cell("print('{\"a\": 2}')")
    cell.outputs = [nbformat.v4.new_output("stream", text='{"a": 1}\n')]
    path = tmp_path / "one.ipynb"
    path.write_text(nbformat.writes(nbformat.v4.new_notebook(cells=[cell])), encoding="utf-8")
    before = path.read_bytes()
    monkeypatch.setattr(tool(), "FOLDER", tmp_path)
    assert tool().main(["--check"]) == 1
    assert "answer.a: 1 stored, 2 now" in capsys.readouterr().out
    assert path.read_bytes() == before
    with pytest.raises(SystemExit):
        tool().main(["two"])
    assert sys.modules.get("notebooks_tool") is None, "a script leaves nothing behind"
