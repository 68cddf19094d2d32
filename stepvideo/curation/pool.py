"""A process pool in which a bad file costs that file only.

Work is done in chunks. A chunk whose worker dies or runs out of time is done again file by file, and the one file that
does it again is handed to `on_failure`. Workers are killed, not asked: a decoder stuck in C hears no Python exception.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from multiprocessing import get_context
from typing import Any

from stepvideo.errors import Preempted

PRELOAD = ["av", "cv2", "scenedetect.detectors", "pyarrow", "stepvideo.curation.cut"]
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
IN_FLIGHT = 3  # chunks submitted for each worker; more would only grow the queue


def cores() -> int:
    return len(os.sched_getaffinity(0))


def limit(memory_mb: int) -> None:
    """Initialise a worker: bound its memory, keep it to one thread and quiet, and have it end with who started it."""
    import ctypes
    import resource

    import av
    import cv2

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a hanging decoder would outlive a killed job
    if memory_mb:
        resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    av.logging.set_level(av.logging.FATAL)
    logging.getLogger("libav").setLevel(logging.CRITICAL)


def run_chunks(
    work: Callable[[list[Any]], list[Any]],
    chunks: Sequence[tuple[int, list[Any]]],
    on_failure: Callable[[Any, str, str], Any],
    workers: int,
    timeout_s: float,
    memory_mb: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[int, list[Any]]]:
    """`work(items)` for every (number, items) of `chunks`, in any order; yields (number, one result an item).

    Args:
        work: importable by name in a new process; returns one result an item, in their order.
        on_failure: (item, "crash" or "timeout", detail) → the result of an item whose worker died or hung.
        timeout_s: for a chunk, and again for every file of a chunk that failed.
        stop: asked twice a second; True ends the pool and raises Preempted.

    Raises:
        Whatever `work` raises: an error that no single file is to blame for.
    """
    pool = new_pool(workers, memory_mb)
    try:
        yield from run_in(pool, work, chunks, on_failure, workers, timeout_s, stop)
        pool.close()
    finally:
        pool.stop()
        pool.join()


def new_pool(workers: int, memory_mb: int) -> Any:
    """A pebble pool of workers of `memory_mb` each."""
    from pebble import ProcessPool

    context = get_context("forkserver")  # fork would copy threads and locks of a process that uses torch
    context.set_forkserver_preload(PRELOAD)
    return ProcessPool(max_workers=workers, initializer=limit, initargs=(memory_mb,), context=context)


def run_in(
    pool: Any,
    work: Callable[[list[Any]], list[Any]],
    chunks: Sequence[tuple[int, list[Any]]],
    on_failure: Callable[[Any, str, str], Any],
    workers: int,
    timeout_s: float,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[int, list[Any]]]:
    """`run_chunks` in a pool that may serve others after."""
    from pebble import ProcessExpired

    waiting = list(chunks)[::-1]
    running: dict[Any, tuple[int, list[Any], int | None]] = {}  # future → chunk number, items, place of a lone item
    partial: dict[int, list[Any]] = {}  # results of chunks that are done file by file
    missing: dict[int, int] = {}

    def submit(number: int, items: list[Any], place: int | None) -> None:
        running[pool.schedule(work, args=[items], timeout=timeout_s)] = (number, items, place)

    def settle(number: int, place: int, result: Any) -> Iterator[tuple[int, list[Any]]]:
        partial[number][place] = result
        missing[number] -= 1
        if not missing[number]:
            yield number, partial.pop(number)

    while waiting or running:
        while waiting and len(running) < workers * IN_FLIGHT:
            submit(*waiting.pop(), None)
        done, _ = wait(list(running), timeout=0.5, return_when=FIRST_COMPLETED)
        if stop():
            raise Preempted
        for future in done:
            number, items, place = running.pop(future)
            try:
                results = future.result()
            except (TimeoutError, ProcessExpired) as e:
                if place is None and len(items) > 1:
                    partial[number], missing[number] = [None] * len(items), len(items)
                    for i, item in enumerate(items):
                        submit(number, [item], i)
                    continue
                result = on_failure(items[0], *_fault(e, timeout_s))
                if place is None:
                    yield number, [result]
                else:
                    yield from settle(number, place, result)
                continue
            if place is None:
                yield number, results
            else:
                yield from settle(number, place, results[0])


def _fault(error: BaseException, timeout_s: float) -> tuple[str, str]:
    if isinstance(error, TimeoutError):
        return "timeout", f"not done after {timeout_s:g} s; its worker was killed"
    code = getattr(error, "exitcode", None)
    return "crash", f"its worker ended with exit code {code}" + (f" (signal {-code})" if code and code < 0 else "")
