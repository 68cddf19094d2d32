"""Reads a source's batches ahead, in processes of their own, in the order of steps."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from stepvideo.data.source import Batch, Source
from stepvideo.errors import StepVideoError

GRACE = 100  # samples: the first ones that fail do not make a share


class _Steps(Dataset):
    """Item i is what a rank computes in the i-th of `steps`, or the error for people that kept it from that."""

    def __init__(self, source: Source, steps: range, dealt: tuple[int, int, int]) -> None:
        self.source, self.steps, self.dealt = source, steps, dealt

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, i: int) -> Batch | StepVideoError:
        step = self.steps[i]
        try:
            return {"step": step, "micro": self.source.micro_batches(step, *self.dealt)}
        except StepVideoError as e:  # as a value: torch would wrap it in the traceback of its process
            return e


class StepLoader:
    """{"step": int, "micro": list of micro-batches} of every step, in order; the same for any number of workers.

    Attributes:
        seen: samples read so far. failed: clip id → why it could not be decoded, of all batches so far.

    Iterating raises:
        StepVideoError: the source's own; a worker process died; more than `max_failed` of the samples could not be
            decoded.
    """

    def __init__(self, loader: DataLoader, steps: range, max_failed: float) -> None:
        self.loader, self.steps, self.max_failed = loader, steps, max_failed
        self.seen = 0
        self.times = 0  # that a sample failed
        self.failed: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        step = self.steps.start
        try:
            for item in self.loader:
                if isinstance(item, StepVideoError):
                    raise item
                step = item["step"] + self.steps.step
                self._judge(item["micro"])
                yield item
        except RuntimeError as e:
            if not str(e).startswith("DataLoader worker"):
                raise
            raise StepVideoError(
                f"a loader process died before step {step}: {e} Mostly it is memory: lower runtime.workers or the "
                "batch size, or give the job more memory (and more /dev/shm in a container)"
            ) from e

    def _judge(self, micro: list[Batch]) -> None:
        for batch in micro:
            failed = batch.get("failed", [])
            self.seen += len(batch["ids"])
            self.times += len(failed)
            self.failed |= dict(failed)
        if self.times > self.max_failed * max(self.seen, GRACE):
            shown = "; ".join(f"{clip}: {reason}" for clip, reason in list(self.failed.items())[:3])
            raise StepVideoError(
                f"{self.times} of {self.seen} samples could not be decoded, more than max_failed={self.max_failed}: "
                f"{shown}. Curate again, or raise max_failed to go on with others in their place"
            )


def step_loader(
    source: Source,
    steps: range,
    rank: int = 0,
    ranks: int = 1,
    accumulate: int = 1,
    workers: int = 0,
    prefetch: int = 2,
    pin: bool = False,
    max_failed: float = 0.05,
) -> StepLoader:
    """What a data-parallel rank computes in `steps`.

    Args:
        workers: processes; 0: in this one.
        prefetch: steps that each worker reads ahead.
        pin: into pinned memory, from which copies to a GPU need not wait.
    """
    context = None
    if workers and torch.cuda.is_initialized():  # CUDA does not survive a fork
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, type(source).__module__])
    loader = DataLoader(
        _Steps(source, steps, (rank, ranks, accumulate)),
        batch_size=None,
        shuffle=False,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        pin_memory=pin and torch.cuda.is_available(),
        multiprocessing_context=context,
        worker_init_fn=_alone,
        generator=torch.Generator(),  # else it takes a number from the global one, and resuming is not exact
    )
    return StepLoader(loader, steps, max_failed)


def _alone(worker: int) -> None:
    """Leave the threads of the process that it was forked from alone.

    OpenCV's do not survive a fork, and workers are the parallelism here. What others registered for the parent's exit
    is not the worker's to run: Prefect's services fail on it, and the worker would end with exit code 1.
    """
    threading._threading_atexits.clear()  # type: ignore[attr-defined]
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(0)
