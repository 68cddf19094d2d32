"""Chunks as tasks of a Ray cluster, one each; a task works in a killable process of its node, as `pool` has them.

Ray's own retries are off: they are silent, and have no end for a task that kills its worker. A chunk whose task was
lost with its worker or node is done again a few times, and every time it is said. Nodes need the same packages and see
the store under the same path; which code they have is checked.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from stepvideo.curation.pool import new_pool, run_in
from stepvideo.errors import ConfigError, Preempted, StageFailed
from stepvideo.fingerprint import fingerprint

LOSSES = 3  # a chunk may lose its worker so often
QUEUED = 2  # tasks submitted for each processor; more would only grow the queue
OBJECT_STORE = 100 << 20  # bytes; rows are small
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # off, Ray listens on 127.0.0.1 only, on every system
ROOT = Path(__file__).resolve().parents[2]


def run_on_ray(
    work: Callable[[list[Any]], list[Any]],
    chunks: Sequence[tuple[int, list[Any]]],
    on_failure: Callable[[Any, str, str], Any],
    workers: int,
    timeout_s: float,
    memory_mb: int = 0,
    stop: Callable[[], bool] = lambda: False,
    *,
    address: str = "",
    place: Path,
    told: Callable[..., None],
) -> Iterator[tuple[int, list[Any]]]:
    """As `pool.run_chunks`, by tasks of one processor each.

    Args:
        workers: processors of a cluster of one's own; one that is there already is used as far as it goes.
        address: host:port of a running cluster; empty: one of this machine, which ends with the call.
        place: a folder that every node must see.
        told: called with "worker_lost" and chunk, times and error, whenever a chunk is done again.

    Raises:
        ConfigError: the package is not installed, or nothing answers at the address.
        StageFailed: a chunk was lost too often, the cluster is gone, or a node has other code or no store.
        Whatever `work` raises.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("runtime.executor=ray: the package ray is not installed; pip install 'stepvideo[ray]'")
    with _cluster(address, workers) as ray:
        lost = (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError)
        code = _code(_origin(work))
        task = ray.remote(num_cpus=1, max_retries=0)(_chunk)
        slots = max(1, int(ray.cluster_resources().get("CPU", 1))) if address else workers
        waiting, losses = list(chunks)[::-1], dict.fromkeys((n for n, _ in chunks), 0)
        running: dict[Any, tuple[int, list[Any]]] = {}
        while waiting or running:
            while waiting and len(running) < slots * QUEUED:
                number, items = waiting.pop()
                made = task.remote(work, number, items, on_failure, timeout_s, memory_mb, code, str(place))
                running[made] = number, items
            done, _ = ray.wait(list(running), num_returns=1, timeout=0.5)
            if stop():
                for each in running:
                    ray.cancel(each, force=True)
                raise Preempted
            for made in done:
                number, items = running.pop(made)
                try:
                    yield number, ray.get(made)
                except ray.exceptions.RayTaskError as e:
                    raise e.cause from e
                except lost as e:
                    losses[number] += 1
                    why = f"{type(e).__name__}: {str(e).splitlines()[0]}"
                    if losses[number] > LOSSES:
                        raise StageFailed(f"part {number} lost its Ray worker {losses[number]} times: {why}") from e
                    told("worker_lost", chunk=number, times=losses[number], error=why)
                    waiting.append((number, items))
                except ray.exceptions.RayError as e:
                    raise StageFailed(f"Ray cluster {address or 'of this machine'}: {e}") from e


def _chunk(
    work: Callable[[list[Any]], list[Any]],
    number: int,
    items: list[Any],
    on_failure: Callable[[Any, str, str], Any],
    timeout_s: float,
    memory_mb: int,
    code: str,
    place: str,
) -> list[Any]:
    """One chunk, in the process that this node's Ray worker keeps."""
    node = socket.gethostname()
    if (found := _code(_origin(work))) != code:
        raise StageFailed(f"the code of node {node} ({found}) is not the driver's ({code}); install the same there")
    if not Path(place).is_dir():
        raise StageFailed(f"node {node} does not see {place}; Ray's nodes need the store under the same path")
    return next(run_in(_pool(memory_mb), work, [(number, items)], on_failure, 1, timeout_s))[1]


@functools.cache
def _pool(memory_mb: int) -> Any:
    """A worker's own process, which lives as long: networks are loaded once."""
    pool = new_pool(1, memory_mb)
    atexit.register(pool.stop)
    return pool


def _origin(work: Any) -> str:
    return _origin(work.func) if isinstance(work, functools.partial) else work.__module__


_code = functools.cache(fingerprint)


@contextlib.contextmanager
def _cluster(address: str, processors: int) -> Iterator[Any]:
    """The module `ray`, connected to a cluster; one of our own hears nobody outside this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not address:
        os.environ[LOOPBACK] = "0"
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # its own lies in a file that all may read
    import ray

    own: dict[str, Any] = {"address": address}
    temporary = None
    if address:
        _greet(address)
    else:
        temporary = tempfile.mkdtemp(prefix="ray-")  # paths of sockets are short
        own = {"address": "local", "num_cpus": processors, "include_dashboard": False, "_temp_dir": temporary}
        own["object_store_memory"] = OBJECT_STORE
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.chdir(ROOT):  # workers look for code in the driver's current folder first
            ray.init(**own, log_to_driver=False, logging_level=logging.ERROR)
        if main:
            signal.signal(signal.SIGTERM, handler)  # Ray puts its own there
        yield ray
    finally:
        ray.shutdown()
        if main:
            signal.signal(signal.SIGTERM, handler)
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def _greet(address: str) -> None:
    """Ray itself would wait for minutes. Raises ConfigError."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as e:
        raise ConfigError(f"runtime.ray_address={address}: no Ray cluster answers there ({e})") from e
