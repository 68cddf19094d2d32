"""The yardstick of benchmarks/pipes.py: plain sockets, a thread each where there are several."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import torch


def wait_for(path: Path) -> str:
    """What another process writes there."""
    while not path.exists() or not path.read_text():
        time.sleep(0.01)
    return path.read_text()


def producer(index: int, folder: str, shape: tuple[int, int], nbytes: int) -> Generator[Any, int, None]:
    """To each of the consumers of a single producer everything; to those of several its share, in turn."""
    ports = [int(wait_for(Path(folder, f"port{i}"))) for i in range(shape[1])]
    out = [socket.create_connection(("127.0.0.1", port)) for port in ports]
    data = memoryview(torch.randn(nbytes // 4).view(torch.uint8).numpy())
    messages = yield
    while True:
        share = messages if shape[0] == 1 else messages // shape[1]
        _together([partial(_send, s, data, share) for s in out])
        messages = yield


def consumer(index: int, folder: str, shape: tuple[int, int], nbytes: int) -> Generator[Any, int, None]:
    server = socket.create_server(("127.0.0.1", 0))
    path = Path(folder, f"port{index}")
    path.with_suffix(".tmp").write_text(str(server.getsockname()[1]))
    path.with_suffix(".tmp").rename(path)
    messages = yield
    connections = [server.accept()[0] for _ in range(shape[0])]
    pools = [[memoryview(torch.empty(nbytes, dtype=torch.uint8).numpy()) for _ in range(2)] for _ in connections]
    while True:
        share = messages if shape[0] == 1 else messages // shape[1]
        _together([partial(_take, c, p, share) for c, p in zip(connections, pools)])
        messages = yield time.monotonic(), share * shape[0]


def _send(connection: socket.socket, data: memoryview, count: int) -> None:
    for _ in range(count):
        connection.sendall(data)


def _take(connection: socket.socket, pool: list[memoryview], count: int) -> None:
    for i in range(count):
        view = pool[i % len(pool)]
        while len(view):
            view = view[connection.recv_into(view) :]


def _together(calls: list[Callable[[], object]]) -> None:
    if len(calls) == 1:
        calls[0]()
        return
    threads = [threading.Thread(target=call) for call in calls]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
