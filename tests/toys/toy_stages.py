"""A cascade of three stages that runs in a second: noise → fit → score. Found by jobs through PYTHONPATH."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from dataclasses import dataclass

from stepvideo.config import StageConfig
from stepvideo.errors import Preempted, StepVideoError
from stepvideo.stage import StageContext

STAGES = {"noise": "toy-noise", "fit": "toy-fit", "score": "toy-score"}
KINDS = ";".join(
    f"{k}=toy_stages:{r},toy_stages:{c}"
    for k, r, c in (
        ("toy-noise", "noise", "NoiseConfig"),
        ("toy-fit", "fit", "FitConfig"),
        ("toy-score", "score", "ScoreConfig"),
    )
)


@dataclass
class NoiseConfig(StageConfig):
    count: int = 32


@dataclass
class FitConfig(StageConfig):
    steps: int = 20
    lr: float = 0.1
    step_s: float = 0.0  # time a step takes
    fail_at: int = -1  # step at which it fails, in every attempt
    user_error: bool = False  # … with an error that no retry mends
    kill_at: int = -1  # step at which it kills itself, in the first attempt only
    preempt_at: int = -1  # step at which it is asked to stop, in the first attempt only
    fill: int = 0  # bytes to write
    deaf: bool = False  # to requests to stop

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr is {self.lr}; give more than 0")


@dataclass
class ScoreConfig(StageConfig):
    offset: float = 0.0


def rows(cfg):
    from flows.graph import Row

    return [
        Row("noise", "toy-noise"),
        Row("fit", "toy-fit", {"data": "noise"}),
        Row("score", "toy-score", {"model": "fit", "data": "noise"}, final=True),
    ]


def noise(ctx: StageContext) -> dict[str, float]:
    rng = random.Random(ctx.config.seed)
    values = [rng.gauss(3, 1) for _ in range(ctx.config.count)]
    (ctx.out / "values.json").write_text(json.dumps(values))
    return {"count": len(values)}


def fit(ctx: StageContext) -> dict[str, float]:
    """Gradient descent on a mean, saved every step; goes on where a killed attempt stopped."""
    if ctx.rank:
        return {}
    c = ctx.config
    values = json.loads((ctx.inputs["data"] / "values.json").read_text())
    checkpoint = ctx.work / "state.json"
    state = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"step": 0, "mean": 0.0}
    first = not (ctx.work / "began").exists()
    (ctx.work / "began").touch()
    for step in range(state["step"], c.steps):
        time.sleep(c.step_s)
        if step == c.fail_at:
            raise StepVideoError("the user erred") if c.user_error else RuntimeError("the machine erred")
        if first and step == c.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if first and step == c.preempt_at:
            os.kill(os.getpid(), signal.SIGTERM)
        mean = state["mean"] - c.lr * 2 * (state["mean"] - values[step % len(values)])
        state = {"step": step + 1, "mean": mean}
        tmp = checkpoint.with_suffix(".tmp")
        tmp.write_text(json.dumps(state))
        tmp.replace(checkpoint)
        ctx.sink.metrics(step, {"mean": mean})
        ctx.sink.progress(step + 1, c.steps, "step")
        if ctx.should_stop() and not c.deaf:
            raise Preempted
    (ctx.out / "model.json").write_text(json.dumps(state))
    if c.fill:
        (ctx.out / "big").write_bytes(bytes(c.fill))
    return {"mean": state["mean"], "ranks": float(ctx.world_size)}


def score(ctx: StageContext) -> dict[str, float]:
    values = json.loads((ctx.inputs["data"] / "values.json").read_text())
    mean = json.loads((ctx.inputs["model"] / "model.json").read_text())["mean"]
    error = abs(mean - sum(values) / len(values)) + ctx.config.offset
    (ctx.out / "score.json").write_text(json.dumps(error))
    return {"error": error}
