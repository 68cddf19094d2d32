"""Seconds of one training step and where they go, in closed form; broadcasts over arrays of plans."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from stepvideo.emulator import communication as comm
from stepvideo.emulator.calibration import Calibration
from stepvideo.emulator.compute import Machine, Passes, layer_seconds
from stepvideo.emulator.hardware import Cluster
from stepvideo.emulator.plan import Plan
from stepvideo.emulator.schedule import pipeline_time
from stepvideo.emulator.workload import Bucket, Workload

Array = Any


@dataclass(frozen=True)
class Step:
    """Seconds of one step of the slowest rank, by what they go to; they add up to `total`. Arrays of `plan.shape`.

    launch: waiting for the host to start kernels. recompute: forward passes repeated in backward, all kinds together.
    bubble: waiting for other stages. straggler: waiting for slower ranks.
    mfu: model operations over the peak's, 0 to 1.
    """

    gemm: Array = 0.0
    attention: Array = 0.0
    memory: Array = 0.0
    launch: Array = 0.0
    tensor: Array = 0.0
    context: Array = 0.0
    pipeline: Array = 0.0
    data: Array = 0.0
    recompute: Array = 0.0
    bubble: Array = 0.0
    optimizer: Array = 0.0
    straggler: Array = 0.0
    total: Array = 0.0
    mfu: Array = 0.0


PARTS = tuple(f.name for f in fields(Step) if f.name not in ("total", "mfu"))


def step(work: Workload, cluster: Cluster, plan: Plan, calibration: Calibration) -> Step:
    """Time of a training step under each plan.

    Every bucket of the stream is costed at its own size and the times are averaged by its share of the micro-batches,
    never the sizes: attention grows with their square. Plans that cannot be scheduled take infinitely long; what else
    makes a plan impossible is `plan.problems`' to say.

    Args:
        cluster: where tensor, context, data and pipeline ranks lie follows from its nodes' size.
        calibration: constants of the machine; `Calibration()` are priors.
    """
    g = comm.groups(cluster, plan, calibration)
    machine = Machine(cluster.gpu, calibration, work.precision, work.element)
    parts: dict[str, Array] = dict.fromkeys(PARTS, 0.0)
    for share, bucket in zip(work.shares, work.buckets):
        for name, seconds in _bucket(work, bucket, plan, g, machine).items():
            parts[name] = parts[name] + share * seconds
    parts["data"] = comm.data_exchange(work, plan, g)
    shards = np.where(plan.zero > 0, plan.copies, 1)
    parts["optimizer"] = machine.streamed(
        work.optimizer * work.network.parameters / plan.tensor / plan.pipeline / shards
    )
    if cluster.straggler > 1:
        parts["straggler"] = (cluster.straggler - 1) * sum(parts.values())
    total = sum(parts.values())
    samples = sum(s * b.samples for s, b in zip(work.shares, work.buckets))
    peak = cluster.gpu.peak(work.precision) * plan.gpus
    return Step(**parts, total=total, mfu=work.flops * samples * plan.samples / (total * peak))


def _bucket(work: Workload, bucket: Bucket, plan: Plan, g: comm.Groups, machine: Machine) -> dict[str, Array]:
    """Parts of a step whose micro-batches are all of one bucket."""
    samples, m = plan.micro_batch * bucket.samples, plan.micro_batches
    layers = work.network.layers / plan.pipeline
    forward, backward = layer_seconds(work, bucket.layer, samples, plan, machine)
    tensor = comm.tensor_exchange(work, bucket.layer, samples, plan, g)
    context = comm.context_exchange(work, bucket.layer, samples, plan, g, forward.attention)
    stall = [_stall(p) for p in (forward, backward)]
    one_f = layers * (_busy(forward) + tensor[0] + context[0] + stall[0])
    one_b = layers * (_busy(backward) + tensor[1] + context[1] + stall[1])
    again = plan.recompute * (one_f - (layers * forward.attention if plan.keep_attention else 0.0))
    p2p = comm.hand_over(work, bucket.tokens, samples, plan, g)
    whole = pipeline_time(one_f, one_b + again, plan.pipeline, plan.virtual, m, p2p)
    handed = np.where(plan.pipeline > 1, 2 * p2p * m * plan.virtual, 0.0)
    ends = layer_seconds(work, bucket.ends, samples, plan, machine)
    parts = {
        "gemm": layers * (forward.gemm + backward.gemm) + sum(p.gemm for p in ends),
        "attention": layers * (forward.attention + backward.attention),
        "memory": layers * (forward.memory + backward.memory) + sum(p.memory for p in ends),
        "launch": layers * sum(stall) + sum(_stall(p) for p in ends),
        "tensor": layers * sum(tensor) + sum(comm.tensor_exchange(work, bucket.ends, samples, plan, g)),
        "context": layers * sum(context),
        "recompute": again,
    }
    parts = {name: m * seconds for name, seconds in parts.items()}
    return parts | {"pipeline": handed, "bubble": whole - m * (one_f + one_b + again) - handed}


def _busy(p: Passes) -> Array:
    return p.gemm + p.attention + p.memory


def _stall(p: Passes) -> Array:
    """The GPU waits where the host starts kernels more slowly than they run."""
    return np.maximum(p.launch - _busy(p), 0.0)
