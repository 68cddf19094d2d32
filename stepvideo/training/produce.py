"""Kind "produce": a producer, which encodes what the ranks of training jobs ask for and sends it (report §6.1).

Any number of them work for one folder. They share the work by claims, come and go as they like, and know nothing of
each other. One serves until it is asked to stop, its jobs are gone for `feed.timeout_s`, or its folder is removed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from stepvideo import storage
from stepvideo.data.cache_encoder import CacheEncoder
from stepvideo.data.feed import Feed, Unit, Wish
from stepvideo.data.pixel_set import PixelSet
from stepvideo.data.unit import Sample, packed
from stepvideo.diffusion.pipeline import best_device
from stepvideo.errors import ConfigError
from stepvideo.models.checkpoints import NETWORKS, load_vae
from stepvideo.models.text_encoders import load_text_encoders
from stepvideo.pipes.producer import Producer
from stepvideo.pipes.registry import open_registry
from stepvideo.stage import StageContext
from stepvideo.training.config import ProduceConfig, TrainConfig
from stepvideo.training.streaming import BEATS, MIB, digest_of, pipe_config, pipe_name
from stepvideo.training.train_data import TrainData

IDLE_S = 0.02  # between two looks for work, at first; then longer and longer
IDLE_GROWTH = 1.5
LOOKS = 25  # in a lease, at least: every look asks the file system of every rank
PATIENCE_S = 1.0  # of a send, before it is seen whether anybody still wants it
RETRY_S = 0.1  # until what could not be sent is tried again
LEASES_LOST = 4  # after so many what was sent and is still wanted is lost


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: those of the training stage. Output: what was done, as numbers.

    Raises:
        ConfigError: no folder to meet at. StepVideoError: clips or encoders cannot be read.
    """
    cfg: ProduceConfig = ctx.config
    if not cfg.folder:
        raise ConfigError("a producer needs folder=…, where it meets its jobs: FEED of `stepvideo produce`")
    name = cfg.name or f"{socket.gethostname()}-{os.getpid()}"
    if Feed(Path(cfg.folder), cfg.train.runtime.feed.lease_s, make=False).gone:  # its turn came after the stage's end
        ctx.sink.event("no_stage", folder=cfg.folder)
        storage.write_json(ctx.out / "produced.json", {})
        return {}
    with ThreadPoolExecutor(max(1, cfg.runtime.workers)) as pool:
        work = Units(cfg.train, ctx.inputs, pool, cfg.runtime.device)
        ctx.sink.event("producing", producer=name, plan=work.digest, folder=cfg.folder)
        said = _Server(ctx, cfg, name, work).serve()
    storage.write_json(ctx.out / "produced.json", said)
    return said


