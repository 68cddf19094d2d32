"""How a training job is divided over GPUs: one plan, or arrays of plans that broadcast; torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepvideo.emulator.hardware import Cluster
from stepvideo.emulator.schedule import valid as schedulable
from stepvideo.emulator.workload import Workload
from stepvideo.errors import ConfigError

CONTEXT_KINDS = ("ulysses", "ring")
Numbers = Any  # a number, or an array of them; arrays in a plan


@dataclass(frozen=True)
class Plan:
    """Every field but the last two is a number or an array of numbers; arrays broadcast against each other.

    tensor: ranks that divide heads and feed-forward widths (TP).
    context: ranks that divide the tokens of a sample (CP), by heads in attention ("ulysses") or by tokens ("ring").
    pipeline, virtual: stages that divide the layers (PP), and the chunks of layers each of them has (VPP).
    data: ranks that divide the batch (DP).
    zero: what data and context ranks divide besides (ZeRO): 0 nothing, 1 optimizer state, 2 gradients, 3 weights.
    micro_batch: samples a data rank computes at once; micro_batches: how many times it does in a step.
    recompute: share of the layers whose activations are recomputed in backward, 0 to 1.
    sequence_parallel: tensor ranks divide the tokens between the matrices of a layer.
    keep_attention: layers that recompute keep the outputs of their fused attentions.
    """

    tensor: Numbers = 1
    context: Numbers = 1
    pipeline: Numbers = 1
    virtual: Numbers = 1
    data: Numbers = 1
    zero: Numbers = 1
    micro_batch: Numbers = 1
    micro_batches: Numbers = 1
    recompute: Numbers = 0.0
    sequence_parallel: Numbers = True
    context_kind: str = "ulysses"
    keep_attention: bool = False

    def __post_init__(self) -> None:
        if self.context_kind not in CONTEXT_KINDS:
            raise ConfigError(f"context_kind={self.context_kind!r}: give one of {', '.join(CONTEXT_KINDS)}")
        for name in NUMBERS:
            object.__setattr__(self, name, np.asarray(getattr(self, name)))

    @property
    def network(self) -> NDArray[Any]:
        """Ranks that share one copy of the network."""
        return self.tensor * self.context * self.pipeline

    @property
    def copies(self) -> NDArray[Any]:
        """Ranks that have the same weights, or parts of them: gradients are added up over these, and ZeRO divides."""
        return self.context * self.data

    @property
    def gpus(self) -> NDArray[Any]:
        return self.network * self.data

    @property
    def samples(self) -> NDArray[Any]:
        """Global batch, in samples a step."""
        return self.data * self.micro_batch * self.micro_batches

    @property
    def shape(self) -> tuple[int, ...]:
        return np.broadcast_shapes(*(np.shape(getattr(self, name)) for name in NUMBERS))

    def at(self, index: int) -> Plan:
        """One plan of the array, by its flat index."""
        where = np.unravel_index(index, self.shape)
        return replace(self, **{n: np.broadcast_to(getattr(self, n), self.shape)[where] for n in NUMBERS})

    def describe(self) -> dict[str, Any]:
        """Fields of one plan as plain numbers."""
        return {
            f.name: getattr(self, f.name).item() if f.name in NUMBERS else getattr(self, f.name) for f in fields(self)
        }


NUMBERS = tuple(f.name for f in fields(Plan) if f.name not in ("context_kind", "keep_attention"))


def grid(axes: Mapping[str, Any], context_kind: str = "ulysses") -> Plan:
    """Every combination of the values given a field, as an open mesh: each field has an axis of its own.

    Costs that depend on few fields are then computed for those alone, which is what makes a search fast.
    """
    unknown = sorted(set(axes) - set(NUMBERS))
    if unknown:
        raise ConfigError(f"a plan has no {', '.join(unknown)}; its numbers are {', '.join(NUMBERS)}")
    mesh = np.ix_(*(np.atleast_1d(np.asarray(v)) for v in axes.values()))
    numbers: Any = dict(zip(axes, mesh))
    return Plan(context_kind=context_kind, **numbers)


def problems(plan: Plan, work: Workload, cluster: Cluster | None = None) -> dict[str, NDArray[np.bool_]]:
    """What makes plans impossible: for each reason, the plans (as a mask that broadcasts to `plan.shape`) it concerns.

    Memory is not asked here. With a cluster, plans must fill its GPUs exactly.
    """
    p, n = plan, work.network
    whole = [x for x in NUMBERS if x not in ("recompute", "sequence_parallel", "zero")]
    tp, cp, pp, vp = (np.maximum(x, 1) for x in (p.tensor, p.context, p.pipeline, p.virtual))
    heads = n.heads // tp
    found = {f"{x} below 1": getattr(p, x) < 1 for x in whole}
    found |= {
        "zero is not 0, 1, 2 or 3": ~np.isin(p.zero, (0, 1, 2, 3)),
        "recompute is not within 0 and 1": (p.recompute < 0) | (p.recompute > 1),
        f"tensor does not divide the {n.heads} heads": n.heads % tp != 0,
        f"tensor does not divide the {n.kv_heads} heads of keys and values, nor they it": (n.kv_heads % tp != 0)
        & (tp % n.kv_heads != 0),
        f"tensor does not divide the feed-forward width of {n.ffn}": n.ffn % tp != 0,
        f"more pipeline chunks than the {n.layers} layers": pp * vp > n.layers,
        "virtual chunks without pipeline stages": (vp > 1) & (pp == 1),
    }
    fits = schedulable(p.pipeline, p.virtual, p.micro_batches)
    found["interleaving needs micro_batches that pipeline divides"] = ~fits & (vp > 1) & (pp > 1)
    if p.context_kind == "ulysses":
        found[f"context does not divide the {n.heads} / tensor heads of a rank"] = heads % cp != 0
    if cluster is not None:
        found[f"tensor · context · pipeline · data is not {cluster.gpus} GPUs"] = p.gpus != cluster.gpus
        found["tensor ranks on more than one node"] = tp > cluster.gpu.gpus_per_node
    return found


def valid(plan: Plan, work: Workload, cluster: Cluster | None = None) -> NDArray[np.bool_]:
    """Mask of the plans that have no `problems`; broadcasts to `plan.shape`."""
    mask = np.asarray(True)
    for wrong in problems(plan, work, cluster).values():
        mask = mask & ~wrong
    return mask


def check(plan: Plan, work: Workload, cluster: Cluster | None = None) -> None:
    """Raises ConfigError that names what is wrong with one plan."""
    wrong = [reason for reason, mask in problems(plan, work, cluster).items() if np.any(mask)]
    if wrong:
        given = ", ".join(f"{k}={v}" for k, v in plan.describe().items() if v != getattr(Plan(), k))
        raise ConfigError(f"plan {given or 'of one GPU'}: {'; '.join(wrong)}")
