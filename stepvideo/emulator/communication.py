"""Seconds of exchanges between GPUs: bytes over the slowest link of a group, plus latency; broadcasts over plans.

Ranks are placed as Megatron and `stepvideo.parallel` place them: tensor ranks are neighbours, then context, then data,
then pipeline ranks. So a group stays inside a node as long as those before it leave room.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stepvideo.emulator.calibration import Calibration
from stepvideo.emulator.hardware import Cluster
from stepvideo.emulator.plan import Plan
from stepvideo.emulator.workload import Layer, Workload

Array = Any


@dataclass(frozen=True)
class Group:
    """`ranks` that exchange, `local` of them on a node; the rest of a node belongs to groups that do the same."""

    cluster: Cluster
    calibration: Calibration
    ranks: Array
    local: Array

    @property
    def nodes(self) -> Array:
        return self.ranks / self.local

    def bandwidth(self) -> Array:
        """Bytes a second of one GPU in one direction. A ring through nodes uses the adapters of all its local ranks."""
        gpu, c = self.cluster.gpu, self.calibration
        inside = gpu.intra_gbs * 1e9 * c.intra_efficiency
        outside = gpu.inter_gbs * 1e9 * c.inter_efficiency
        return np.where(self.nodes > 1, np.minimum(inside, outside * self.local), inside)

    def latency(self) -> Array:
        """A ring inside the node, a tree between nodes."""
        c = self.calibration
        return c.intra_latency_s * (self.local - 1) + c.inter_latency_s * np.log2(np.maximum(self.nodes, 1))

    def gather(self, size: Array) -> Array:
        """All-gather, or reduce-scatter, of `size` bytes when whole."""
        return np.where(self.ranks > 1, size * (self.ranks - 1) / self.ranks / self.bandwidth() + self.latency(), 0.0)

    def all_to_all(self, size: Array) -> Array:
        """`size` bytes of each rank, an equal part of them to each other rank; what leaves a node takes its adapter."""
        gpu, c = self.cluster.gpu, self.calibration
        inside = size * (self.local - 1) / self.ranks / (gpu.intra_gbs * 1e9 * c.intra_efficiency)
        outside = size * (self.ranks - self.local) / self.ranks / (gpu.inter_gbs * 1e9 * c.inter_efficiency)
        return np.where(self.ranks > 1, np.maximum(inside, outside) + self.latency(), 0.0)

    def send(self, size: Array) -> Array:
        """From one rank to the next; the slowest hop counts."""
        gpu, c = self.cluster.gpu, self.calibration
        out = self.nodes > 1
        link = np.where(out, gpu.inter_gbs * c.inter_efficiency, gpu.intra_gbs * c.intra_efficiency) * 1e9
        late = np.where(out, c.inter_latency_s, c.intra_latency_s)
        return np.where(self.ranks > 1, size / link + late, 0.0)


@dataclass(frozen=True)
class Groups:
    """The groups of a plan. copies: context and data ranks, which all have the same weights."""

    tensor: Group
    context: Group
    copies: Group
    pipeline: Group


def groups(cluster: Cluster, plan: Plan, calibration: Calibration) -> Groups:
    node = np.minimum(cluster.gpu.gpus_per_node, plan.gpus)  # a job of few GPUs has no other node

    def group(ranks: Array, before: Array) -> Group:
        return Group(cluster, calibration, ranks, np.gcd(ranks, np.maximum(node // before, 1)))

    return Groups(
        tensor=group(plan.tensor, 1),
        context=group(plan.context, plan.tensor),
        copies=group(plan.copies, plan.tensor),
        pipeline=group(plan.pipeline, plan.tensor * plan.copies),
    )


def tensor_exchange(work: Workload, layer: Layer, samples: Array, plan: Plan, g: Groups) -> tuple[Array, Array]:
    """Seconds forward and backward: a gather before and a reduction after every branch (arXiv:2205.05198).

    Without sequence parallelism one all-reduce after each branch, which moves as much.
    """
    size = samples * layer.exchanged * work.element / plan.context
    once = g.tensor.gather(size) * (1 - g.tensor.calibration.tensor_overlap)
    again = np.where(plan.sequence_parallel, layer.regathers, 0)
    return 2 * layer.exchanges * once, (2 * layer.exchanges + again) * once


def context_exchange(
    work: Workload, layer: Layer, samples: Array, plan: Plan, g: Groups, attention_s: Array
) -> tuple[Array, Array]:
    """Seconds forward and backward: Ulysses exchanges q, k, v and outputs, and their gradients; a ring passes k and v
    on behind the attention itself, backward beside their gradients, behind an attention that takes twice as long.

    Prompts are short: every rank has their keys and values, and nothing is exchanged (report §6.2.2).
    """
    seconds: Array = 0.0
    for a in layer.attentions:
        if a.text:
            continue
        part = samples * work.element * a.head_dim / plan.tensor / plan.context
        q, kv = part * a.queries * a.heads, part * a.keys * a.kv_heads
        if plan.context_kind == "ulysses":
            spent = 2 * g.context.all_to_all(q) + 2 * g.context.all_to_all(kv)
            seconds = seconds + spent * (1 - g.context.calibration.context_overlap)
        else:
            hops = np.maximum(plan.context - 1, 0)
            seconds = seconds + hops * np.maximum(g.context.send(2 * kv) - attention_s / plan.context, 0.0)
    return seconds, seconds * (2 if plan.context_kind == "ring" else 1)


def hand_over(work: Workload, tokens: float, samples: Array, plan: Plan, g: Groups) -> Array:
    """Seconds to hand the activations of one micro-batch to the next stage; every tensor rank sends what it has."""
    shared = np.where(plan.sequence_parallel, plan.tensor, 1)
    size = samples * tokens * work.network.hidden * work.element / plan.context / shared
    return g.pipeline.send(size) * (1 - g.pipeline.calibration.pipeline_overlap)


def data_exchange(work: Workload, plan: Plan, g: Groups) -> Array:
    """Seconds a step to add up gradients and to gather weights, behind computation but for what is exposed.

    ZeRO 0 and 1 move gradients and weights (or gradients twice) once a step; 2 reduces gradients in every micro-batch,
    3 also gathers weights in every forward and backward (arXiv:1910.02054 §7). Context ranks take part: each has the
    gradients of its own tokens.
    """
    held = work.network.parameters / plan.tensor / plan.pipeline
    gradients, weights = g.copies.gather(held * work.gradient), g.copies.gather(held * work.element)
    reduced = gradients * np.where(plan.zero >= 2, plan.micro_batches, 1)
    gathered = np.where(plan.zero == 0, gradients, weights * np.where(plan.zero == 3, 2 * plan.micro_batches, 1))
    return (reduced + gathered) * (1 - g.copies.calibration.data_overlap)
