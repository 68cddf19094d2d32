"""What a training step computes: layers as matrix products, attentions and memory-bound operators; torch-free.

Sizes are those of one sample on one GPU before anything is divided; `stepvideo.emulator.compute` divides them.
A DiT's products and attentions add up to `stepvideo.emulator.flops`, the one counter of training and balancing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Gemm:
    """(tokens, inputs) @ (inputs, outputs). `split` is the dimension that tensor ranks divide: outputs | inputs | none.

    text: its tokens are the prompt's, which context ranks do not divide.
    """

    name: str
    tokens: float
    inputs: int
    outputs: int
    split: str = "outputs"
    text: bool = False

    @property
    def flops(self) -> float:
        return 2.0 * self.tokens * self.inputs * self.outputs


@dataclass(frozen=True)
class Attention:
    """`queries` tokens attend to `keys` tokens. `seen`: mean share of the keys a query sees, about half if causal.

    text: keys are the prompt's: queries stay where they are and every context rank has all keys (report §6.2.2).
    fused: scores stay on the chip; otherwise they are written to memory and read again.
    """

    name: str
    queries: float
    keys: float
    heads: int
    kv_heads: int
    head_dim: int
    seen: float = 1.0
    text: bool = False
    fused: bool = True

    @property
    def flops(self) -> float:
        return 4.0 * self.queries * self.keys * self.seen * self.heads * self.head_dim


@dataclass(frozen=True)
class Pointwise:
    """Operators bound by memory: elements read and written of one sample, forward; backward moves twice as many.

    kernels: launches. wide: between the two matrices of a branch, where tensor ranks divide widths; elsewhere they
    divide tokens, if sequence-parallel.
    """

    name: str
    elements: float
    kernels: int
    wide: bool = False
    text: bool = False


@dataclass(frozen=True)
class Layer:
    """Operators of one sample, and what tensor ranks exchange.

    exchanges: how often they gather and reduce `exchanged` elements, forward and again backward. regathers: how often
    they gather once more in backward, where sequence-parallel ranks keep only their tokens (arXiv:2205.05198 §4.2.2).
    """

    gemms: tuple[Gemm, ...] = ()
    attentions: tuple[Attention, ...] = ()
    pointwise: tuple[Pointwise, ...] = ()
    exchanges: int = 0
    exchanged: float = 0.0
    regathers: int = 0

    @property
    def flops(self) -> float:
        return sum(g.flops for g in self.gemms) + sum(a.flops for a in self.attentions)


@dataclass(frozen=True)
class Bucket:
    """Samples of one size: `share` of the micro-batches are of them, with `samples` for each of the plan's."""

    name: str
    tokens: float
    layer: Layer
    ends: Layer = Layer()  # before the first layer and after the last; the last stage's
    share: float = 1.0
    samples: float = 1.0


@dataclass(frozen=True)
class Network:
    """What plans are checked against, and what is stored."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    layer_parameters: float
    outside_parameters: float

    @property
    def parameters(self) -> float:
        return self.layers * self.layer_parameters + self.outside_parameters


@dataclass(frozen=True)
class Workload:
    """A network and the stream of samples it trains on; bytes are of an element.

    element: of weights and activations; gradient: as the data ranks add it up; optimizer: that it moves of a parameter.
    """

    network: Network
    buckets: tuple[Bucket, ...]
    precision: str = "bf16"
    element: int = 2
    gradient: int = 4
    optimizer: int = 30  # fused Adam: fp32 weight and two moments read and written, gradient read, weight written

    @cached_property
    def shares(self) -> Sequence[float]:
        whole = sum(b.share for b in self.buckets)
        return [b.share / whole for b in self.buckets]

    @cached_property
    def flops(self) -> float:
        """Model operations of a mean sample, forward and backward (3 × forward): what MFU counts."""
        per = [(s * b.samples, b) for s, b in zip(self.shares, self.buckets)]
        samples = sum(n for n, _ in per)
        return 3 * sum(n * (self.network.layers * b.layer.flops + b.ends.flops) for n, b in per) / samples
