"""Stress tests of a group of ranks: exchanges of tensor, expert, pipeline and data parallelism by torch.distributed.

    python -m stepvideo.mind.stress.group --ranks 4          a group on this machine, in processes of its own
    torchrun … -m stepvideo.mind.stress.group                this process is a rank of a group over nodes
    srun … python -m stepvideo.mind.stress.group --store P   so it is; who called srun serves the store at that port

gloo on CPUs, nccl on GPUs. Rank 0 prints bus bandwidths in GB/s as JSON: what each link carries, whatever the ranks.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from multiprocessing import connection, get_context
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

SIZES = {"tp": 2**20, "ep": 2**20, "pp": 2**20, "dp": 2**22}
"""Float32 elements of a message: activations of a layer, tokens for experts, a stage's hand-over, a bucket."""


def exchanges(rank: int, world: int, device: torch.device) -> dict[str, tuple[Callable[[], object], float]]:
    """Each pattern as a call, and the bytes that a link carries in it (the "bus" bytes of nccl-tests)."""
    buffers = {name: torch.ones(n // world * world, device=device) for name, n in SIZES.items()}
    share, size = (world - 1) / world, {name: b.nbytes for name, b in buffers.items()}
    tokens, handed = torch.empty_like(buffers["ep"]), torch.empty_like(buffers["pp"])
    gathered = torch.empty_like(buffers["dp"])
    own = gathered.chunk(world)[rank].clone()

    def pipeline() -> None:
        for request in dist.batch_isend_irecv(
            [
                dist.P2POp(dist.isend, buffers["pp"], (rank + 1) % world),
                dist.P2POp(dist.irecv, handed, (rank - 1) % world),
            ]
        ):
            request.wait()

    return {
        "tp": (lambda: dist.all_reduce(buffers["tp"]), 2 * share * size["tp"]),
        "ep": (lambda: dist.all_to_all_single(tokens, buffers["ep"]), share * size["ep"]),
        "pp": (pipeline, float(size["pp"])),
        "dp": (lambda: dist.all_gather_single(gathered, own), share * size["dp"]),
    }


def measure(
    rank: int, world: int, device: torch.device, seconds: float, before: Callable[[int], None] | None = None
) -> dict[str, float]:
    """GB/s of every pattern. Ranks count their turns, so that all take the same number.

    before: is called with the rank before each exchange; tests slow or break a rank by it.
    """
    found = {}
    for name, (exchange, size) in exchanges(rank, world, device).items():
        taken = []
        deadline = torch.tensor([time.perf_counter() + seconds])
        while True:
            if before:
                before(rank)
            begun = time.perf_counter()
            exchange()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken.append(time.perf_counter() - begun)
            more = torch.tensor([float(len(taken) < 3 or time.perf_counter() < deadline.item())], device=device)
            dist.broadcast(more, 0)
            if not more.item():
                break
        found[name] = size / max(median(taken[1:]), 1e-9) / 1e9
    return found


def join(
    rank: int, world: int, address: str, port: int, timeout_s: float, device: torch.device, serve: bool = True
) -> None:
    """serve: rank 0 serves the store. Raises RuntimeError: the others did not come in time."""
    store = dist.TCPStore(address, port, world, serve and rank == 0, timeout=timedelta(seconds=timeout_s))
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timedelta(seconds=timeout_s))


def run_group(
    ranks: int,
    seconds: float = 0.2,
    timeout_s: float = 30.0,
    cuda: bool = False,
    before: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """A group on this machine; {} if it did not finish in time or a rank died.

    Ranks are forked, so the process must not have used threads or a GPU; call it from one of its own.
    """
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context: Any = get_context("spawn" if cuda else "fork")
    reader, writer = context.Pipe(duplex=False)
    arguments = (ranks, port, seconds, timeout_s, cuda, before)
    processes = [context.Process(target=_rank, args=(r, *arguments, writer if r == 0 else None)) for r in range(ranks)]
    for process in processes:
        process.start()
    writer.close()
    until, found = time.monotonic() + timeout_s, {}
    waiting: dict[Any, Any] = {p.sentinel: p for p in processes}
    while waiting and (ready := connection.wait([reader, *waiting], max(until - time.monotonic(), 0.0))):
        for which in ready:
            if which is reader:
                found = _received(reader)
                waiting.clear()
            elif waiting and waiting.pop(which).exitcode:  # one that died leaves the others waiting
                waiting.clear()
    for process in processes:
        process.join(0.2 if found else 0)
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
    return found


def _received(reader: connection.Connection) -> dict[str, float]:
    try:
        return reader.recv()
    except EOFError:
        return {}


def _rank(
    rank: int,
    world: int,
    port: int,
    seconds: float,
    timeout_s: float,
    cuda: bool,
    before: Callable[[int], None] | None,
    writer: connection.Connection | None,
) -> None:
    torch.set_num_threads(1)
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    try:
        join(rank, world, "127.0.0.1", port, timeout_s, device)
        found = measure(rank, world, device, seconds, before)
    except Exception:  # whoever is at fault, this group failed
        os._exit(1)
    if writer:
        writer.send(found)
        writer.close()
    os._exit(0)


def place(environment: Mapping[str, str], store: int = 0) -> tuple[int, int, str, int] | None:
    """rank, world, address and port of the store, as torchrun or srun tell them; None: neither does."""
    if store and "SLURM_PROCID" in environment:
        world, address = int(environment["SLURM_NTASKS"]), environment["SLURM_LAUNCH_NODE_IPADDR"]
        return int(environment["SLURM_PROCID"]), world, address, store
    if "RANK" in environment and "MASTER_ADDR" in environment:
        port = int(environment.get("MASTER_PORT", 29500))
        return int(environment["RANK"]), int(environment["WORLD_SIZE"]), environment["MASTER_ADDR"], port
    return None


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m stepvideo.mind.stress.group")
    parser.add_argument("--ranks", type=int, default=0, help="of a group on this machine")
    parser.add_argument("--seconds", type=float, default=0.2, help="of each pattern")
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--store", type=int, default=0, metavar="PORT", help="served where srun was called")
    args = parser.parse_args(argv)
    if args.ranks:
        found = run_group(args.ranks, args.seconds, args.timeout, args.cuda)
    elif where := place(os.environ, args.store):
        rank, world, address, port = where
        device = torch.device("cuda", rank % torch.cuda.device_count()) if args.cuda else torch.device("cpu")
        join(rank, world, address, port, args.timeout, device, serve=not args.store)
        found = measure(rank, world, device, args.seconds)
        dist.destroy_process_group()
        if rank:
            return 0
    else:
        parser.error("give --ranks, or start it by torchrun, or by srun with --store")
    print(json.dumps(found))
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
