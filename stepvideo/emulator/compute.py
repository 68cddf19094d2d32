"""Seconds that one micro-batch computes in a layer on one GPU; broadcasts over arrays of plans.

Legend: a product is (m, k) @ (k, n); t tensor ranks, c context ranks, b samples of a micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stepvideo.emulator.calibration import Calibration
from stepvideo.emulator.hardware import GPU
from stepvideo.emulator.plan import Plan
from stepvideo.emulator.workload import Attention, Gemm, Layer, Pointwise, Workload

TILE = 128, 256  # outputs of a product that one multiprocessor computes at once
UNFUSED = 4.0  # elements moved of each attention score forward: written, read and written by softmax, read
BACKWARD = 2.0  # as many operations and bytes as forward

Array = Any  # a number or an array that broadcasts


@dataclass(frozen=True)
class Machine:
    """What operators run on."""

    gpu: GPU
    calibration: Calibration
    precision: str = "bf16"
    element: int = 2

    def product(self, m: Array, k: Array, n: Array, width: Array = 0) -> Array:
        """Seconds of a product beside `kernel_s`: of waves of tiles, the last of them part empty, or of its traffic.

        width: the length of rows in memory: tensor cores load two elements or more at once, and not an odd number.
        """
        c = self.calibration
        waves = np.ceil(np.ceil(m / TILE[0]) * np.ceil(n / TILE[1]) / self.gpu.multiprocessors)
        empty = waves * self.gpu.multiprocessors * TILE[0] * TILE[1] - m * n
        work = 2 * (m * n + c.gemm_wave * empty) * k / (self.gpu.peak(self.precision) * c.gemm_efficiency)
        work = np.where(np.asarray(width) % 2, work / c.gemm_unaligned, work)
        return np.maximum(work, self.streamed((m * k + k * n + m * n) * self.element))

    def moved(self, size: Array) -> Array:
        """Seconds of operators that read and write so many bytes, and compute."""
        return size / (self.gpu.memory_gbs * 1e9 * self.calibration.memory_efficiency)

    def streamed(self, size: Array) -> Array:
        """Seconds to read and write so many bytes in long rows."""
        return size / (self.gpu.memory_gbs * 1e9 * self.calibration.stream_efficiency)


@dataclass(frozen=True)
class Passes:
    """Seconds of a layer's forward and backward by kind; `launch`: what its kernels take the host to start."""

    gemm: Array = 0.0
    attention: Array = 0.0
    memory: Array = 0.0
    launch: Array = 0.0


def layer_seconds(work: Workload, layer: Layer, samples: Array, plan: Plan, machine: Machine) -> tuple[Passes, Passes]:
    """Forward and backward of one layer, without exchanges between ranks."""
    gemm = [_gemm(g, samples, plan, machine) for g in layer.gemms if np.any(g.tokens)]
    attention = [_attention(a, samples, plan, machine) for a in layer.attentions]
    memory = sum(_pointwise(p, samples, plan, machine) for p in layer.pointwise)
    kernels = len(gemm) + sum(1 if a.fused else 5 for a in layer.attentions)
    kernels += sum(p.kernels for p in layer.pointwise) + 2 * layer.exchanges
    launch, start = kernels * machine.calibration.launch_s, kernels * machine.calibration.kernel_s
    weights = sum(g.inputs * g.outputs for g in layer.gemms) / plan.tensor
    accumulate = machine.streamed(2 * weights * work.gradient)
    forward = Passes(sum(f for f, _ in gemm), sum(f for f, _ in attention), memory + start, launch)
    backward = Passes(
        sum(b for _, b in gemm),
        sum(b for _, b in attention),
        BACKWARD * (memory + start) + accumulate,
        BACKWARD * launch,
    )
    return forward, backward


def _gemm(g: Gemm, samples: Array, plan: Plan, machine: Machine) -> tuple[Array, Array]:
    m = samples * g.tokens / (1 if g.text else plan.context)
    k = g.inputs / (plan.tensor if g.split == "inputs" else 1)
    n = np.floor(g.outputs / (plan.tensor if g.split == "outputs" else 1))
    return machine.product(m, k, n, width=n), machine.product(m, n, k, width=n) + machine.product(k, m, n, width=n)


def _attention(a: Attention, samples: Array, plan: Plan, machine: Machine) -> tuple[Array, Array]:
    c = machine.calibration
    heads = a.heads / plan.tensor  # × tokens / context, whichever of the two context ranks divide
    pairs = samples * heads * a.queries * a.keys * a.seen / plan.context
    flops = 4 * pairs * a.head_dim / machine.gpu.peak(machine.precision)
    if a.fused:
        keys = np.asarray(a.keys, dtype=float)
        forward = flops / (c.attention_efficiency * keys / (keys + c.attention_half))
    else:
        forward = flops / c.gemm_efficiency + machine.moved(UNFUSED * pairs * machine.element)
    return forward, BACKWARD * forward


def _pointwise(p: Pointwise, samples: Array, plan: Plan, machine: Machine) -> Array:
    tokens = 1 if p.text else plan.context
    divided = plan.tensor if p.wide else np.where(plan.sequence_parallel, plan.tensor, 1)
    return machine.moved(samples * p.elements * machine.element / tokens / divided)
