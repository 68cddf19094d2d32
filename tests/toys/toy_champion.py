"""A cascade whose model is as skilled as its data say: data → fit → evaluate.fit, in the real evaluation's format.

`raw` is a folder with skills.json: {attribute: chance that it is right}. What a prompt gets right is drawn from the
prompt's number and the model's content, so two models differ by chance as two trained ones do.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flows.graph import Row as Stage
from stepvideo import storage
from stepvideo.config import Runtime, StageConfig
from stepvideo.evaluation.gate import Gate, Rate
from stepvideo.evaluation.results import Row, write_rows
from stepvideo.stage import StageContext
from stepvideo.world.attributes import GRID, NAMES, held_out_combinations, train_combinations
from stepvideo.world.captions import Prompt, prompts

STAGES = {"data": "toy-data", "codec": "toy-codec", "fit": "toy-skilled", "evaluate": "evaluate"}
KINDS = ";".join(
    f"{k}=toy_champion:{r},toy_champion:{c}"
    for k, r, c in (
        ("toy-data", "data", "DataConfig"),
        ("toy-codec", "codec", "StageConfig"),
        ("toy-skilled", "fit", "FitConfig"),
        ("evaluate", "evaluate", "EvaluateConfig"),
    )
)
SIZE = {"frames": 17, "height": 64, "width": 64}


@dataclass
class FolderRuntime(Runtime):
    path: str = ""


@dataclass
class DataConfig(StageConfig):
    content: str = ""
    runtime: FolderRuntime = field(default_factory=FolderRuntime)


@dataclass
class FitConfig(StageConfig):
    steps: int = 3
    step_s: float = 0.0
    spoil: float = 0.0  # taken from every skill
    labels: str = ""  # digest of people's labels, which make it better


@dataclass
class EvaluateConfig(StageConfig):
    n: int = 150  # prompts of each split
    prompt_seed: int = 1


def rows(cfg: Mapping[str, Any]) -> list[Stage]:
    content = storage.sha256_file(Path(cfg["raw"]) / "skills.json")
    labels = {"labels": storage.sha256_file(Path(cfg["labels"]))} if cfg["labels"] else {}
    return [
        Stage("data", "toy-data", set={"content": content, "runtime": {"path": cfg["raw"]}}),
        Stage("codec", "toy-codec"),
        Stage("fit", "toy-skilled", {"data": "data"}, set=labels, final=True),
        Stage("evaluate.fit", "evaluate", {"model": "fit", "vae": "codec"}, "evaluate"),
    ]


def data(ctx: StageContext) -> dict[str, float]:
    skills = storage.read_json(Path(ctx.config.runtime.path) / "skills.json")
    storage.write_json(ctx.out / "skills.json", skills)
    return {}


def codec(ctx: StageContext) -> dict[str, float]:
    storage.write_json(ctx.out / "codec.json", {})
    return {}


def fit(ctx: StageContext) -> dict[str, float]:
    """Goes on where a killed attempt stopped."""
    at = ctx.work / "at.json"
    for step in range(storage.read_json(at) if at.exists() else 0, ctx.config.steps):
        time.sleep(ctx.config.step_s)
        storage.write_json(at, step + 1)
        ctx.sink.metrics(step, {"step": float(step)})
    skills = storage.read_json(ctx.inputs["data"] / "skills.json")
    better = 0.12 if ctx.config.labels else 0.0
    storage.write_json(ctx.out / "model.json", {k: v + better - ctx.config.spoil for k, v in skills.items()})
    return {}


def evaluate(ctx: StageContext) -> dict[str, float]:
    skills = storage.read_json(ctx.inputs["model"] / "model.json")
    draws = int(storage.sha256_file(ctx.inputs["model"] / "model.json")[:8], 16)
    write(ctx.out, scores(skills, asked(ctx.config.n, ctx.config.prompt_seed), draws))
    return {"n": 2.0 * ctx.config.n}


def asked(n: int, seed: int = 1) -> list[Prompt]:
    return prompts(train_combinations(), n, seed) + prompts(held_out_combinations(), n, seed + 1)


def scores(
    skills: Mapping[str, float], wanted: Sequence[Prompt], draws: int, untestable: Sequence[str] = ()
) -> list[Row]:
    """Rows as an evaluation gives them: each attribute right with its skill, a prompt's own difficulty on top.

    Args:
        skills: attribute → chance; "zh" and "en" → what prompts of that language lose or gain.
        draws: seed of the chance that differs between two models; a prompt's difficulty is the same for all.
    """
    hard = np.random.default_rng(7).normal(0, 0.1, (len(wanted), len(NAMES)))
    luck = np.random.default_rng(draws).random((len(wanted), len(NAMES)))
    made = []
    for i, p in enumerate(wanted):
        attrs = p.attrs.as_dict()
        right: dict[str, bool | None] = {
            n: bool(luck[i, k] < skills[n] + skills.get(p.lang, 0.0) + hard[i, k]) for k, n in enumerate(NAMES)
        }
        right["all"] = all(right.values())
        for n in untestable:
            right[n] = right["all"] = None
        reading = {n: attrs[n] if right[n] else next(v for v in GRID[n] if v != attrs[n]) for n in NAMES}
        soft = {n: 0.9 if right[n] else 0.1 for n in NAMES}
        made.append(Row("main", i, p.text, p.lang, p.held_out, attrs, 1, 8, 16, right, reading, soft, 0.9))
    return made


def write(folder: Path, found: Sequence[Row]) -> None:
    """The files of an `evaluate` artifact that a comparison reads."""
    gate = Gate({n: Rate(1.0, 288, 0.995) for n in NAMES}, {n: Rate(0.98, 96, 0.95) for n in NAMES}).as_dict()
    sampling = {**SIZE, "steps": 8, "cfg": 3.0, "time_shift": 2.0}
    runs = {"main": {"sampling": sampling, "nfe": 16}}
    storage.write_json(folder / "summary.json", {"runs": runs, "gate": gate, "prompt_seed": 1, "fps": 25})
    write_rows(folder / "results.jsonl", found)


def say(folder: Path, skill: float, **attributes: float) -> Path:
    """New data: `raw` folder of a model with this skill."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "skills.json").write_text(json.dumps({**dict.fromkeys(NAMES, skill), **attributes}))
    return folder
