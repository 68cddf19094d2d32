"""Kind "average": the mean of fine-tuned models (report §8, Step-3), each taken after its gradient norm peaked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from stepvideo import storage
from stepvideo.data.clips import load_ids
from stepvideo.data.latent_cache import LatentSet
from stepvideo.data.text_cache import TextCache
from stepvideo.errors import ConfigError, Preempted, StepVideoError
from stepvideo.models.dit import DiT
from stepvideo.stage import StageContext
from stepvideo.training.config import AverageConfig
from stepvideo.training.flow import flow_loss, save_model
from stepvideo.training.monitor.held_out import HeldOut
from stepvideo.training.monitor.validation import validation_batches
from stepvideo.training.monitor_config import ValidationConfig
from stepvideo.training.select import CURVE, judge, read_rows, snapshots
from stepvideo.training.soup import Part, blend, greedy, in_memory

JUDGES = ("latents", "subsets")  # inputs that are no models
Value = Callable[[DiT], float]


@dataclass(frozen=True)
class Pick:
    """A model that one of the inputs gives: the steps it has seen (0: not known), where it lies, why it was taken."""

    role: str
    step: int
    folder: Path
    why: str


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: models or runs with snapshots, under any roles; greedy also latents, optional subsets.

    Output: the averaged model in the released layout, choice.json.
    """
    cfg: AverageConfig = ctx.config
    if ctx.rank:
        return {}
    roles = sorted(set(ctx.inputs) - set(JUDGES))
    if cfg.weights and sorted(cfg.weights) != roles:
        raise ConfigError(f"weights are given for {', '.join(sorted(cfg.weights))}; the models are {', '.join(roles)}")
    groups = [choose(role, ctx.inputs[role], cfg) for role in roles]
    picks = [pick for group in groups for pick in group]
    parts = [Part(p.folder, cfg.weights.get(p.role, 1.0) / len(group)) for group in groups for p in group]
    if cfg.method == "uniform":
        parts = [Part(p.folder) for p in parts]
    blend(parts)  # refuses models that differ before hours of judging
    record = {"method": cfg.method, "trials": []}
    used = list(range(len(parts)))
    if cfg.method == "greedy":
        used, record["trials"] = _greedy(ctx, parts)
    parts, picks = [parts[i] for i in used], [picks[i] for i in used]
    model, value = blend(parts)
    save_model(model, ctx.out, ctx.inputs[roles[0]], value=value)
    record["models"] = [
        {"role": pick.role, "step": pick.step, "weight": part.weight, "why": pick.why}
        for pick, part in zip(picks, parts, strict=True)
    ]
    storage.write_json(ctx.out / "choice.json", record)
    metrics = {"models": float(len(parts)), "judged": float(len(record["trials"]))}
    if record["trials"]:
        kept = [t["value"] for t in record["trials"] if t["kept"]]
        metrics |= {"loss": kept[-1], "loss_best_single": kept[0]}
    return metrics


def choose(role: str, folder: Path, cfg: AverageConfig) -> list[Pick]:
    """The models of one input: of a run its best snapshots after the gradient norm's peak, else the model that it is.

    Raises:
        StepVideoError: none qualifies, and `fallback` is error.
    """
    if not (folder / CURVE).exists():
        return [Pick(role, 0, folder, "a model by itself")]
    rows = read_rows(folder)
    found = snapshots(folder, rows)
    last = max(found)
    if not cfg.after_peak:
        return [Pick(role, last, found[last], "the last")]
    try:
        selection = judge(rows, found, cfg.smooth, cfg.warmup)
    except ValueError as e:
        raise ConfigError(f"{role}: {e}") from e
    if not selection.ranked:
        if cfg.fallback == "error":
            raise StepVideoError(f"{role}: {selection.reason}; train longer, keep more snapshots, or set fallback=last")
        return [Pick(role, last, found[last], f"the last: {selection.reason}")]
    why = f"after the gradient norm's peak at step {selection.peak}"
    return [Pick(role, s.step, found[s.step], why) for s in selection.ranked[: cfg.snapshots or None]]


def _greedy(ctx: StageContext, parts: Sequence[Part]) -> tuple[list[int], list[dict]]:
    cfg: AverageConfig = ctx.config
    if "latents" not in ctx.inputs:
        raise ConfigError("method=greedy judges on held-out clips: give the stage an input `latents`")
    ids = load_ids(ctx.inputs["subsets"] / f"{cfg.subset}.parquet") if cfg.subset else None
    value = held_out_loss(ctx.inputs["latents"], cfg, ids, _device(cfg.runtime.device))
    done = 0

    def judged(places: list[int]) -> float:
        nonlocal done
        if ctx.should_stop():
            raise Preempted
        loss = value(in_memory([parts[i] for i in places]))
        done += 1
        ctx.sink.progress(done, 2 * len(parts) - 1, "model")
        ctx.sink.event("judged", models=places, loss=loss)
        return loss

    try:
        used, trials = greedy(len(parts), judged)
    except ValueError as e:
        raise StepVideoError(str(e)) from e
    return used, [asdict(t) for t in trials]


def _device(wanted: str) -> torch.device:
    return torch.device("cuda" if wanted == "auto" and torch.cuda.is_available() else wanted.replace("auto", "cpu"))


def held_out_loss(latents: Path, cfg: AverageConfig, ids: list[str] | None, device: torch.device) -> Value:
    """The velocity loss of a model on clips that training left out, at fixed noise, captions and timesteps.

    Raises:
        StepVideoError: no clip is held out.
    """
    data = LatentSet(latents, "video", cfg.resolution, ids)
    if cfg.held_out:
        _, held = data.split(cfg.held_out)
        if held is None:
            raise StepVideoError(f"{latents}: held_out={cfg.held_out} leaves no clip to judge on; give a larger share")
        data = held
    clips = HeldOut(data, len(data), cfg.clips, TextCache(data.cache), dict.fromkeys(data.kinds, 1.0))
    setting = ValidationConfig(levels=cfg.levels, batch=cfg.levels, seed=cfg.seed)

    @torch.no_grad()
    def loss(dit: DiT) -> float:
        dit = dit.to(device)
        parts = validation_batches(setting, clips)
        losses = [flow_loss(dit, {k: v.to(device) for k, v in part.batch.items()}).mean().item() for part in parts]
        return math.fsum(losses) / len(losses)

    return loss
