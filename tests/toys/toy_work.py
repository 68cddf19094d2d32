"""A stage that looks like a training to who watches it: busy, logging its steps, saving now and then."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from stepvideo.config import StageConfig
from stepvideo.errors import Preempted
from stepvideo.stage import StageContext


@dataclass
class WorkConfig(StageConfig):
    steps: int = 40
    step_s: float = 0.0
    busy: float = 0.1  # share of a step
    save_every: int = 8  # steps
    name: str = ""  # changes nothing


def work(ctx: StageContext) -> dict[str, float]:
    """Add up the steps' numbers; goes on at the last checkpoint."""
    c = ctx.config
    saved = ctx.work / "state.json"
    state = json.loads(saved.read_text()) if saved.exists() else {"step": 0, "sum": 0}
    for step in range(state["step"], c.steps):
        until = time.thread_time() + c.step_s * c.busy
        while time.thread_time() < until:
            pass
        time.sleep(c.step_s * (1 - c.busy))
        state = {"step": step + 1, "sum": state["sum"] + step}
        ctx.sink.metrics(step, {"sum": state["sum"]})
        ctx.sink.progress(step + 1, c.steps, "step")
        if ctx.should_stop() or (step + 1) % c.save_every == 0:
            tmp = saved.with_suffix(".tmp")
            tmp.write_text(json.dumps(state))
            tmp.replace(saved)
            ctx.sink.event("checkpoint", step=step + 1, held_s=0.0, total_s=0.0)
        if ctx.should_stop():
            raise Preempted
    (ctx.out / "sum.json").write_text(json.dumps(state["sum"]))
    return {"sum": state["sum"]}
