"""Ranks of many small distributed runs over gloo, forked from one process that has imported what they need."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

TIMEOUT_S = 180  # beside other work
IMPORTED = (
    "torch._dynamo",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "torch.distributed.tensor.parallel",
    "stepvideo.training.fit",
    "stepvideo.training.train",
    "stepvideo.training.vae",
)


class RankPool:
    """`pool(n, function, *args)` calls `function(*args)` on n ranks and returns what each returned.

    Every call has processes of its own: nothing of it stays (gloo's threads live as long as any cache holds a mesh), a
    rank that dies is reported, and one that does not answer is killed. They start in milliseconds, since the process
    they are forked from has imported torch, but made neither a thread nor a connection.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self.timeout_s = timeout_s

    def __enter__(self) -> RankPool:
        context = multiprocessing.get_context("spawn")
        self._calls, theirs = context.Pipe()
        self._server = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._server.start()
        theirs.close()
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.close()  # the server ends with its pipe
        self._server.join()

    def __call__(self, n: int, function: Callable[..., Any], *args: Any) -> list[Any]:
        self._calls.send((n, self.timeout_s, sys.path, pickle.dumps((function, args))))
        answers = [pickle.loads(answer) for answer in self._calls.recv()]
        failed = [f"rank {rank}:\n{said}" for rank, (ok, said) in enumerate(answers) if not ok]
        assert not failed, f"{function.__name__}{args}\n" + "\n".join(failed)
        return [result for _, result in answers]


def _serve(calls: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    for name in IMPORTED:
        importlib.import_module(name)
    while True:
        try:
            n, timeout_s, path, call = calls.recv()
        except EOFError:
            return
        sys.path[:] = path
        calls.send(_answers(n, timeout_s, call))


def _answers(n: int, timeout_s: float, call: bytes) -> list[bytes]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        place = {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(s.getsockname()[1])}
    ranks: dict[Connection, tuple[int, int]] = {}
    for rank in range(n):
        reader, writer = multiprocessing.Pipe(duplex=False)
        pid = os.fork()
        if not pid:
            os.environ.update(place, RANK=str(rank), LOCAL_RANK=str(rank))
            writer.send_bytes(_answer(call))
            os._exit(0)
        writer.close()
        ranks[reader] = rank, pid
    answers = [pickle.dumps((False, f"does not answer within {timeout_s:g} s"))] * n
    until, waiting = time.monotonic() + timeout_s, set(ranks)
    while waiting and (ready := wait(list(waiting), max(0.0, until - time.monotonic()))):
        for reader in ready:
            waiting.discard(reader)  # type: ignore[arg-type]
            rank, _ = ranks[reader]  # type: ignore[index]
            try:
                answers[rank] = reader.recv_bytes()  # type: ignore[union-attr]
            except EOFError:
                answers[rank] = pickle.dumps((False, "died"))
    for reader, (_, pid) in ranks.items():
        if reader in waiting:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        reader.close()
    return answers


def _answer(call: bytes) -> bytes:
    from stepvideo.parallel.mesh import disconnect

    try:
        function, args = pickle.loads(call)
        answer = pickle.dumps((True, function(*args)))
        disconnect()
    except BaseException:
        answer = pickle.dumps((False, traceback.format_exc()))
    return answer
