"""One thread for one set of networks: tasks wait in a bounded line and are done in the order they came."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from stepvideo.inference.serve.errors import QueueFull, Stopping

T = TypeVar("T")
Task = Callable[[], object]

log = logging.getLogger(__name__)


class Worker:
    """Args: limit: tasks that may wait, beside the one that is being done."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._waiting: dict[str, tuple[Task, Task]] = {}  # in order; what to do, and what if it never comes to that
        self._wake = threading.Condition()
        self._closed = False
        self._busy = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def put(self, name: str, task: Task, dropped: Task = lambda: None, bounded: bool = True) -> None:
        """Queue a task. `dropped` is called instead if the worker closes before.

        Raises:
            QueueFull, Stopping.
        """
        with self._wake:
            if self._closed:
                raise Stopping("the server is stopping")
            if bounded and len(self._waiting) >= self.limit:
                raise QueueFull(f"{len(self._waiting)} requests are waiting, which is this server's limit", 10)
            self._waiting[name] = (task, dropped)
            self._wake.notify()

    def call(self, task: Callable[[], T]) -> Future[T]:
        """Queue a task for its result."""
        future: Future[T] = Future()

        def settle() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(task())
            except Exception as e:
                future.set_exception(e)

        self.put(uuid.uuid4().hex, settle, lambda: future.set_exception(Stopping("the server is stopping")))
        return future

    def remove(self, name: str) -> bool:
        """Take a task out of the line; False if it is not in it (any more)."""
        with self._wake:
            return self._waiting.pop(name, None) is not None

    def position(self, name: str) -> int:
        """Tasks before this one, the running one included; 0 if it does not wait."""
        with self._wake:
            return list(self._waiting).index(name) + self._busy if name in self._waiting else 0

    def close(self, timeout_s: float) -> bool:
        """Take no more, drop who waits, and wait for the running task. False if it did not end in time."""
        with self._wake:
            self._closed = True
            dropped = [d for _, d in self._waiting.values()]
            self._waiting.clear()
            self._wake.notify()
        for drop in dropped:
            drop()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while True:
            with self._wake:
                self._busy = False
                while not self._waiting:
                    if self._closed:
                        return
                    self._wake.wait()
                name = next(iter(self._waiting))
                task, _ = self._waiting.pop(name)
                self._busy = True
            try:
                task()
            except Exception:  # a full disk, say; the next request is still to be served
                log.exception("request %s", name)
