"""Processes at a pipe that are killed at random moments and come back; what they used is on disk, line by line."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from stepvideo.pipes.config import PipeConfig
from stepvideo.pipes.consumer import Consumer
from stepvideo.pipes.errors import PipeError
from stepvideo.pipes.file_registry import FileRegistry
from stepvideo.pipes.producer import Producer

CONFIG = PipeConfig(heartbeat_s=0.3, rejoin_s=600, frame_bytes=1 << 16, crc=True)
WINDOW = 1 << 20  # bytes
PRODUCERS = ("p0", "p1", "p2")
JOBS = {"main": 2, "ablation": 1}  # ranks
LONGEST_S = 120  # that what is left may take after the last kill
Used = tuple[str, int]
"""producer, number"""


def made(n: int) -> torch.Tensor:
    """Item n of any producer: up to 240 kB."""
    return torch.full((1 + (n * 7919) % 60_000,), n % 1000, dtype=torch.float32)


def produce(folder: Path, name: str) -> None:
    """The same items in every life, hence an epoch and numbers of its own; after `stop` to the end that it noted, which
    is behind all that an earlier life made."""
    torch.set_num_threads(1)
    last, log = folder / f"{name}.last", folder / f"{name}.made"
    notes = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    made_before = max(map(int, log.read_text().split()), default=-1) + 1
    with Producer(FileRegistry(folder), "pipe", name, window_bytes=WINDOW, epoch=1, jobs=JOBS, config=CONFIG) as out:
        n = 0
        while not last.exists() or n < int(last.read_text()):
            if not out.settled(n):
                os.write(notes, f"{n}\n".encode())
                out.send({"x": made(n)}, {"n": n}, seq=n)
                time.sleep(0.002)
            n += 1
            if (folder / "stop").exists() and not last.exists():
                last.with_suffix(".tmp").write_text(str(max(n, made_before)))
                last.with_suffix(".tmp").rename(last)
        out.flush()
        (folder / f"{name}.done").touch()


def consume(folder: Path, job: str, rank: int) -> None:
    """Notes an item, then acknowledges it; what any rank of the job has noted is its state when it comes back."""
    torch.set_num_threads(1)
    notes = os.open(folder / f"{job}.{rank}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    runs: dict[str, list[list[int]]] = {}
    for producer, n in used(folder, job):
        runs.setdefault(producer, []).append([n, n + 1])
    state = {name: {"epoch": 1, "done": done} for name, done in runs.items()}
    with Consumer(FileRegistry(folder), "pipe", job, rank, capacity_bytes=WINDOW, state=state, config=CONFIG) as source:
        while not (folder / "end").exists():
            try:
                item = source.receive(timeout=0.2)
            except TimeoutError:
                continue
            assert item.meta["n"] == item.seq and torch.equal(item.tensors["x"], made(item.seq))
            os.write(notes, f"{item.producer} {item.seq}\n".encode())
            source.ack(item)


def used(folder: Path, job: str) -> list[Used]:
    lines = [line.split() for path in sorted(folder.glob(f"{job}.*.log")) for line in path.read_text().splitlines()]
    return [(producer, int(n)) for producer, n in lines]


def kill_at_random(folder: Path, kills: int, seed: int) -> dict[str, float]:
    """Kill members `kills` times while all work, then let them finish.

    Returns, by name: items that each producer made in all; of the job of several ranks, items that were used twice.

    Raises:
        AssertionError: an item is missing in a job, or used twice in the job of one rank, or an account is wrong.
    """
    context, draw = multiprocessing.get_context("forkserver"), random.Random(seed)
    context.set_forkserver_preload(["torch", "stepvideo.pipes.producer", "stepvideo.pipes.consumer"])
    start = {name: (produce, (folder, name)) for name in PRODUCERS}
    start |= {f"{job}.{r}": (consume, (folder, job, r)) for job, ranks in JOBS.items() for r in range(ranks)}
    running: dict[str, BaseProcess] = {}

    def begin(name: str) -> None:
        target, arguments = start[name]
        running[name] = context.Process(target=target, args=arguments, name=name)
        running[name].start()

    for name in start:
        begin(name)
    registry = FileRegistry(folder)
    _wait(lambda: all(used(folder, job) for job in JOBS), running)
    for _ in range(kills):
        time.sleep(draw.uniform(0.02, 0.3))
        _check_accounts(registry)
        victim = draw.choice(sorted(start))
        assert running[victim].is_alive(), f"{victim} ended by itself: {running[victim].exitcode}"
        running[victim].kill()
        running[victim].join()
        time.sleep(draw.choice((0.0, 0.0, draw.uniform(0, 0.7))))  # at once, or after it was missed
        begin(victim)
    (folder / "stop").touch()
    _wait(lambda: all((folder / f"{name}.done").exists() for name in PRODUCERS), running)
    _check_accounts(registry)
    (folder / "end").touch()
    for process in running.values():
        process.join(LONGEST_S)
        assert process.exitcode == 0, f"{process.name} ended with {process.exitcode}"
    return _compare(folder)


def _compare(folder: Path) -> dict[str, float]:
    produced = {(p, n) for p in PRODUCERS for n in range(int((folder / f"{p}.last").read_text()))}
    twice = {}
    for job in JOBS:
        times = Counter(used(folder, job))
        assert times.keys() == produced, f"{job}: {len(produced - times.keys())} of {len(produced)} items are missing"
        twice[job] = sum(n > 1 for n in times.values())
    assert twice["ablation"] == 0, f"{twice['ablation']} items were used twice by the only rank of a job"
    return {"produced": len(produced), "twice": twice["main"]}


def _check_accounts(registry: FileRegistry) -> None:
    for m in registry.members():
        for account in (m.metrics, *m.metrics.get("jobs", {}).values()):
            assert account.get("discrepancy", 0) == 0, (m.name, account)


def _wait(true, running: dict[str, BaseProcess]) -> None:
    end = time.monotonic() + LONGEST_S
    while not true():
        bad = [p.name for p in running.values() if p.exitcode]
        assert not bad, f"{bad} ended by themselves"
        if time.monotonic() > end:
            raise PipeError("it takes too long")
        time.sleep(0.05)
