"""What a device could compute at most: the denominator of MFU."""

from __future__ import annotations

import functools
import time

import torch

# Dense bf16 TFLOP/s of the makers' data sheets. The first name that a device's name contains holds.
PEAKS = {
    "B200": 2250.0,
    "GB200": 2250.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "H800 PCIe": 756.0,
    "H800": 989.4,
    "H200": 989.4,
    "H20": 148.0,
    "A100": 312.0,
    "A800": 312.0,
    "A40": 149.7,
    "A30": 165.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L20": 119.5,
    "L4": 121.0,
    "RTX 6000 Ada": 364.0,
    "RTX A6000": 154.8,
    "RTX 5090": 209.5,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}
SIDE = 768  # of the matrices of a measured product


def peak_tflops(device: torch.device, precision: str, given: float = 0.0) -> tuple[float, str]:
    """(TFLOP/s of one device, where the figure is from).

    A CUDA device's is the dense bf16 one of `PEAKS`, whatever the precision, as is usual for MFU; 0 where the table
    lacks it. A CPU's is measured: the best of several matrix products in the precision of the training, with the
    threads of this process.
    """
    if given:
        return given, "runtime.monitor.peak_tflops"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        value = next((v for k, v in PEAKS.items() if k.lower() in name.lower()), 0.0)
        return value, f"{name}, dense bf16" if value else f"{name} is not in the table; set runtime.monitor.peak_tflops"
    return _measured(torch.bfloat16 if "bf16" in precision else torch.float32, torch.get_num_threads())


@functools.cache
def _measured(dtype: torch.dtype, _threads: int) -> tuple[float, str]:
    a = torch.ones(SIDE, SIDE, dtype=dtype)
    out = torch.empty_like(a)
    best = float("inf")
    for _ in range(6):  # the first ones warm up
        start = time.perf_counter()
        torch.mm(a, a, out=out)
        best = min(best, time.perf_counter() - start)
    kind = str(dtype).removeprefix("torch.")
    return 2 * SIDE**3 / best / 1e12, f"measured product of {SIDE}x{SIDE} {kind} matrices"
