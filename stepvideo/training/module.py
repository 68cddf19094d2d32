"""What a training is: networks, where batches come from, a loss. `fit` runs it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import lightning as L
import torch
from torch import Tensor, nn

from stepvideo import storage
from stepvideo.data.source import Batch, Source
from stepvideo.errors import StepVideoError
from stepvideo.parallel.train import TrainParallel
from stepvideo.stage import StageContext
from stepvideo.telemetry.recorder import OFF, AnyRecorder
from stepvideo.training.config import OptimConfig
from stepvideo.training.optim import EMA, lr_factor, optimizers

Logs = Mapping[str, Tensor | float]


class Guard(Protocol):
    """Judges a step before it is taken, from numbers that all ranks agree on: ok | skip | rollback | stop."""

    reason: str  # of the last verdict that was not ok

    def judge(self, step: int, loss: float, norm: float) -> str: ...


class Rollback(Exception):
    """Training is to go on from the newest checkpoint."""


class StageModule(L.LightningModule):
    """Base of the trained modules. Subclasses set `net` and `source` and define `loss`.

    `loss(batch)` gives the mean over the samples of a micro-batch, to be minimised, and what to log; it may leave their
    losses [B] in `batch["each"]` for those who watch.
    """

    net: nn.Module
    source: Source
    parallel: TrainParallel
    ctx: StageContext
    recorder: AnyRecorder = OFF

    def __init__(self, optim: OptimConfig, steps: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.optim, self.steps = optim, steps
        self.done = 0  # optimizer steps so far
        self.curve: list[list[float]] = []  # [step, loss, gradient norm], the record that selection and reports read
        self.ema: EMA | None = None
        self.guard: Guard | None = None
        self.net_precision = "32-true"
        self._divided = False

    # ------------------------------------------------------------------------------------ what subclasses may change

    def sometimes(self) -> Sequence[str]:
        """Names that `loss` logs for some micro-batches only, so that all ranks add up the same ones."""
        return ()

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        raise NotImplementedError

    def trained(self) -> dict[str, nn.Module]:
        """All networks that learn."""
        return {"net": self.net}

    def fixed(self) -> dict[str, nn.Module]:
        """Networks that the loss needs and that do not learn."""
        return {}

    def methods(self) -> Sequence[str]:
        """Names of what is called of `net`, other than its forward."""
        return ()

    def before_step(self, step: int) -> None:
        """What is due when `step` steps are done and before the next."""

    def compute(self, part: Batch, scale: float) -> tuple[Tensor, Logs]:
        """Forward and backward of a micro-batch, whose gradients count `scale` times."""
        with self.recorder.device_span("forward"):
            loss, logs = self.loss(part)
        self.manual_backward(loss * scale)
        return loss.detach(), logs

    def update(self, step: int) -> None:
        """Set the learning rates of `step` and step with the gradients that are there."""
        factor = lr_factor(step, self.steps, self.optim)
        for opt in self.opts():
            for group in opt.param_groups:
                group.setdefault("peak_lr", group["lr"])
                group["lr"] = group["peak_lr"] * factor
            opt.step()

    # ---------------------------------------------------------------------------------------------------- what is done

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        with self.recorder.device_span("to_device"):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        with self.recorder.device_span("backward"):
            super().manual_backward(loss, *args, **kwargs)

    def configure_model(self) -> None:
        if self._divided:
            return
        self._divided = True
        for name, net in self.trained().items():
            methods = self.methods() if name == "net" else ()
            self.parallel.divide(net, precision=self.net_precision, methods=methods)
        for net in self.fixed().values():
            self.parallel.divide(net, precision=self.net_precision, train=False)
        if self.optim.ema:
            self.ema = EMA(self.net, self.optim.ema)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it `net` has the averaged weights, if they are kept."""
        if self.ema is None:
            yield
            return
        live = [p.detach().clone() for p in self.net.parameters()]
        self.ema.copy_to_module()
        try:
            yield
        finally:
            with torch.no_grad():
                for p, value in zip(self.net.parameters(), live, strict=True):
                    p.copy_(value)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return optimizers(self.net.named_parameters(), self.optim)

    def opts(self) -> list[torch.optim.Optimizer]:
        found = self.optimizers(use_pl_optimizer=False)
        return found if isinstance(found, list) else [found]  # type: ignore[list-item, return-value]

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        step, micro, nets = batch["step"], batch["micro"], list(self.trained().values())
        self.before_step(step)
        for opt in self.opts():
            opt.zero_grad(set_to_none=True)
        found = []
        for i, part in enumerate(micro):
            self.parallel.micro_batch(nets, first=i == 0, last=i == len(micro) - 1)
            part["step"], share = step, part["share"]
            value, logs = self.compute(part, share * self.parallel.data_size)
            found.append((share, {"loss": value, **logs}))
        with self.recorder.device_span("grad_reduce"):
            self.parallel.finish_gradients(nets)
        with self.recorder.device_span("grad_sync"):
            norm = self.parallel.clip_(list(self.net.parameters()), self.optim.clip)
            outputs = self._means(found)
            loss, outputs["grad_norm"] = outputs["loss"], float(norm)
        if self._accepted(step, loss, outputs["grad_norm"]):
            with self.recorder.device_span("optimizer"):
                self.update(step)
                if self.ema is not None:
                    self.ema.update(step)
        self.done = step + 1
        if math.isfinite(loss) and math.isfinite(outputs["grad_norm"]):  # a mean over the record stays a number
            self.curve.append([step, loss, outputs["grad_norm"]])
        # Lightning wants a tensor under this name
        return {**outputs, "loss": torch.tensor(loss), "lr": self.opts()[0].param_groups[0]["lr"]}

    def _accepted(self, step: int, loss: float, norm: float) -> bool:
        verdict = self.guard.judge(step, loss, norm) if self.guard is not None else "ok"
        if verdict == "rollback":
            raise Rollback
        if verdict == "stop":
            assert self.guard is not None
            raise StepVideoError(
                f"{self.guard.reason}; lower optim.lr or optim.clip, use precision=32-true, or have such steps "
                "dropped (guard)"
            )
        return verdict == "ok"

    def _means(self, found: list[tuple[float, Logs]]) -> dict[str, float]:
        """Of the global batch, by name: each micro-batch counts by its share of those that have the name."""
        names = sorted({name for _, logs in found for name in logs} | set(self.sometimes()))
        sums = torch.zeros(2, len(names), dtype=torch.float64, device=self.parallel.device)
        for share, logs in found:
            for name, value in logs.items():
                if share:
                    sums[0, names.index(name)] += share * torch.as_tensor(value, device=sums.device)
                    sums[1, names.index(name)] += share
        value, weight = self.parallel.mean(sums).tolist()
        return {n: v / w for n, v, w in zip(names, value, weight, strict=True) if w}


def write_curve(
    module: StageModule, ctx: StageContext, name: str = "loss_curve.json", more: Mapping[int, Mapping[str, float]] = {}
) -> None:
    """Record [step, loss, gradient norm] rows in the artifact (deterministic: no times).

    Args:
        more: further columns by step, the same names at each.
    """
    columns = list(next(iter(more.values()), {}))
    rows = [[int(s), round(v, 6), round(n, 6), *(round(more[s][c], 6) for c in columns)] for s, v, n in module.curve]
    storage.write_atomic(ctx.out / name, json.dumps({"columns": ["step", "loss", "grad_norm", *columns], "rows": rows}))


def tail_mean(module: StageModule, part: float = 0.1) -> float:
    """Mean loss over the last `part` of the steps: what a stage reports as its final loss."""
    values = [v for _, v, _ in module.curve]
    count = max(1, int(len(values) * part))
    return sum(values[-count:]) / count
