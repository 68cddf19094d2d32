"""Processes that wait for calls; each call is one distributed run of the first n of them, over gloo."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

TIMEOUT_S = 180  # a machine that others use, too, takes a minute to import torch in four processes


class RankPool:
    """`pool(n, function, *args)` calls `function(*args)` on n ranks and returns what each returned.

    An answer that comes after its call was given up is dropped: one slow case does not fail the next.
    """

    def __init__(self, size: int, timeout_s: float = TIMEOUT_S) -> None:
        self.timeout_s, self._call = timeout_s, 0
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(size)]
        self._ours = [ours for ours, _ in pipes]
        self._processes = [context.Process(target=_serve, args=(theirs,), daemon=True) for _, theirs in pipes]

    def __enter__(self) -> RankPool:
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
            process.join()

    def __call__(self, n: int, function: Callable[..., Any], *args: Any) -> list[Any]:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self._call += 1
        for rank, pipe in enumerate(self._ours[:n]):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            pipe.send((self._call, {k: str(v) for k, v in place.items()}, function, args))
        answers = []
        for rank, pipe in enumerate(self._ours[:n]):
            call, until = 0, time.monotonic() + self.timeout_s
            while call != self._call:
                assert pipe.poll(max(0.0, until - time.monotonic())), (
                    f"rank {rank} of {function.__name__}{args} does not answer"
                )
                call, *answer = pipe.recv()
            answers.append(answer)
        failed = [f"rank {rank}:\n{said}" for rank, (ok, said) in enumerate(answers) if not ok]
        assert not failed, f"{function.__name__}{args}\n" + "\n".join(failed)
        return [result for _, result in answers]


def _serve(calls: Connection) -> None:
    import torch

    from stepvideo.parallel.mesh import disconnect

    torch.set_num_threads(1)
    while True:
        call, environment, function, args = calls.recv()
        os.environ.update(environment)
        try:
            result = True, function(*args)
        except Exception:
            result = False, traceback.format_exc()
        disconnect()
        calls.send((call, *result))
