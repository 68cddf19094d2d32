"""How fast a training is, on every log line: throughput, MFU, time a step, time spent waiting for data, memory.

Nothing here waits for the device between log lines: times are those at which the host gets there, and steps end with
numbers that the host has waited for.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from stepvideo.data.source import Batch
from stepvideo.telemetry.recorder import OFF, AnyRecorder
from stepvideo.training.module import StageModule
from stepvideo.training.monitor.consumed import Consumption
from stepvideo.training.monitor.cost import Cost, CostOf, of_each, samples_only
from stepvideo.training.monitor.peak import peak_tflops
from stepvideo.training.monitor.prediction import Record


class Timed:
    """A loader that knows how long its consumer has waited for it, and when the last wait ended.

    For `recorder` a step begins with the wait for its batch; `done` steps are before the first.
    """

    def __init__(self, loader: Iterable[Batch], recorder: AnyRecorder = OFF, done: int = 0) -> None:
        self.loader, self.recorder, self.done = loader, recorder, done
        self.waited = 0.0  # seconds
        self.until = time.perf_counter()

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        batches = None
        while True:
            self.recorder.step(self.done + 1)
            start = time.perf_counter()
            if batches is None:
                batches = iter(self.loader)  # starts the workers
            batch = next(batches, None)
            self.until = time.perf_counter()
            self.waited += self.until - start
            self.recorder.record("data_wait", start, self.until)
            if batch is None:
                return
            self.done += 1
            yield batch


class Speed(Callback):
    """Rates since the last log line, of all ranks together; TFLOP/s and MFU a device.

    A step's time is that from its batch's arrival to its end, and the wait for the batch; checkpoints, validation and
    the like are told apart as `other_s`. First among the callbacks, so that theirs is not counted.
    """

    def __init__(self, cost: CostOf = samples_only, peak: float = 0.0) -> None:
        self.cost, self.given = cost, peak
        self.record = Record()
        self.told = False  # what is predicted

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, StageModule)
        self.module = pl_module
        self.loader: Timed = trainer.train_dataloader  # type: ignore[assignment]
        device = self.module.parallel.device
        self.peak, self.origin = peak_tflops(device, self.module.net_precision, self.given)
        self.module.ctx.sink.event("peak_tflops", value=self.peak, origin=self.origin)
        self.module.recorder.count("peak_tflops", self.peak)
        self.consumption = Consumption(self.module.recorder, self.module.parallel, self.module.ctx.inputs)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.record = Record.start(self.cost, self.module.parallel, self.module.net_precision)
        self.restart()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.steps += 1
        busy = time.perf_counter() - self.loader.until
        self.busy += busy
        costs = of_each(self.cost, batch["micro"])
        self.done = sum(costs, self.done)
        self.consumption.add(batch["micro"], costs)
        if predicted := self.record.add(batch["micro"], busy):
            self.module.recorder.count("predicted_step_s", predicted)
        if not self.told:
            self._tell("predicted")
        module = self.module
        if module.done % module.ctx.config.runtime.log_every == 0 or module.done == module.steps:
            values = self.rates()
            if module.ctx.rank == 0:
                module.ctx.sink.metrics(module.done, values)
            self.restart()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.module.recorder.end()
        self._tell("prediction")
        if self.module.ctx.rank == 0 and self.record.about:
            self.module.ctx.sink.event("step_times", **self.record.by_size())

    def _tell(self, what: str) -> None:
        """After the first step what is predicted of it, at the end how right that was."""
        self.told = True
        if self.module.ctx.rank or self.record.predict is None:
            return
        if what == "predicted":
            found, words = {"step_s": self.record.seconds}, "predicted {step_s:.4g} s a step"
        else:
            found = self.record.summary()
            words = "predicted {predicted_s:.4g} s a step, measured {measured_s:.4g} s: {error:+.0%}"
        if found:
            self.module.ctx.sink.event(what, **found, basis=self.record.basis)
            print(f"{words.format(**found)} ({self.record.basis})", file=sys.stderr, flush=True)  # stdout may be JSON

    def restart(self) -> None:
        """Rates are of the steps from here on."""
        self.steps, self.busy, self.done = 0, 0.0, Cost()
        self.since, self.waited_before = time.perf_counter(), self.loader.waited

    def rates(self) -> dict[str, float]:
        """All ranks call it together."""
        waited = self.loader.waited - self.waited_before
        seconds = self.busy + waited
        parallel = self.module.parallel
        sums = torch.tensor([self.done.samples, self.done.tokens, self.done.flops], dtype=torch.float64)
        sums = parallel.mean(sums.to(parallel.device)) * parallel.data_size
        samples, tokens, flops = (sums / seconds).tolist()
        values = {
            "step_s": seconds / self.steps,
            "data_wait_s": waited / self.steps,
            "data_wait_share": waited / seconds,
            "other_s": max(0.0, time.perf_counter() - self.since - seconds) / self.steps,
            "samples_per_s": samples,
            "memory_gb": memory(parallel.device) / 1e9,
        }
        if flops:
            values |= {"tokens_per_s": tokens, "tflops": flops / parallel.world_size / 1e12}
            if self.peak:
                values["mfu"] = values["tflops"] / self.peak
        return values | self.record.rates(self.steps, self.busy)


def memory(device: torch.device) -> int:
    """Peak bytes of this process: allocated on a CUDA device, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