class Units:
    """Makes units of a training stage's plan.

    Attributes:
        digest: of the plan.
    """

    def __init__(self, cfg: TrainConfig, inputs: dict[str, Path], pool: ThreadPoolExecutor, device: str) -> None:
        cfg.runtime.data = "streamed"  # what the inputs must then be is checked
        data = TrainData.open(cfg, inputs)
        dit = NETWORKS["dit"].config(inputs["init"]) if "init" in inputs else cfg.dit
        self.resolution = cfg.resolution
        self.source = data.source(data.plan(dit))
        self.digest = digest_of(data, self.source)
        place = best_device(device)
        vae = load_vae(inputs["vae"], place).requires_grad_(False)
        text = load_text_encoders(inputs["text"], place)
        self.encoder = CacheEncoder(data.cache, inputs["curate"], vae, text, pool, cfg.runtime.feed.keep_mb * MIB)

    def make(self, unit: Unit) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See `unit.packed`."""
        step, number = unit
        groups = self.source.pack(step, number)
        samples = {i: self._sample(step, i, g.kind, g.bucket, row) for g in groups for i, row in g.rows}
        return packed(unit, self.digest, samples)

    def _sample(self, step: int, i: int, kind: str, bucket: str, asked: int) -> Sample:
        data = self.source.of(kind)
        assert isinstance(data, PixelSet)
        row, moments, failed = data.readable(asked, lambda r: self.encoder.moments(kind, self.resolution, data.id(r)))
        llm, clip = self.encoder.embedding(self.source.caption(step, i, kind, row))
        return Sample(kind, bucket, row, failed, moments, llm, clip)


class _Server:
    """One producer's life."""

    def __init__(self, ctx: StageContext, cfg: ProduceConfig, name: str, work: Units) -> None:
        self.ctx, self.cfg, self.name, self.work = ctx, cfg.train.runtime.feed, name, work
        self.feed = Feed(Path(cfg.folder), self.cfg.lease_s, work.digest, make=False)
        self._pipes: dict[int, Producer] = {}
        self._again: dict[Unit, dict[str, float]] = {}  # receiver → when it may be sent there again
        self._others: set[str] = set()
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._said = dict.fromkeys(("units", "sent", "bytes", "busy_s", "blocked_s", "idle_s"), 0.0)
        self._over = threading.Event()

    def serve(self) -> dict[str, float]:
        """Until it is over; what was done."""
        beat = threading.Thread(target=self._beat, name="beat", daemon=True)
        beat.start()
        try:
            self._serve()
        except FileNotFoundError:
            if not self.feed.gone:
                raise
        finally:
            self._over.set()
            beat.join()
            for pipe in self._pipes.values():
                pipe.close()
            (self.feed.folder / "producers" / f"{self.name}.json").unlink(missing_ok=True)
        return self.said()

    def said(self) -> dict[str, float]:
        encoder = self.work.encoder
        done = {"batches": float(encoder.batches), "samples": float(encoder.samples)}
        with self._lock:
            return {**self._said, **done, "elapsed_s": time.monotonic() - self._began}

    def _serve(self) -> None:
        needed = swept = time.monotonic()
        idle_s = IDLE_S
        while not self.ctx.should_stop() and not self.feed.gone:
            started = time.monotonic()
            wishes = self._wishes()
            if wishes:
                needed = started
                if started - swept > self.cfg.lease_s:
                    swept = started
                    self._sweep(min(w.position for w in wishes))
            elif started - needed > self.cfg.timeout_s:
                self.ctx.sink.event("no_job", seconds=round(started - needed))
                return
            unit = self._next(wishes)
            if unit is None:
                time.sleep(idle_s)
                idle_s = min(idle_s * IDLE_GROWTH, max(IDLE_S, self.cfg.lease_s / LOOKS))
                self._add(idle_s=time.monotonic() - started)
            else:
                self._make(unit)
                idle_s = IDLE_S

    def _wishes(self) -> list[Wish]:
        """Of jobs that this producer can serve."""
        every = self.feed.wishes()
        for other in {w.job for w in every if w.plan != self.work.digest} - self._others:
            self._others.add(other)
            self.ctx.sink.event("other_plan", job=other, note="another producer must serve it")
        return [w for w in every if w.plan == self.work.digest]

    def _next(self, wishes: Iterable[Wish]) -> Unit | None:
        """The most urgent unit that somebody waits for and that is nobody else's, if there is any."""
        asked: dict[Unit, list[Wish]] = {}
        for wish in wishes:
            for unit in wish.units():
                asked.setdefault(unit, []).append(wish)
        for unit in sorted(asked, key=lambda u: (min(u[0] - w.position for w in asked[u]), u)):
            if any(self._owes(unit, w) for w in asked[unit]) and self.feed.claim(unit, self.name):
                return unit
        return None

    def _owes(self, unit: Unit, wish: Wish) -> bool:
        """Not sent to this life of that rank, or so long ago that it must be lost."""
        return time.monotonic() >= self._again.get(unit, {}).get(wish.receiver, 0.0)

    def _make(self, unit: Unit) -> None:
        started = time.monotonic()
        tensors, meta = self.work.make(unit)
        encoded = time.monotonic()
        self._add(units=1, busy_s=encoded - started)
        owed = [w for w in self._wishes() if unit in w.units() and self._owes(unit, w)]
        for ranks in {w.ranks for w in owed}:
            self._send(unit, tensors, meta, [w for w in owed if w.ranks == ranks])
        self._add(blocked_s=time.monotonic() - encoded)

    def _send(self, unit: Unit, tensors: dict[str, Tensor], meta: dict[str, Any], wishes: list[Wish]) -> None:
        """To that rank of every job of so many ranks; who has not joined the pipe yet, or is slow, gets it later."""
        ranks, nbytes = wishes[0].ranks, sum(t.nbytes for t in tensors.values())
        if nbytes > self.cfg.window_mb * MIB:
            raise ConfigError(
                f"pack {unit[1]} of step {unit[0]} takes {nbytes / MIB:.1f} MiB, above "
                f"runtime.feed.window_mb={self.cfg.window_mb}: raise it for the stage, or give it smaller packs"
            )
        if ranks not in self._pipes:
            where, named = open_registry(str(self.feed.pipes)), pipe_name(self.work.digest, ranks)
            window, config = self.cfg.window_mb * MIB, pipe_config(self.cfg)
            self._pipes[ranks] = Producer(where, named, self.name, window_bytes=window, config=config)
        pipe = self._pipes[ranks]
        there = {job for job, said in pipe.metrics()["jobs"].items() if said["present"]}
        try:
            if there:
                pipe.send(tensors, meta, rank=unit[1] % ranks, timeout=PATIENCE_S)
                self._add(sent=1, bytes=nbytes)
        except TimeoutError:
            there = set()
        now, lost_s = time.monotonic(), LEASES_LOST * self.cfg.lease_s
        self._again.setdefault(unit, {}).update(
            {w.receiver: now + (lost_s if w.job in there else RETRY_S) for w in wishes}
        )

    def _sweep(self, below: int) -> None:
        """Forget what all jobs have behind them."""
        self.feed.forget(below)
        self._again = {u: when for u, when in self._again.items() if u[0] >= below}

    def _add(self, **amounts: float) -> None:
        with self._lock:
            for name, amount in amounts.items():
                self._said[name] += amount

    def _beat(self) -> None:
        while True:
            with contextlib.suppress(OSError):  # a full disk; whoever stops renewing is dead for ever
                self.feed.beat(self.name, self.said())
            if self._over.wait(self.cfg.lease_s / BEATS):
                return
