"""Training checkpoints: sharded, written while training goes on, whole or not chosen (report §6.2.3).

`save` holds the step while tensors are copied to host memory; a thread writes the copy. The ranks talk about it in a
gloo group of their own, so that the thread never meets the collectives of training.
"""

from __future__ import annotations

import logging
import shutil
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from stepvideo import storage
from stepvideo.errors import StepVideoError
from stepvideo.sink import NullSink, Sink
from stepvideo.training import checkpoint_files as files

if TYPE_CHECKING:
    from stepvideo.parallel.train import TrainParallel

T = TypeVar("T")
ENTRY_BYTES = 2048  # what a tensor's header and its line in the index take
_LOG = logging.getLogger(__name__)
warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")  # one rank: so it is


class State(TypedDict):
    """What a checkpoint holds."""

    tensors: dict[str, Tensor]  # by name; DTensors are saved in parts, and divided anew when they are loaded
    shared: dict[str, Any]  # small, the same on all ranks; of types that torch.load(weights_only=True) reads
    own: dict[str, Any]  # small, each rank's; empty after loading on a rank that the saved run did not have


class Checkpointer:
    """Saves and finds the checkpoints of one run in `folder`, the newest `keep` of them.

    All ranks call every method, in the same order.
    """

    def __init__(self, folder: Path, parallel: TrainParallel, keep: int = 2, sink: Sink | None = None) -> None:
        """`sink` hears of saves and of damaged checkpoints. Removes what killed saves left."""
        if keep < 1:
            raise ValueError(f"keep={keep} checkpoints: give 1 or more")
        self.folder, self.rank, self.keep, self.sink = folder, parallel.rank, keep, sink or NullSink()
        self.ranks = dist.get_world_size() if dist.is_initialized() else 1
        self._group = dist.new_group(backend="gloo") if self.ranks > 1 else None
        cuda = torch.cuda.is_available()
        self._stager = DefaultStager(StagingOptions(cuda, False, False, cuda))
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._saving: tuple[int, Future[float]] | None = None
        self._damaged: set[int] = set()
        self._held_s = 0.0
        self._first(self._clear)

    def save(self, step: int, state: State) -> None:
        """Save `state`, which may change again as soon as this returns. Waits for an earlier save.

        Raises:
            StepVideoError: the earlier save failed, on all ranks.
        """
        self.wait()
        began = time.monotonic()
        tensors: Any = self._stager.stage(state["tensors"])
        values = {files.own(self.rank): files.to_bytes(state["own"])}
        if self.rank == 0:
            values[files.SHARED] = files.to_bytes(state["shared"])
        self._held_s = time.monotonic() - began
        self._saving = step, self._thread.submit(self._write, step, tensors, values, began)

    def wait(self) -> None:
        """Until the save under way is on disk.

        Raises:
            StepVideoError: it failed, on all ranks; earlier checkpoints are intact.
        """
        if self._saving is None:
            return
        (step, result), self._saving = self._saving, None
        try:
            total = result.result()
        except StepVideoError as e:
            raise StepVideoError(
                f"{self.folder}: checkpoint {step} was not written ({e}); earlier ones are intact"
            ) from e
        self.sink.event("checkpoint", step=step, held_s=round(self._held_s, 4), total_s=round(total, 4))

    def newest(self) -> int | None:
        """The step of the newest intact checkpoint; damaged ones are named in a warning and in the sink."""
        self.wait()
        for step in reversed(self._first(lambda: files.steps(self.folder))):
            folder = files.step_folder(self.folder, step)
            reasons = list(filter(None, self._gather(files.damage(folder, self.rank, self.ranks))))
            if not reasons:
                return step
            self._damaged.add(step)
            if self.rank == 0:
                _LOG.warning("%s is damaged and passed over: %s", folder, reasons[0])
                self.sink.event("checkpoint_damaged", step=step, reason=reasons[0])
        return None

    def load(self, step: int, state: State) -> None:
        """Read checkpoint `step` into `state`: tensors in place, whatever their division; the rest replaced.

        Raises:
            StepVideoError: a tensor of `state` is not in the checkpoint, or has another shape.
        """
        self.wait()
        folder = files.step_folder(self.folder, step)
        read(folder, state["tensors"], self._group)
        state["shared"] = files.from_file(folder / files.SHARED)
        own = folder / files.own(self.rank)
        state["own"] = files.from_file(own) if own.is_file() else {}

    def check_space(self, state: State) -> None:
        """See before the first step that `keep` checkpoints and the one being written fit on the disk.

        Raises:
            StepVideoError: names the folder, what is needed and what is free.
        """

        def check() -> None:
            held = sum(p.stat().st_size for p in storage.tree(self.folder))
            needed = max(0, (self.keep + 1) * size(state) - held)
            if (free := shutil.disk_usage(self.folder).free) < needed:
                raise StepVideoError(
                    f"{self.folder}: {self.keep} checkpoints and the one being written need {needed} bytes more, "
                    f"{free} are free; free space, choose another store, or set runtime.keep lower"
                )

        self._first(check)

    def _write(self, step: int, tensors: dict[str, Tensor], values: dict[str, bytes], began: float) -> float:
        """Runs in the thread. Seconds since `save` was called."""
        final = files.step_folder(self.folder, step)
        unfinished = final.with_name(f"{final.name}.tmp")

        def prepare() -> None:
            storage.remove(unfinished)
            unfinished.mkdir(parents=True)

        def write() -> dict[str, dict[str, Any]]:
            writer = files.Writer(unfinished)
            dcp.save(tensors, storage_writer=writer, process_group=self._group, no_dist=self._group is None)  # type: ignore[arg-type]
            if writer.failures:
                raise writer.failures[0]
            for name, data in values.items():
                storage.write_atomic(unfinished / name, data)
            return files.written_by(unfinished, self.rank)

        try:
            self._first(prepare)
            written = self._together(write)
            self._first(lambda: files.seal(unfinished, {k: v for part in written for k, v in part.items()}, final))
        except BaseException:
            if self.rank == 0:
                shutil.rmtree(unfinished, ignore_errors=True)
            raise
        self._first(lambda: self._retire(step))
        return time.monotonic() - began

    def _retire(self, step: int) -> None:
        """Remove all but the newest `keep` intact ones up to `step`; training that had gone further was rolled back."""
        self._damaged.discard(step)
        found = files.steps(self.folder)
        kept = [s for s in found if s <= step and s not in self._damaged][-self.keep :]
        for other in sorted(set(found) - set(kept), reverse=True):
            storage.remove(files.step_folder(self.folder, other))

    def _clear(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob("step-*.tmp"):
            storage.remove(leftover)

    def _first(self, do: Callable[[], T]) -> T:
        """Rank 0's result of `do`, on all ranks."""
        return self._together(do if self.rank == 0 else lambda: None)[0]  # type: ignore[return-value]

    def _together(self, do: Callable[[], T]) -> list[T]:
        """All ranks' results of `do`; if one of them fails, all raise its error."""
        result: Any = None
        error = ""
        try:
            result = do()
        except (Exception, CheckpointException) as e:  # torch derives the latter from BaseException
            error = _reason(e)
        gathered = self._gather((result, error))
        for rank, (_, error) in enumerate(gathered):
            if error:
                raise StepVideoError(error if self.ranks == 1 else f"rank {rank}: {error}")
        return [result for result, _ in gathered]

    def _gather(self, mine: T) -> list[T]:
        if self._group is None:
            return [mine]
        everyone: list[Any] = [None] * self.ranks
        dist.all_gather_object(everyone, mine, group=self._group)
        return everyone


def read(folder: Path, tensors: dict[str, Tensor], group: dist.ProcessGroup | None = None) -> None:
    """Fill `tensors` from a checkpoint, by name. Without a group this process reads alone.

    Raises:
        StepVideoError: a name that the checkpoint does not have, or has with another shape or dtype.
    """
    index: Any = files.Reader(folder).read_metadata().state_dict_metadata
    there = {name: f"{list(entry.size)} {entry.properties.dtype}" for name, entry in index.items()}
    here = {name: f"{list(t.shape)} {t.dtype}" for name, t in tensors.items()}
    if wrong := [name for name in here if there.get(name) != here[name]]:
        name = wrong[0]
        raise StepVideoError(
            f"{folder} is of another model or optimizer: {len(wrong)} of {len(here)} tensors do not fit, such as "
            f"{name} (here {here[name]}, there {there.get(name, 'absent')}); remove it, or undo the change"
        )
    reader = files.Reader(folder)
    dcp.load(tensors, storage_reader=reader, process_group=group, no_dist=group is None)  # type: ignore[arg-type]


def size(state: State) -> int:
    """Bytes on disk of a checkpoint of `state`, over all ranks, about."""
    return sum(t.numel() * t.element_size() + ENTRY_BYTES for t in state["tensors"].values())


def _reason(e: BaseException) -> str:
    """The error in a sentence; of those that torch's checkpoint collected, the first."""
    if isinstance(e, CheckpointException):
        e = next(iter(e.failures.values()))[0]
    if isinstance(e, OSError):
        return e.strerror or str(e)
    return str(e) if isinstance(e, StepVideoError) else f"{type(e).__name__}: {e}"
