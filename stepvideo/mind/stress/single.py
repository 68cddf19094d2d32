"""Stress tests of one machine: products, memory, copies to and from the device, disk. Higher is better.

The same code on a CPU, where "to the device" is a copy in memory, and on a GPU. Timing and shapes are those
of the calibration.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from stepvideo.emulator.calibrate import COPIED, GEMMS, times

TRANSFERRED = {"cuda": 2**26, "cpu": 2**22}  # elements of 4 bytes
DISK_BYTES = 16 << 20
SDC = "gemm_repeats"


def gemm(device: torch.device, seconds: float) -> dict[str, float]:
    """TFLOP/s of the largest product; and whether all of them have the same bits: a core that is broken may compute
    wrongly now and then, silently. 1: they do, 0: not."""
    m, k, n = GEMMS[device.type][0]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    draw = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(shape, device=device, generator=draw).to(dtype) for shape in ((m, k), (k, n)))
    first = a @ b
    same = torch.ones((), dtype=torch.bool, device=device)

    def run() -> None:
        same.logical_and_((a @ b == first).all())

    product = median(times(lambda: a @ b, device, seconds / 2))
    times(run, device, seconds / 2)
    return {"gemm_tflops": 2 * m * k * n / product / 1e12, SDC: float(same.item())}


def memory(device: torch.device, seconds: float) -> dict[str, float]:
    """GB/s read and written by a copy that no cache holds."""
    source = torch.ones(COPIED[device.type] // 4, device=device)
    into = torch.empty_like(source)
    return {"memory_gbs": 2 * source.nbytes / median(times(lambda: into.copy_(source), device, seconds)) / 1e9}


def transfer(device: torch.device, seconds: float) -> dict[str, float]:
    """GB/s from host to device and back, from and to pinned memory."""
    n = TRANSFERRED[device.type]
    host = torch.ones(n, pin_memory=device.type == "cuda")
    there = torch.empty(n, device=device)
    to = median(times(lambda: there.copy_(host, non_blocking=True), device, seconds / 2))
    back = median(times(lambda: host.copy_(there, non_blocking=True), device, seconds / 2))
    return {"h2d_gbs": host.nbytes / to / 1e9, "d2h_gbs": host.nbytes / back / 1e9}


def disk(folder: Path, seconds: float) -> dict[str, float]:
    """MB/s written to the disk itself (fsync), and read with the page cache told to forget, in `folder`."""
    path = folder / f".stress-{os.getpid()}"
    block = os.urandom(1 << 20)
    writes, reads = [], []
    try:
        until = time.perf_counter() + seconds
        while not writes or time.perf_counter() < until:
            begun = time.perf_counter()
            with path.open("wb") as f:
                for _ in range(DISK_BYTES >> 20):
                    f.write(block)
                f.flush()
                os.fsync(f.fileno())
                writes.append(time.perf_counter() - begun)
                os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            begun = time.perf_counter()
            with path.open("rb", buffering=0) as f:
                while f.read(1 << 20):
                    pass
            reads.append(time.perf_counter() - begun)
    finally:
        path.unlink(missing_ok=True)
    mega = DISK_BYTES / 1e6
    return {"disk_write_mbs": mega / median(writes), "disk_read_mbs": mega / median(reads)}


ON_DEVICE: dict[str, Callable[[torch.device, float], dict[str, float]]] = {
    "gemm": gemm,
    "memory": memory,
    "transfer": transfer,
}
