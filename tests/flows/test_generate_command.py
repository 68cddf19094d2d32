"""`stepvideo generate`, as typed: one prompt, a file of prompts, folders in the released layout, JSON."""

from __future__ import annotations

import json

import pytest

from stepvideo.cli import main
from stepvideo.inference.outputs import read_made_by

PROMPT = "一个红色的大圆向右移动"


@pytest.fixture
def run(tiny_models, capsys):
    def call(*args: str) -> tuple[int, str, str]:
        code = main(["generate", *args, "--model", str(tiny_models), "--device", "cpu", "--steps", "2"])
        return code, *capsys.readouterr()

    return call


def test_one_prompt(run, tmp_path, tiny_models):
    code, out, _ = run(PROMPT, "--out", str(tmp_path / "a.mp4"), "--preview", "gif", "--fps", "8", "--cfg", "1")
    assert code == 0 and "2 steps, 2 evaluations" in out and f"next: stepvideo generate {PROMPT!r} --seed 1" in out
    made_by = read_made_by(tmp_path / "a.mp4")
    assert made_by.items() >= {"prompt": PROMPT, "model": tiny_models.name, "cfg": 1.0, "fps": 8.0, "steps": 2}.items()
    assert (tmp_path / "a.gif").exists()


def test_a_file_of_prompts_as_json(run, tmp_path):
    (tmp_path / "p.txt").write_text(f"{PROMPT}\na small blue square moves up\n", encoding="utf-8")
    args = ("--prompts", str(tmp_path / "p.txt"), "--videos", "2", "--out", str(tmp_path / "out"), "--json")
    code, out, _ = run(*args)
    rows = json.loads(out)
    assert code == 0 and [(r["prompt"], r["seed"], r["cached"]) for r in rows] == [
        (p, s, False) for p in (PROMPT, "a small blue square moves up") for s in (0, 1)
    ]
    assert sorted(r["path"] for r in rows) == sorted(str(p) for p in (tmp_path / "out").iterdir())
    assert all(r["cached"] for r in json.loads(run(*args)[1]))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "give one prompt"),
        (["a", "--prompts", "p.txt", "--out", "x"], "give one prompt"),
        (["a"], "give --out"),
        (["a", "--out", "a.mp4", "--videos", "0"], "--videos 0"),
        (["a", "--out", "a.mp4", "--videos", "2"], "several videos need a folder"),
        (["a red circle", "--out", "a.mp4", "--preset", "pro"], "preset='pro'"),
        (["a red circle", "--out", "a.mp4", "--image", "none.png"], "text-to-video model: give no image"),
    ],
)
def test_mistakes(run, args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*args)
    assert code == 2 and message in err
    assert not list(tmp_path.iterdir())
