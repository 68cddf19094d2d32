"""Judges every step before its update is taken: losses and gradients that are not finite, or that spike.

    WORK/faults.jsonl        a line a fault: step, reason, loss, gradient norm, what was done, clips with their losses
    WORK/NAME/skipped.json   steps that a rollback of training NAME goes over, beside its checkpoints; read again after
                             the restart

All ranks judge the same numbers by the same history, so they agree without talking. Only a fault gathers its clips.
"""

from __future__ import annotations

import json
import math
from typing import Any

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from stepvideo import storage
from stepvideo.data.source import Batch
from stepvideo.training.module import StageModule
from stepvideo.training.monitor.spikes import Window
from stepvideo.training.monitor_config import GuardConfig

CLIPS_NAMED = 16  # in the error and in events; faults.jsonl has all


class Guard(Callback):
    """Attach it as a callback; `fit` asks `judge` between the backward pass and the update.

    A spike that is only logged enters the window as the largest value that would have been none: one fault does not
    hide a worse one, and a curve that has come to another level is believed after a few steps.
    """

    def __init__(self, cfg: GuardConfig, name: str = "fit") -> None:
        self.cfg, self.name = cfg, name
        self.loss = Window(cfg.window, cfg.min_history, cfg.threshold)
        self.norm = Window(cfg.window, cfg.min_history, cfg.threshold, log=True)
        self.dropped = 0  # updates in a row
        self.over: list[int] = []  # steps that rollbacks go over
        self.reason = ""  # of the last verdict that was not "ok", for the error
        self._micro: list[Batch] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert isinstance(pl_module, StageModule)
        self.module = pl_module
        self.ctx = self.module.ctx
        self.module.guard = self
        self.path = self.ctx.work / self.name / "skipped.json"
        self.over = storage.read_json(self.path) if self.path.exists() else []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self._micro = batch["micro"]

    def judge(self, step: int, loss: float, norm: float) -> str:
        """ok | skip | rollback | stop, from the loss and the gradient norm of the global batch."""
        if step in self.over:
            self.reason = f"step {step} is gone over after a rollback"
            self.ctx.sink.event("step_gone_over", step=step)
            return "skip"
        finite = math.isfinite(loss) and math.isfinite(norm)
        high = [] if finite else [f"the loss is {loss}, the gradient norm {norm}"]
        for name, value, window in (("loss", loss, self.loss), ("gradient norm", norm, self.norm)):
            if finite and value > (limit := window.limit()):
                high.append(
                    f"the {name} {value:.6g} is above {limit:.6g}, what the last {len(window.values)} steps allow"
                )
        if not high:
            self.loss.add(loss)
            self.norm.add(norm)
            self.dropped = 0
            return "ok"
        return self._fault(step, loss, norm, "; ".join(high), finite)

    def _fault(self, step: int, loss: float, norm: float, reason: str, finite: bool) -> str:
        policy = self.cfg.spike if finite else self.cfg.not_finite
        done = policy
        if policy == "log":
            done = "ok"
            self.loss.add(min(loss, self.loss.limit()))
            self.norm.add(min(norm, self.norm.limit()))
        elif policy == "skip":
            self.dropped += 1
            if self.dropped > self.cfg.max_skips:
                done = "stop"
                reason += f"; {self.cfg.max_skips} updates in a row were dropped before (guard.max_skips)"
        elif policy == "rollback":
            if len(self.over) >= self.cfg.max_rollbacks:
                done = "stop"
                reason += f"; the run went back {len(self.over)} times already (guard.max_rollbacks)"
            else:
                self.over = [*self.over, step]
        clips = self._clips()
        self._record({"step": step, "action": done if policy != "log" else "log", "reason": reason}, loss, norm, clips)
        named = ", ".join(clip for clip, _ in clips[:CLIPS_NAMED])
        more = f" and {len(clips) - CLIPS_NAMED} more, see faults.jsonl" if len(clips) > CLIPS_NAMED else ""
        self.reason = f"step {step}: {reason} (clips {named or 'unknown'}{more})"
        return done

    def _clips(self) -> list[tuple[str, float | None]]:
        """The clips of the global batch with their losses, the largest or not finite first."""
        mine: list[tuple[str, float | None]] = []
        for part in self._micro:
            if not part["share"]:
                continue
            each = part.get("each")
            losses = each.tolist() if isinstance(each, Tensor) else [None] * len(part["ids"])
            mine += zip(part["ids"], losses, strict=True)
        found = [mine]
        if dist.is_initialized() and dist.get_world_size() > 1:
            found = [[] for _ in range(dist.get_world_size())]
            dist.all_gather_object(found, mine)
        # ranks that share samples name them twice
        clips = list(dict.fromkeys(pair for part in found for pair in part))
        return sorted(clips, key=_worst_first)

    def _record(self, fault: dict[str, Any], loss: float, norm: float, clips: list[tuple[str, float | None]]) -> None:
        if self.ctx.rank:
            return
        if fault["action"] == "rollback":
            storage.write_json(self.path, self.over)
        fault |= {"loss": _json(loss), "grad_norm": _json(norm)}
        whole = fault | {"clips": [{"id": i, "loss": _json(v)} for i, v in clips]}
        with (self.ctx.work / "faults.jsonl").open("a", encoding="utf-8") as f:
            f.write(json.dumps(whole) + "\n")
        self.ctx.sink.event("training_fault", **fault, clips=[i for i, _ in clips[:CLIPS_NAMED]])

    def state_dict(self) -> dict[str, Any]:
        return {"loss": list(self.loss.values), "norm": list(self.norm.values), "dropped": self.dropped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loss.load(state_dict["loss"])
        self.norm.load(state_dict["norm"])
        self.dropped = state_dict["dropped"]


def _worst_first(clip: tuple[str, float | None]) -> tuple[bool, float]:
    loss = clip[1]
    if loss is None:
        return True, 0.0
    return False, -math.inf if math.isnan(loss) else -loss


def _json(value: float | None) -> float | str | None:
    """JSON has no NaN."""
    return value if value is None or math.isfinite(value) else str(value)
