"""Pipes against what else carries tensors between processes, on this machine's loopback.

    python benchmarks/pipes.py [--json] [--check] [--rounds 5] [--messages 24]

64 MiB of float32 a message, one producer process and one consumer process. The ways take turns, round by round, so that
all see the same machine; a ratio is that of one round, and its median over the rounds is what counts:

    socket    sendall from the tensor, recv_into one that is there: nothing in Python can do less
    pipes     ours, then with a CRC of every frame, then encrypted
    rpc       torch.distributed.rpc, TensorPipe over TCP, four calls at a time
    pickle    pickle.dumps(tensor) over a ZeroMQ socket

Then one producer to eight jobs (everything to each) and four producers to the four ranks of a job, each against sockets
in the same arrangement, a thread a socket. `--check` exits 1 below 0.8 × socket, 2 × rpc or 5 × pickle.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import pickle
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pipe_sockets as sockets
import torch
import torch.distributed.rpc as rpc
import zmq
from model_speed import machine

from stepvideo.pipes import keys
from stepvideo.pipes.config import MIB, PipeConfig
from stepvideo.pipes.consumer import Consumer
from stepvideo.pipes.producer import Producer
from stepvideo.pipes.registry import open_registry

NBYTES = 64 * MIB
BARS = {"socket": 0.8, "rpc": 2.0, "pickle": 5.0}
ROOM = 4 * NBYTES  # window of a producer, memory of a consumer
PRELOAD = ("torch", "torch.distributed.rpc", "stepvideo.pipes.producer", "stepvideo.pipes.consumer")

End = Generator[Any, int, None]
"""One side: it is sent how many messages a producer makes, and answers when they are through."""

Side = Callable[..., End]


class Way:
    """Processes that carry tensors in one way, for as many rounds as wanted."""

    def __init__(
        self, producer: Callable[..., End], consumer: Callable[..., End], shape: tuple[int, int] = (1, 1)
    ) -> None:
        self._producers, self._rounds = shape[0], 0
        self._folder = tempfile.TemporaryDirectory(prefix="pipes-")
        keys.create(Path(self._folder.name) / "keys")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([m for m in PRELOAD if m in sys.modules])
        self._ends: list[Connection] = []
        for side, count in ((producer, shape[0]), (consumer, shape[1])):
            for i in range(count):
                ours, theirs = context.Pipe()
                arguments = (side, i, self._folder.name, shape, theirs)
                context.Process(target=_serve, args=arguments, daemon=True).start()
                self._ends.append(ours)
        self.round(4)

    def round(self, messages: int) -> float:
        """MB/s that came, over all consumers."""
        start = time.monotonic()
        for end in self._ends:
            end.send(messages)
        for end in self._ends[: self._producers]:
            end.recv()
        Path(self._folder.name, f"sent-{self._rounds}").touch()
        self._rounds += 1
        taken = [end.recv() for end in self._ends[self._producers :]]
        return sum(n for _, n in taken) * NBYTES / 1e6 / (max(stop for stop, _ in taken) - start)

    def close(self) -> None:
        for end in self._ends:
            end.send(0)
        self._folder.cleanup()


def _serve(side: Side, index: int, folder: str, shape: tuple[int, int], orders: Connection) -> None:
    torch.set_num_threads(1)
    end = side(index, folder, shape)
    next(end)
    while messages := orders.recv():
        orders.send(end.send(messages))


def pipes_producer(index: int, folder: str, shape: tuple[int, int], **settings: Any) -> End:
    config, jobs = _config(folder, settings), {_job(i, shape) for i in range(shape[1])}
    with Producer(open_registry(folder), "b", f"p{index}", jobs=jobs, window_bytes=ROOM, config=config) as out:
        x, messages = tensor(), (yield)
        while True:
            for _ in range(messages):
                out.send({"x": x})
            out.flush()
            messages = yield


def pipes_consumer(index: int, folder: str, shape: tuple[int, int], **settings: Any) -> End:
    config, job = _config(folder, settings), _job(index, shape)
    with Consumer(open_registry(folder), "b", job, index, capacity_bytes=ROOM, config=config) as source:
        yield
        for number in itertools.count():
            taken, last, sent = 0, 0.0, Path(folder, f"sent-{number}")
            while not sent.exists():  # a rank's share is about equal, not exactly
                with contextlib.suppress(TimeoutError):
                    source.ack(source.receive(timeout=0.1))
                    taken, last = taken + 1, time.monotonic()
            yield last, taken


def _job(index: int, shape: tuple[int, int]) -> str:
    """Consumers of one producer are jobs, others the ranks of one."""
    return f"job{index}" if shape[0] == 1 else "job"


def _config(folder: str, settings: dict[str, Any]) -> PipeConfig:
    settings = {**settings}
    keyfile = f"{folder}/keys" if settings.pop("encrypted", False) else None
    return PipeConfig(keys=keyfile, **settings)


def tensor() -> torch.Tensor:
    return torch.randn(NBYTES // 4)


def rpc_producer(index: int, folder: str, shape: tuple[int, int]) -> End:
    _rpc(folder, "producer", 0)
    x, messages = tensor(), (yield)
    while True:
        calls: list[Any] = []
        for i in range(messages):
            if i >= 4:
                calls[i - 4].wait()
            calls.append(rpc.rpc_async("consumer", _rpc_take, args=(x,)))
        torch.futures.wait_all(calls)
        messages = yield


_arrived = threading.Semaphore(0)


def _rpc_take(_: torch.Tensor) -> None:
    _arrived.release()


def rpc_consumer(index: int, folder: str, shape: tuple[int, int]) -> End:
    _rpc(folder, "consumer", 1)
    messages = yield
    while True:
        for _ in range(messages):
            _arrived.acquire()
        messages = yield time.monotonic(), messages


def _rpc(folder: str, name: str, rank: int) -> None:
    options = rpc.TensorPipeRpcBackendOptions(
        init_method=f"file://{folder}/rpc", _transports=["uv"], _channels=["basic"]
    )
    rpc.init_rpc(name, rank=rank, world_size=2, rpc_backend_options=options)


def pickle_producer(index: int, folder: str, shape: tuple[int, int]) -> End:
    socket = zmq.Context().socket(zmq.PAIR)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    Path(folder, "port").write_text(str(port))
    x, messages = tensor(), (yield)
    while True:
        for _ in range(messages):
            socket.send(pickle.dumps(x))
        messages = yield


def pickle_consumer(index: int, folder: str, shape: tuple[int, int]) -> End:
    socket = zmq.Context().socket(zmq.PAIR)
    socket.connect(f"tcp://127.0.0.1:{sockets.wait_for(Path(folder, 'port'))}")
    messages = yield
    while True:
        for _ in range(messages):
            pickle.loads(socket.recv())
        messages = yield time.monotonic(), messages


OURS = {"pipes": {}, "pipes, crc": {"crc": True}, "pipes, encrypted": {"encrypted": True}}
SHAPES = {"1 → 8 jobs": (1, 8), "4 → 4 ranks": (4, 4)}


def ways() -> dict[str, Callable[[], Way]]:
    ours = {name: partial(Way, partial(pipes_producer, **s), partial(pipes_consumer, **s)) for name, s in OURS.items()}
    return {
        "socket": partial(Way, partial(sockets.producer, nbytes=NBYTES), partial(sockets.consumer, nbytes=NBYTES)),
        **ours,
        "rpc": partial(Way, rpc_producer, rpc_consumer),
        "pickle": partial(Way, pickle_producer, pickle_consumer),
    }


def compare(make: dict[str, Callable[[], Way]], rounds: int, messages: int) -> dict[str, list[float]]:
    """MB/s by way and round, interleaved."""
    running = {name: m() for name, m in make.items()}
    speeds = {name: [] for name in running}
    for i in range(rounds):
        order = list(running)[i % len(running) :] + list(running)[: i % len(running)]
        for name in order:
            count = messages if name not in ("pickle", "pipes, encrypted") else max(messages // 4, 2)
            speeds[name].append(running[name].round(count))
    for way in running.values():
        way.close()
    return speeds


def ratio(speeds: dict[str, list[float]], name: str, other: str) -> float:
    return statistics.median(a / b for a, b in zip(speeds[name], speeds[other]))


def summary(speeds: dict[str, list[float]]) -> dict[str, float]:
    return {k: statistics.median(v) for k, v in speeds.items()} | {"ratio": ratio(speeds, "pipes", "socket")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=24)
    parser.add_argument("--single", action="store_true", help="one producer and one consumer only")
    args = parser.parse_args()
    single = compare(ways(), args.rounds, args.messages)
    many = {}
    for name, shape in {} if args.single else SHAPES.items():
        make = {
            "socket": partial(
                Way, partial(sockets.producer, nbytes=NBYTES), partial(sockets.consumer, nbytes=NBYTES), shape
            ),
            "pipes": partial(Way, pipes_producer, pipes_consumer, shape),
        }
        many[name] = compare(make, args.rounds, max(args.messages // 4, 4))
    ratios = {other: ratio(single, "pipes", other) for other in BARS}
    result = {
        "machine": machine(),
        "mb_per_s": {name: statistics.median(s) for name, s in single.items()},
        "rounds": single,
        "ratios": ratios,
        "crc_costs": 1 - ratio(single, "pipes, crc", "pipes"),
        "encryption_costs": 1 - ratio(single, "pipes, encrypted", "pipes"),
        "many": {name: summary(s) for name, s in many.items()},
        "met": all(ratios[other] >= bar for other, bar in BARS.items()),
    }
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        for name, speed in result["mb_per_s"].items():
            print(f"{name:18} {speed:8.0f} MB/s")
        for other, bar in BARS.items():
            print(f"pipes / {other:10} {ratios[other]:8.2f}  (bar {bar})")
        print(f"a CRC costs {result['crc_costs']:.0%}, encryption {result['encryption_costs']:.0%} of the speed")
        for name, s in result["many"].items():
            print(f"{name:18} {s['pipes']:8.0f} MB/s over all, {s['ratio']:.2f} × sockets ({s['socket']:.0f})")
    return 1 if args.check and not result["met"] else 0


if __name__ == "__main__":
    sys.exit(main())
