"""Fifty losses of a debug T2VI model, kept in a text file: one process and two must reproduce them.

A change that is meant to change training writes the file anew:

    STEPVIDEO_WRITE_GOLDEN=1 python -m pytest tests/training/test_golden_losses.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from killed_stages import Forks
from latent_cache import CLIPS, DIT, TRAIN, fake_cache

from stepvideo.config import dump, load
from stepvideo.fingerprint import fingerprint
from stepvideo.stage import InputRef, StageSpec, kind
from stepvideo.training.config import TrainConfig

GOLDEN = Path(__file__).parent / "golden" / "t2vi_losses.txt"
STEPS = 50
CONFIG = {
    **TRAIN,
    "dit": {**DIT, "num_layers": 2},
    "steps": STEPS,
    "subset": "s1",
    "media": "joint",
    "balance": {"batch_size": 2, "packs": 2, "video_to_image": 1.5},
    "optim": {"name": "adamw", "lr": 3e-3, "warmup": 5, "decay": "cosine", "ema": 0.9},
    "runtime": {**TRAIN["runtime"], "checkpoint_every": 1000},
}


@pytest.fixture(scope="module")
def varied(tmp_path_factory) -> Path:
    """Three lengths of video and images, each in three aspects: all twelve buckets."""
    sizes = ("32x48", "48x32", "32x32")
    return fake_cache(tmp_path_factory.mktemp("varied") / "cache", lengths=(17, 34, 51), low=sizes, clips=CLIPS)


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_losses_are_the_golden_ones(tmp_path, varied, subsets, ranks):
    rows = train(tmp_path, varied, subsets, ranks)
    if ranks == 1 and os.environ.get("STEPVIDEO_WRITE_GOLDEN"):
        lines = [f"{step} {loss:.6f} {norm:.6f}\n" for step, loss, norm in rows]
        GOLDEN.write_text("# step loss grad_norm of tests/training/test_golden_losses.py\n" + "".join(lines))
    wanted = [tuple(map(float, line.split())) for line in GOLDEN.read_text().splitlines() if line[0] != "#"]
    assert [step for step, *_ in rows] == [step for step, *_ in wanted] == list(range(STEPS))
    assert wanted[-1][1] < 0.8 * wanted[0][1], "the golden run itself does not learn"
    # other processors add in another order; a wrong batch, mask or schedule moves losses by far more
    assert [loss for _, loss, _ in rows] == pytest.approx([loss for _, loss, _ in wanted], rel=2e-4)
    assert [norm for _, _, norm in rows] == pytest.approx([norm for _, _, norm in wanted], rel=2e-3)


def train(folder: Path, cache: Path, subsets: Path, ranks: int) -> list[list[float]]:
    """[step, loss, gradient norm] of a run through `stepvideo.job`."""
    for name, where in (("latents", cache), ("subsets", subsets)):
        (folder / name / "k").mkdir(parents=True)
        (folder / name / "k" / "out").symlink_to(where)
    config = dump(load(TrainConfig, {**CONFIG, "runtime": {**CONFIG["runtime"], "nproc": ranks}}))
    inputs = {name: InputRef(name, "k", "d") for name in ("latents", "subsets")}
    code = fingerprint(kind("train").run.split(":")[0])
    spec = StageSpec("train", "train", "key", config, inputs, str(folder), code)
    spec.write(folder / "train" / "key" / "spec.json")
    assert set(Forks(folder / "train" / "key").codes()) == {0}
    return json.loads((folder / "train" / "key" / "out" / "loss_curve.json").read_text())["rows"]
