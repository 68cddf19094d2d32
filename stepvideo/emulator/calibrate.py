"""Constants of the machine at hand from a few measurements: 3 matrix products, 2 attentions, the operators between
them, a copy, operators on nothing, and, where several ranks run it (torchrun), an all-gather.

`measure` takes the times, on a GPU or a CPU; `hardware` and `constants` turn them into what `step` reads. On a GPU of
the catalogue its peaks stay the data sheet's; elsewhere the best product counts as 90 % of the peak.

Legend: a product is (m, k) @ (k, n); an attention has s tokens, h heads of width d.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from stepvideo.emulator import calibration
from stepvideo.emulator.calibration import Calibration
from stepvideo.emulator.compute import BACKWARD, Machine
from stepvideo.emulator.hardware import GPU, catalogue
from stepvideo.emulator.networks import dit_bucket
from stepvideo.errors import ConfigError
from stepvideo.models.attention import attention
from stepvideo.models.config import DiTConfig
from stepvideo.models.dit_blocks import rope_split
from stepvideo.models.gelu import gelu_tanh
from stepvideo.models.modulation import gated_sum, norm_modulate
from stepvideo.models.qk_norm import qk_norm
from stepvideo.models.rope import rope_tables

GEMMS = {
    "cuda": ((8192, 6144, 6144), (2048, 3072, 12288), (512, 1536, 1536)),
    "cpu": ((1024, 512, 2048), (512, 512, 512), (128, 256, 256)),
}
ATTENTIONS = {
    "cuda": ((2048, 24, 128), (16384, 24, 128)),
    "cpu": ((192, 8, 64), (1536, 8, 64)),
}  # a CPU: by products, and fused
BETWEEN = {"cuda": (8192, 24, 128), "cpu": (1024, 8, 64)}  # tokens, heads, width
COPIED = {"cuda": 2**28, "cpu": 2**25}  # elements
GATHERED = (2**12, 2**24)  # elements of each rank: latency, bandwidth
CHAIN = 100  # operators
BEST = 0.9  # share of the peak, and of the memory's bandwidth, that the best measurement is taken to be
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Measured:
    """Medians, in seconds: gemms (m, k, n, s), attentions (tokens, heads, width, s of forward and backward).

    copied: bytes a second that a copy reads and writes, `moved` what the operators between products do, as `networks`
    counts their bytes. launch: a kernel's start. gathered: bytes of each rank and s.
    """

    gemms: tuple[tuple[int, int, int, float], ...]
    attentions: tuple[tuple[int, int, int, float], ...]
    copied: float
    moved: float
    launch: float
    ranks: int = 1
    gathered: tuple[tuple[int, float], ...] = ()


def measure(device: torch.device, precision: str, seconds: float = 0.5) -> Measured:
    """Takes about 8 times `seconds`, and as long again to warm up; all ranks of a process group together."""
    dtype, kind = DTYPES[precision], device.type

    def timed(run: Callable[[], object]) -> float:
        return median(times(run, device, seconds))

    gemms = []
    for m, k, n in GEMMS[kind]:
        a, b = (torch.randn(shape, device=device).to(dtype) for shape in ((m, k), (k, n)))
        gemms.append((m, k, n, timed(lambda a=a, b=b: a @ b)))
    attentions = []
    for s, h, d in ATTENTIONS[kind]:
        q, k, v = (torch.randn(1, h, s, d, device=device).to(dtype).requires_grad_() for _ in range(3))
        grad = torch.randn(1, s, h * d, device=device).to(dtype)
        attentions.append((s, h, d, timed(lambda q=q, k=k, v=v, g=grad: _both(q, k, v, g))))
    source = torch.ones(COPIED[kind], device=device)
    into = torch.empty_like(source)
    copied = 2 * source.nbytes / timed(lambda: into.copy_(source))
    operators, size = _between(device, dtype)
    moved = size / timed(operators)
    launch = timed(lambda: _chain(device)) / CHAIN / (1 + BACKWARD)
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    gathered = tuple(_gather(n, ranks, device, timed) for n in GATHERED) if ranks > 1 else ()
    return Measured(tuple(gemms), tuple(attentions), copied, moved, launch, ranks, gathered)


def times(run: Callable[[], object], device: torch.device, seconds: float, least: int = 5) -> list[float]:
    """Seconds of each of at least `least` calls after two that warm up. On a CPU with one thread the thread's own time,
    which other programs on the machine change little."""
    cuda = device.type == "cuda"
    clock = time.thread_time if not cuda and torch.get_num_threads() == 1 else time.perf_counter
    found: list[float] = []
    started = time.perf_counter()
    while len(found) < least + 2 or (time.perf_counter() - started < seconds and len(found) < 200):
        begun = clock()
        run()
        if cuda:
            torch.cuda.synchronize(device)
        found.append(clock() - begun)
    return found[2:]


def _both(q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> None:
    torch.autograd.grad(attention(q, k, v), (q, k, v), grad)


def _chain(device: torch.device) -> None:
    """Operators on nothing, forward and backward: what the host takes to start them."""
    x = first = torch.zeros(1, device=device, requires_grad=True)
    for _ in range(CHAIN):
        x = x * 1.0
    torch.autograd.grad(x, first)


def _between(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], object], float]:
    """Everything of a block but products and attentions, forward and backward, and its bytes as `networks` counts.

    One process trains under autocast, which keeps fp32 between the blocks (`train_memory`); so does this.
    """
    s, h, hd = BETWEEN[device.type]
    cfg = DiTConfig(num_attention_heads=h, attention_head_dim=hd, num_layers=1)
    d, split = cfg.inner_dim, rope_split(cfg)
    rope = rope_tables(1, 1, s, split, device)
    residual = dtype if dist.is_initialized() else torch.float32
    norms = [nn.LayerNorm(d).to(device, residual) for _ in range(2)]
    x = torch.randn(1, s, d, device=device).to(residual).requires_grad_()
    hidden = torch.randn(1, s, 4 * d, device=device).to(dtype).requires_grad_()
    heads = torch.randn(3, 1, h, s, hd, device=device).to(dtype).requires_grad_()
    weight, vector = torch.ones(2, hd, device=device), torch.randn(1, 1, d, device=device).to(residual)
    grads = [torch.randn_like(t) for t in (x, hidden, heads)]

    def run() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype != residual):
            y = x
            for norm in norms:
                y = gated_sum(y, vector, norm_modulate(norm, y, vector, vector))
            qk = qk_norm(heads[:2], weight, 1e-6, rope, split).to(dtype)
            cross = qk_norm(heads[2:], weight[:1], 1e-6).to(dtype)
            outs = [y + x, gelu_tanh(hidden), torch.cat([qk, cross])]
        torch.autograd.grad(outs, (x, hidden, heads), grads)

    layer = dit_bucket(cfg, "", (1, cfg.patch_size, s * cfg.patch_size), 1, 0, 1.0, 1.0).layer
    size = sum(p.elements for p in layer.pointwise if not p.text) * dtype.itemsize
    return run, (1 + BACKWARD) * size


def _gather(n: int, ranks: int, device: torch.device, timed: Callable[..., float]) -> tuple[int, float]:
    own = torch.ones(n, device=device)
    whole = torch.empty(n * ranks, device=device)
    return own.nbytes, timed(lambda: dist.all_gather_into_tensor(whole, own))


def hardware(found: Measured, device: str, memory: float, multiprocessors: int = 1) -> GPU:
    """What a device with `memory` bytes is, as a row of the catalogue; peaks as the catalogue has them, if it does."""
    best = max(2 * m * k * n / s for m, k, n, s in found.gemms)
    longest = sorted(catalogue().items(), key=lambda item: -len(item[0]))  # H200 before H20
    known = next((gpu for name, gpu in longest if name != "cpu" and name.lower() in device.lower()), None)
    if known is None:
        link = _link(found)[0] / 1e9 / BEST if found.gathered else 1.0
        peaks = {"bf16_tflops": best / BEST / 1e12, "memory_gbs": max(found.copied, found.moved) / BEST / 1e9}
        links = {"intra_gbs": link, "inter_gbs": link, "gpus_per_node": max(found.ranks, 1)}
        known = GPU(memory_gb=memory / 1e9, source="", multiprocessors=multiprocessors, **peaks, **links)
    return replace(known, source=f"measured on {device}")


def constants(found: Measured, gpu: GPU, precision: str = "bf16") -> Calibration:
    """What was measured, each value kept within its physical range; the rest stay priors."""
    ranges = calibration.ranges()

    def within(name: str, value: float) -> float:
        low, high = ranges[name]
        return float(min(max(value, low), high))

    values = {
        "memory_efficiency": within("memory_efficiency", found.moved / (gpu.memory_gbs * 1e9)),
        "stream_efficiency": within("stream_efficiency", found.copied / (gpu.memory_gbs * 1e9)),
        "launch_s": within("launch_s", found.launch),
    }
    base = replace(Calibration(), **values)
    efficiency, wave = _gemm(found, gpu, base, 4 if precision == "fp32" else 2)
    values |= {"gemm_efficiency": efficiency, "gemm_wave": wave}
    values |= {k: within(k, v) for k, v in _attention(found, gpu).items()}
    if found.gathered:
        bandwidth, latency = _link(found)
        values["intra_efficiency"] = within("intra_efficiency", bandwidth / (gpu.intra_gbs * 1e9))
        values["intra_latency_s"] = within("intra_latency_s", latency)
    return Calibration().with_(f"measured on {gpu.source.removeprefix('measured on ')}, {precision}", **values)


def _gemm(found: Measured, gpu: GPU, base: Calibration, element: int) -> tuple[float, float]:
    """Efficiency and wave that suit the products best, in the logarithm of their times; a grid over both ranges."""
    m, k, n, s = (np.array(column, dtype=float) for column in zip(*found.gemms))
    spans = calibration.ranges()
    best, choice = np.inf, (base.gemm_efficiency, base.gemm_wave)
    for e in np.linspace(*spans["gemm_efficiency"], 66):
        for w in np.linspace(*spans["gemm_wave"], 11):
            machine = Machine(gpu, replace(base, gemm_efficiency=float(e), gemm_wave=float(w)), element=element)
            miss = float(np.square(np.log((machine.product(m, k, n) + base.launch_s) / s)).sum())
            if miss < best - 1e-12:
                best, choice = miss, (float(e), float(w))
    return choice


def _attention(found: Measured, gpu: GPU) -> dict[str, float]:
    """Peak efficiency and the length of half of it, from two lengths: s / efficiency is linear in s."""
    tokens = np.array([s for s, *_ in found.attentions], dtype=float)
    rate = np.array([(1 + BACKWARD) * 4 * s * s * h * d / t for s, h, d, t in found.attentions]) / gpu.peak()
    slope, offset = np.polyfit(tokens, tokens / rate, 1)
    if slope <= 0:  # the longer one is the less efficient: no curve, their mean
        return {"attention_efficiency": float(rate.mean()), "attention_half": 0.0}
    return {"attention_efficiency": float(1 / slope), "attention_half": float(max(offset / slope, 0.0))}


def _link(found: Measured) -> tuple[float, float]:
    """Bytes a second of a rank, and seconds of a hop."""
    (_, short), (size, long) = found.gathered
    hops = found.ranks - 1
    return size * hops / max(long - short, 1e-9), short / hops


def device_of(kind: str) -> torch.device:
    """auto: a GPU if there is one.

    Raises:
        ConfigError: a kind that is not there.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available()}
    chosen = ("cuda" if there["cuda"] else "cpu") if kind == "auto" else kind
    if not there.get(chosen):
        raise ConfigError(f"device {kind!r} is not here; give auto, {' or '.join(k for k, v in there.items() if v)}")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if chosen == "cuda" else torch.device("cpu")


def device_name(device: torch.device) -> str:
    """As files of calibrations name it: the GPU's name, or the CPU's kind and the threads of this process."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {platform.machine()} {torch.get_num_threads()} threads"


@contextmanager
def together(device: torch.device) -> Iterator[int]:
    """Within it the ranks that torchrun started are a process group, if it did; gives this one's rank."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield 0
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield dist.get_rank()
    finally:
        dist.destroy_process_group()


def memory_of(device: torch.device) -> tuple[float, int]:
    """Bytes and multiprocessors (a CPU's: threads)."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return float(properties.total_memory), properties.multi_processor_count
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")), torch.get_num_threads()
