"""Evaluations made without a model: rendered truth, wrong in known ways, so that a report has something to show."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from stepvideo import storage
from stepvideo.data.show import enlarge
from stepvideo.data.video_io import write_video
from stepvideo.evaluation.gate import SEED, Gate, Rate
from stepvideo.evaluation.results import Row, write_rows
from stepvideo.world.attributes import GRID, NAMES, held_out_combinations, train_combinations
from stepvideo.world.captions import prompts
from stepvideo.world.config import RenderConfig
from stepvideo.world.render import render

N = 40  # prompts of each split


def write_evaluation(
    folder: Path,
    skill: float,
    runs: dict[str, tuple[int, int]] | None = None,
    untestable: tuple[str, ...] = (),
    videos: int = 4,
    seed: int = 1,
) -> Path:
    """An `evaluate` artifact of a model that gets an attribute right with probability `skill`.

    Args:
        runs: run → (steps, nfe); fewer steps are made a little less skilful.
        untestable: attributes below the gate.
    """
    asked = prompts(train_combinations(), N, 1) + prompts(held_out_combinations(), N, 2)
    runs = runs or {"main": (16, 32)}
    look = RenderConfig(size=64, frames=17)
    rows, found = [], {}
    for k, (name, (steps, nfe)) in enumerate(runs.items()):
        rng = np.random.default_rng([seed, k])
        latents = []
        for i, prompt in enumerate(asked):
            attrs = prompt.attrs.as_dict()
            level = skill if steps > 8 else skill - 0.15
            right: dict[str, bool | None] = {n: bool(rng.random() < level) for n in NAMES}
            reading = {n: attrs[n] if right[n] else next(v for v in GRID[n] if v != attrs[n]) for n in NAMES}
            sample = ""
            if i % N < videos:
                sample = f"samples/{name}/{i:04d}.mp4"
                made = type(prompt.attrs)(**reading)
                video = render(made, (SEED, i), look, allow_held_out=True)
                write_video(folder / sample, enlarge(video), 25, crf=18)
            right["all"] = all(right.values())
            for n in untestable:
                right[n] = right["all"] = None
            soft = {n: 0.9 if reading[n] == attrs[n] else 0.1 for n in NAMES}
            latents.append(np.full((3, 4, 2, 2), i % 7 + (0.1 if steps > 8 else 0.5), np.float16))
            steadiness, noise = 0.9, 1
            rows.append(
                Row(
                    name, i, prompt.text, prompt.lang, prompt.held_out, attrs, noise, steps, nfe, right, reading,
                    soft, steadiness, sample,
                )
            )  # fmt: skip
        size = {"frames": 17, "height": 64, "width": 64}
        found[name] = {"sampling": {**size, "steps": steps, "cfg": 3.0, "time_shift": 2.0}, "nfe": nfe}
        (folder / "latents").mkdir(parents=True, exist_ok=True)
        save_file({"latents": np.stack(latents)}, folder / "latents" / f"{name}.safetensors")
    truth = {n: Rate(1.0, 288, 0.995) for n in NAMES}
    coded = {n: Rate(0.4 if n in untestable else 0.98, 96, 0.95) for n in NAMES}
    gate = Gate(truth, coded).as_dict()
    storage.write_json(folder / "summary.json", {"runs": found, "gate": gate, "prompt_seed": 1, "fps": 25})
    write_rows(folder / "results.jsonl", rows)
    return folder


def write_curve(folder: Path, steps: int, level: float, name: str = "loss_curve.json") -> Path:
    rng = np.random.default_rng(steps)
    rows = [[i, level + 1 / (1 + i / 20) + 0.05 * rng.normal(), 0.5 + abs(rng.normal())] for i in range(steps)]
    storage.write_atomic(folder / name, json.dumps({"columns": ["step", "loss", "grad_norm"], "rows": rows}))
    return folder


def write_funnels(root: Path) -> dict[str, Path]:
    """As the curate and subsets stages write them."""
    curate = {
        "files": 120, "accepted": 116, "quarantined": {"truncated": 2, "duplicate": 2}, "shots": 131,
        "dropped_shots": 4, "kinds": {"clip": 127, "image": 20, "frame": 127},
    }  # fmt: skip
    levels, left = [], 127
    for i in range(6):
        into, left = left, left - 14
        steps = [
            {"filter": "blur", "threshold": 0.1 * i, "removed_alone": 9, "removed": 9, "left": into - 9},
            {"filter": "motion", "threshold": None, "removed_alone": 6, "removed": 5, "left": left},
        ]
        levels.append({"subset": f"s{i + 1}", "into": into, "left": left, "filters": steps})
    storage.write_json(root / "curate" / "funnel.json", curate)
    storage.write_json(root / "subsets" / "funnel.json", {"base": {}, "levels": levels, "images": 90, "sft": [21, 22]})
    return {"curate": root / "curate", "subsets": root / "subsets"}


LINEAGE = [
    {"stage": "raw", "key": "aa" * 8, "digest": "11" * 32, "inputs": []},
    {"stage": "curate", "key": "bb" * 8, "digest": "22" * 32, "inputs": ["raw"]},
    {"stage": "t2i", "key": "cc" * 8, "digest": "33" * 32, "inputs": ["curate"]},
    {"stage": "evaluate.sft.1", "key": "dd" * 8, "digest": "44" * 32, "inputs": ["curate", "t2i"]},
]


@pytest.fixture(scope="session")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Inputs of a report as a whole run gives them."""
    root = tmp_path_factory.mktemp("cascade")
    inputs = write_funnels(root)
    for name, skill, runs in (
        ("t2vi_540.s6", 0.80, None),
        ("sft.1", 0.90, None),
        ("average", 0.91, None),
        ("dpo", 0.97, {"main": (16, 32), "steps8": (8, 16), "steps50": (50, 100)}),
        ("turbo", 0.99, {"main": (10, 13)}),
    ):
        inputs[f"evaluate.{name}"] = write_evaluation(root / f"evaluate.{name}", skill, runs)
    inputs["train.text"] = write_curve(
        write_curve(root / "text", 50, 1, "loss_curve.clip.json"), 60, 2, "loss_curve.llm.json"
    )
    for k, name in enumerate(
        ("vae2", "t2i", "t2vi_192.s1", "t2vi_192.s2", "t2vi_192.s3", "sft.1", "sft.2", "dpo", "turbo")
    ):
        inputs[f"train.{name}"] = write_curve(root / name, 300 + 10 * k, 0.6 - 0.04 * k)
    storage.write_json(root / "lineage" / "lineage.json", LINEAGE)
    inputs["lineage"] = root / "lineage"
    return inputs


@pytest.fixture
def evaluation() -> Callable[..., Path]:
    """Writes an evaluation: (folder, skill, runs=None, untestable=(), videos=4, seed=1) → folder."""
    return write_evaluation
