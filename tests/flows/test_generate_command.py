"""`stepvideo generate`, as typed: one prompt, a file of prompts, folders in the released layout, JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from flows.generate import _largest
from stepvideo.cli import main
from stepvideo.diffusion.sampling import Sampling
from stepvideo.errors import ConfigError
from stepvideo.inference.arguments import add_arguments, parallel_of
from stepvideo.inference.outputs import read_made_by
from stepvideo.inference.requests import Request

PROMPT = "一个红色的大圆向右移动"


@pytest.fixture
def run(tiny_models, capsys):
    def call(*args: str) -> tuple[int, str, str]:
        code = main(["generate", *args, "--model", str(tiny_models), "--device", "cpu", "--steps", "2"])
        return code, *capsys.readouterr()

    return call


def test_one_prompt(run, tmp_path, tiny_models):
    """Without any store: a folder of weights needs none."""
    args = ("--preview", "gif", "--fps", "8", "--cfg", "1", "--store", str(tmp_path / "nowhere"))
    code, out, _ = run(PROMPT, "--out", str(tmp_path / "a.mp4"), *args)
    assert code == 0 and "2 steps, 2 evaluations" in out and "next: the same with --seed 1 --out" in out
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


def test_a_file_of_one_prompt(run, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a red circle", "num_frames": 1}')
    code, out, _ = run("--prompts", str(tmp_path / "p.jsonl"), "--out", str(tmp_path / "out"))
    assert code == 0 and "1 frame of 32x32" in out and "next:" not in out
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["0001-a-red-circle.png"]


def test_the_largest_video_counts_the_defaults():
    """One small request must not hide that another takes the model's size."""
    wanted = [Request("a", Path("a"), options={"num_frames": 17, "width": 2000}), Request("b", Path("b"))]
    assert _largest(wanted, Sampling()) == {"frames": 204, "height": 544, "width": 2000}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "give one prompt"),
        (["a", "--prompts", "p.txt", "--out", "x"], "give one prompt"),
        (["a"], "give --out"),
        (["a", "--out", "a.mp4", "--videos", "0"], "--videos 0"),
        (["a", "--out", "a.mp4", "--videos", "2"], "several videos need a folder"),
        (["a", "--out", "."], "is a folder"),
        (["a", "--out", "红" * 90], "too long for the name of a file"),
        (["--prompts", "none.txt", "--out", "new"], "none.txt cannot be read"),
        (["a", "--videos", "2", "--out", "/dev/null/x"], "cannot be made"),
        (["a red circle", "--out", "a.mp4", "--preset", "pro"], "preset='pro'"),
        (["a red circle", "--out", "a.mp4", "--fps", "nan"], "fps=nan"),
        (["a red circle", "--out", "a.mp4", "--seed", str(2**64)], "63 bits"),
        (["a red circle", "--out", "a.mp4", "--vae", "/dev"], "/dev holds no vae/"),
        (["a red circle", "--out", "a.mp4", "--vae", "/none", "--store", "."], "/none does not exist; give a folder"),
        (["--plan", "--gpus", "nan"], "--gpus nan"),
        (["a red circle", "--out", "a.mp4", "--image", "none.png"], "text-to-video model: give no image"),
    ],
)
def test_mistakes(run, args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*args)
    assert code == 2 and message in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("args", "degrees"),
    [
        ([], (1, 1, 1)),
        (["--nproc", "4"], (1, 2, 2)),
        (["--nproc", "4", "--cfg", "1"], (1, 4, 1)),
        (["--nproc", "3"], (1, 3, 1)),
        (["--nproc", "4", "--tensor", "4"], (4, 1, 1)),
        (["--ulysses", "2", "--cfg-ranks", "2"], (1, 2, 2)),
    ],
)
def test_ranks_share_guidance_then_tokens(args, degrees):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    config = parallel_of(parser.parse_args(["a red circle", *args]))
    assert (config.tensor, config.ulysses, config.cfg) == degrees


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--nproc", "0"], "--nproc 0: give 1 or more"),
        (["--tensor", "0"], "parallel.tensor=0"),
        (["--nproc", "3", "--tensor", "2"], "is 2; make them equal"),
    ],
)
def test_impossible_ranks(args, message):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(ConfigError, match=message):
        parallel_of(parser.parse_args(["a red circle", *args]))
