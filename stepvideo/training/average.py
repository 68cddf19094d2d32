"""Kind "average": the mean of fine-tuned models (report §8, Step-3), each taken after its gradient norm peaked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from torch import Tensor

from stepvideo import storage
from stepvideo.models.checkpoints import load_dit
from stepvideo.models.dit import DiT
from stepvideo.stage import StageContext
from stepvideo.training.config import AverageConfig
from stepvideo.training.flow import save_model


def smoothed_peak(rows: list[list[float]], width: int) -> int:
    """Step at which the running mean (over `width` steps) of the gradient norm is largest.

    Args:
        rows: [step, loss, gradient norm] of every step.
    """
    norms = torch.tensor([norm for _, _, norm in rows], dtype=torch.float64)
    width = max(1, min(width, len(norms)))
    means = norms.unfold(0, width, 1).mean(1)
    return int(rows[int(means.argmax()) + width - 1][0])


def choose(run: Path, after_peak: bool, smooth: int) -> tuple[Path, int, int]:
    """(model directory, its step, the peak's step) of one fine-tuning run.

    The snapshot with the lowest mean loss over the stretch that led to it, among those after the gradient norm's peak:
    both the norm and the loss have come down there, as the report asks. Without any after the peak: the last.
    """
    rows = json.loads((run / "loss_curve.json").read_text())["rows"]
    last = int(rows[-1][0]) + 1
    found = {int(m[1]): p for p in (run / "snapshots").glob("step-*") if (m := re.fullmatch(r"step-(\d+)", p.name))}
    found[last] = run
    peak = smoothed_peak(rows, smooth)
    steps = sorted(found)
    if not after_peak:
        return found[last], last, peak
    losses = {}
    for previous, step in zip([0, *steps], steps, strict=False):
        values = [loss for s, loss, _ in rows if previous <= s < step]
        losses[step] = sum(values) / len(values)
    candidates = [s for s in steps if s > peak] or [last]
    best = min(candidates, key=lambda s: (losses[s], -s))
    return found[best], best, peak


def mean_state(models: list[DiT]) -> dict[str, Tensor]:
    """Elementwise mean of the parameters, summed in float64."""
    states = [m.state_dict() for m in models]
    return {k: (sum(s[k].double() for s in states) / len(states)).to(states[0][k].dtype) for k in states[0]}  # type: ignore[union-attr]


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: one role a fine-tuning run (any names). Output: the averaged model, choice.json."""
    cfg: AverageConfig = ctx.config
    chosen = {role: choose(path, cfg.after_peak, cfg.smooth) for role, path in sorted(ctx.inputs.items())}
    models = [load_dit(path) for path, _, _ in chosen.values()]
    models[0].load_state_dict(mean_state(models))
    save_model(models[0], ctx.out, next(iter(ctx.inputs.values())), None, None)
    record = {role: {"step": step, "grad_norm_peak": peak} for role, (_, step, peak) in chosen.items()}
    storage.write_json(ctx.out / "choice.json", record)
    return {"models": len(models)}
