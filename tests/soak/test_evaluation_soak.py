"""Generation and scoring of a suite, killed again and again: the folder of an undisturbed run comes out."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stepvideo import storage
from stepvideo.evaluation import manifest, scoring

pytestmark = [pytest.mark.soak]
PROMPTS = [f"一个{c}的大圆向{d}移动" for c in ("红色", "蓝色", "绿色") for d in ("右", "左")]


def start(*args: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "stepvideo.cli", *args]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def until_done(draw: random.Random, watched: Path, *args: str) -> int:
    """Kill the command some files later, at any moment between two, until it ends by itself; returns the kills."""
    kills = 0
    while True:
        process, before, enough = start(*args), files(watched), draw.randint(1, 6)
        while process.poll() is None and files(watched) < before + enough:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.1))
        if process.poll() is None:
            process.kill()
            process.wait()
            kills += 1
            continue
        assert process.stderr and process.returncode == 0, process.stderr.read().decode()
        return kills


def files(folder: Path) -> int:
    """Those that are being written, too."""
    return sum(len(names) for _, _, names in os.walk(folder))


def described(folder: Path) -> list[dict[str, object]]:
    """Rows without the commit, which changes when somebody edits the code in between."""
    rows = storage.read_json_lines(folder / manifest.MANIFEST)
    return [{k: v for k, v in row.items() if k != "commit"} for row in rows]


def test_killed_at_any_moment(tiny_models, tmp_path, capfd):
    (tmp_path / "p.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    suite = str(tmp_path / "s.jsonl")
    assert start("suite", "import", "lines", str(tmp_path / "p.txt"), "--out", suite).wait() == 0
    make = ["suite", "generate", suite, "--model", str(tiny_models), "--device", "cpu", "--seeds", "3", "--steps", "8"]
    calm, wild = tmp_path / "calm", tmp_path / "wild"
    assert start(*make, "--out", str(calm)).wait() == 0
    draw = random.Random(0)
    kills = sum(until_done(draw, wild, *make, "--out", str(wild), "--part", part) for part in ("1/2", "2/2"))
    assert described(wild) == described(calm) and manifest.status(wild)["complete"]
    score = ["evaluate", "videos", "--metrics", "flicker,picture,cuts,warp_error", "--workers"]
    assert start(*score, "1", str(calm)).wait() == 0
    more = until_done(draw, wild / scoring.CACHE, *score, "4", str(wild))
    assert storage.sha256_file(calm / "results" / "scores.jsonl") == storage.sha256_file(
        wild / "results" / "scores.jsonl"
    )
    assert kills > 2 and more > 2
    with capfd.disabled():
        print(f"\n{kills} kills while {3 * len(PROMPTS)} videos were made, {more} while they were scored")
