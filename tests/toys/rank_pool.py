"""Processes of tests that train, single ones and ranks over gloo: forked from one that has imported what they need."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import importlib
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener, wait
from pathlib import Path
from typing import Any

TIMEOUT_S = 180  # beside other work
IMPORTED = (
    "omegaconf",
    "torch._dynamo",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "torch.distributed.tensor.parallel",
    "torch.profiler",
    "pyarrow.dataset",
    "stepvideo.job",
    "stepvideo.training.dpo",
    "stepvideo.training.fit",
    "stepvideo.training.text",
    "stepvideo.training.train",
    "stepvideo.training.turbo",
    "stepvideo.training.vae",
)


class RankPool:
    """`pool(n, function, *args)` calls `function(*args)` on n ranks and returns what each returned.

    Every call has processes of its own: nothing of it stays (gloo's threads live as long as any cache holds a mesh), a
    rank that dies is reported, and one that does not answer is killed. They start in milliseconds, since the process
    they are forked from has imported torch, but made neither a thread nor a connection. multiprocessing's forkserver
    does not serve: there is one a process, and whoever started it first has chosen what it imports. pytest-xdist's
    workers share one, whose import takes ten seconds of CPU.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self.timeout_s = timeout_s

    def __enter__(self) -> RankPool:
        run = os.environ.get("PYTEST_XDIST_TESTRUNUID", f"{os.getpid()}-{id(self)}")
        address = Path(tempfile.gettempdir()) / f"ranks-{run[:20]}"
        self.address = str(address)
        self._lock = address.with_suffix(".lock")
        with self._lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until it listens: the next worker finds it
            try:
                self._calls = Client(self.address)
            except (FileNotFoundError, ConnectionRefusedError):
                address.unlink(missing_ok=True)
                self._calls = _start_server(self.address)
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.close()  # the server ends with the last one's
        self._lock.unlink(missing_ok=True)

    @classmethod
    def at(cls, address: str) -> RankPool:
        """The one of another test process; what was started from here ends with this connection."""
        pool = cls()
        pool.address, pool._calls = address, Client(address)
        return pool

    def __call__(self, n: int, function: Callable[..., Any], *args: Any) -> list[Any]:
        answers = [pickle.loads(answer) for answer in self._ask(_answers, n, self.timeout_s, _dumped(function, *args))]
        failed = [f"rank {rank}:\n{said}" for rank, (ok, said) in enumerate(answers) if not ok]
        assert not failed, f"{function.__name__}{args}\n" + "\n".join(failed)
        return [result for _, result in answers]

    def start(self, environment: dict[str, str], function: Callable[..., int], *args: Any) -> int:
        """The pid of a process that ends with what `function(*args)` returns; nobody but `exit_code` waits for it."""
        return self._ask(_start, environment, _dumped(function, *args))

    def exit_code(self, pid: int) -> int | None:
        """How a process of `start` ended, None while it runs. To be asked no more once it has said so."""
        return self._ask(_exit_code, pid)

    def _ask(self, what: Callable[..., Any], *args: Any) -> Any:
        self._calls.send((sys.path, what, args))
        try:
            return self._calls.recv()
        except BaseException:  # a test that ran out of time: its answer, which is still to come, is not the next one's
            with contextlib.suppress(OSError):
                again = Client(self.address)
                self._calls.close()
                self._calls = again
            raise


@functools.cache
def shared() -> RankPool:
    """The pool of this test process; it ends with it."""
    pool = RankPool().__enter__()
    atexit.register(pool.__exit__)
    return pool


def _dumped(function: Callable[..., Any], *args: Any) -> bytes:
    return pickle.dumps((function, args))  # not by the pipe, whose other end does not know the function's module


def _start_server(address: str) -> Connection:
    context = multiprocessing.get_context("spawn")
    listening, theirs = context.Pipe(duplex=False)
    server = context.Process(target=_listen, args=(address, theirs))  # no daemon: torchrun's agent has children
    server.start()
    multiprocessing.process._children.discard(server)  # type: ignore[attr-defined]  # others may need it longer
    theirs.close()
    listening.recv()
    return Client(address)


def _listen(address: str, listening: Connection) -> None:
    """Fork one that serves for every connection, until all of them have ended."""
    with Listener(address) as listener:
        listening.send(None)
        import torch

        torch.set_num_threads(1)
        for name in IMPORTED:
            importlib.import_module(name)
        _read_sources()
        serving: set[int] = set()
        first_by = time.monotonic() + TIMEOUT_S
        waiting: Any = listener._listener._socket  # type: ignore[attr-defined]
        while True:
            if wait([waiting], 1.0):
                calls = listener.accept()
                pid = os.fork()
                if not pid:
                    _serve(calls)
                    os._exit(0)
                calls.close()
                serving.add(pid)
                first_by = 0.0
            serving -= {pid for pid in serving if os.waitpid(pid, os.WNOHANG)[0]}
            if not serving and time.monotonic() > first_by:
                return


def _read_sources() -> None:
    """Every job takes the fingerprint of its code; what is read stays."""
    from stepvideo.fingerprint import fingerprint
    from stepvideo.stage import KINDS

    fingerprint(*(kind.run.partition(":")[0] for kind in KINDS.values()))


def _serve(calls: Connection) -> None:
    while True:
        try:
            sys.path[:], what, args = calls.recv()
        except EOFError:
            for pid in _STARTED:
                os.kill(pid, signal.SIGKILL)
            return
        calls.send(what(*args))


_STARTED: set[int] = set()


def _start(environment: dict[str, str], call: bytes) -> int:
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.environ.update(environment)
            function, args = pickle.loads(call)
            code = int(function(*args))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _STARTED.add(pid)
    return pid


def _exit_code(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    _STARTED.discard(ended)
    return os.waitstatus_to_exitcode(status) if ended else None


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
