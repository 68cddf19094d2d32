"""Where the time of a step goes: a few steps for their rate, a few in phases, a few under torch.profiler."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from stepvideo.data.source import Batch
from stepvideo.telemetry.recorder import NullRecorder
from stepvideo.training.module import StageModule
from stepvideo.training.monitor.speed import Speed, Timed

WARM = 2  # first steps: memory is allocated, kernels are chosen
PHASES = ("forward", "backward", "optimizer")  # of what the module tells its recorder


@dataclass(frozen=True)
class Operator:
    """Time a step on the device that computes, without what it calls; `share` of all operators'."""

    name: str
    seconds: float
    share: float
    calls: float


@dataclass
class Profile:
    """Seconds are of one step."""

    rates: dict[str, float]  # what `Speed` logs
    phases: dict[str, float]  # forward, backward, optimizer, data wait, other
    operators: list[Operator]  # dearest first
    device: str
    peak: tuple[float, str]  # TFLOP/s, and where the figure is from
    trace: Any = field(repr=False, default=None)  # torch.profiler.profile, for its Chrome trace


class Profiled(Exception):
    """Ends a training whose profile is complete."""

    def __init__(self, found: Profile) -> None:
        super().__init__("profiled")
        self.found = found


class ProfileSteps(Callback):
    """Raises `Profiled` after `WARM` + 3 · `steps` steps, on all ranks. Nothing but this and `speed` may watch."""

    def __init__(self, steps: int, speed: Speed) -> None:
        self.steps, self.speed = steps, speed
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.phased = self.running = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, StageModule)
        assert isinstance(trainer.train_dataloader, Timed)
        self.module, self.loader = pl_module, trainer.train_dataloader
        self.cuda = pl_module.parallel.device.type == "cuda"
        pl_module.recorder = _Phases(self)
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.cuda else [])]
        self.profiler = profile(activities=activities)
        self.count = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self.phased = self.count >= WARM + self.steps and self.count < WARM + 2 * self.steps
        if self.count == WARM + 2 * self.steps:
            self._sync()
            self.profiler.start()
            self.running = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.count += 1
        self._sync()
        if self.phased:
            self.seconds["step"] += time.perf_counter() - self.loader.until
        if self.count == WARM:
            self.speed.restart()
        elif self.count == WARM + self.steps:
            self.rates = self.speed.rates()
            self.waited = self.loader.waited
        elif self.count == WARM + 2 * self.steps:
            self.seconds["data wait"] = self.loader.waited - self.waited
        elif self.count == WARM + 3 * self.steps:
            self._stop()
            raise Profiled(self._found())

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop()  # left running it would end the process with a fault

    def _stop(self) -> None:
        if self.running:
            self.profiler.stop()
        self.running = False

    def _found(self) -> Profile:
        phases = {p: self.seconds[p] / self.steps for p in (*PHASES, "data wait")}
        phases["other"] = max(0.0, self.seconds["step"] / self.steps - sum(phases[p] for p in PHASES))
        events = [e for e in self.profiler.key_averages() if e.key not in PHASES]
        if self.cuda:  # what runs there; the host's side of an operator has the same time again
            times = [(e, e.self_device_time_total) for e in events if e.device_type == DeviceType.CUDA]
        else:
            times = [(e, e.self_cpu_time_total) for e in events]
        whole = sum(t for _, t in times) or 1
        operators = [Operator(e.key, t / self.steps / 1e6, t / whole, e.count / self.steps) for e, t in times if t]
        operators.sort(key=lambda o: -o.seconds)
        device = self.module.parallel.device
        name = torch.cuda.get_device_name(device) if self.cuda else f"CPU, {torch.get_num_threads()} threads"
        return Profile(self.rates, phases, operators, name, (self.speed.peak, self.speed.origin), self.profiler)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        with record_function(phase):
            if not self.phased:
                yield
                return
            self._sync()
            start = time.perf_counter()
            yield
            self._sync()
            self.seconds[phase] += time.perf_counter() - start

    def _sync(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.module.parallel.device)


class _Phases(NullRecorder):
    """Has the phases that a module tells of timed, the device waited for."""

    def __init__(self, profile: ProfileSteps) -> None:
        self.profile = profile

    def device_span(self, name: str) -> AbstractContextManager[Any]:
        return self.profile.timed(name) if name in PHASES else super().device_span(name)
