"""Table 6 of the report as data, and whether a cascade's stages are it; torch-free.

Samples = iterations · batch a node · nodes. The table leaves the nodes out; its other columns imply them: about 375,
and 250 in the last two rows. A *pack* of `BalanceConfig` is a node's batch, so `balance.packs` is the number of nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Printed:
    """A number as the report prints it: the true one is within half a unit of the last digit."""

    value: float
    half: float

    @classmethod
    def of(cls, text: str) -> Printed:
        """Reads "0.8B", "17.3M", "53k"."""
        scale = {"k": 1e3, "M": 1e6, "B": 1e9}[text[-1]]
        decimals = len(text[:-1].partition(".")[2])
        return cls(round(float(text[:-1]) * scale), scale * 10**-decimals / 2)

    @property
    def range(self) -> tuple[float, float]:
        return self.value - self.half, self.value + self.half


@dataclass(frozen=True)
class Row:
    """A row of Table 6. Several rows may be one stage of the cascade."""

    stage: str
    data: str
    per_node: int
    lr: float
    iterations: Printed
    samples: Printed

    @property
    def nodes(self) -> float:
        return self.samples.value / (self.iterations.value * self.per_node)

    @property
    def nodes_range(self) -> tuple[float, float]:
        """The nodes that the rounding of samples and iterations leaves possible."""
        (s0, s1), (i0, i1) = self.samples.range, self.iterations.range
        return s0 / (i1 * self.per_node), s1 / (i0 * self.per_node)


def _row(stage: str, data: str, per_node: int, lr: float, iterations: str, samples: str) -> Row:
    return Row(stage, data, per_node, lr, Printed.of(iterations), Printed.of(samples))


TABLE_6 = (
    _row("t2i.1", "O(1)B images", 40, 1e-4, "53k", "0.8B"),
    _row("t2i.2", "O(1)B images", 40, 1e-4, "200k", "3B"),
    _row("t2vi_192.s1", "O(1)B clips", 4, 6e-5, "171k", "256M"),
    _row("t2vi_192.s2", "O(100)M clips", 4, 6e-5, "101k", "151M"),
    _row("t2vi_192.s3", "O(100)M clips", 4, 6e-5, "158k", "237M"),
    _row("t2vi_540.s4", "O(100)M clips", 2, 2e-5, "23k", "17.3M"),
    _row("t2vi_540.s5", "O(10)M clips", 2, 1e-5, "17k", "8.5M"),
    _row("t2vi_540.s6", "O(1)M clips", 1, 1e-5, "6k", "1.5M"),
)
TOTALS = {"t2i": ("253k", "3.8B"), "t2vi_192": ("430k", "644M"), "t2vi_540": ("46k", "27.3M")}


@dataclass(frozen=True)
class Batch:
    """What a stage's config says of its batches."""

    stage: str
    nodes: int
    per_node: int
    lr: float
    iterations: int
    media: str
    ranks: int
    degrees: int  # ranks that share a pack

    @property
    def samples(self) -> int:
        return self.iterations * self.nodes * self.per_node

    @classmethod
    def of(cls, stage: str, config: Mapping[str, Any]) -> Batch:
        balance, runtime = config["balance"], config["runtime"]
        per_node = balance["image_batch_size" if config["media"] == "images" else "batch_size"]
        degrees = runtime["parallel"]["tensor"] * runtime["parallel"]["ulysses"]
        about = (config["optim"]["lr"], config["steps"], config["media"], runtime["nproc"], degrees)
        return cls(stage, balance["packs"], per_node, *about)


def table_faults(rows: tuple[Row, ...] = TABLE_6) -> list[str]:
    """Where the table contradicts itself: rows that imply another number of nodes than their cluster, wrong totals."""
    found = []
    for row in rows:
        low, high = row.nodes_range
        if not any(low <= nodes <= high for nodes in (375, 250)):
            found.append(f"{row.stage}: {row.nodes:.1f} nodes, neither 375 nor 250")
    for name, (iterations, samples) in TOTALS.items():
        part = [r for r in rows if r.stage.partition(".")[0] == name]
        for what, printed in (("iterations", Printed.of(iterations)), ("samples", Printed.of(samples))):
            numbers = [getattr(r, what) for r in part]
            if abs(sum(n.value for n in numbers) - printed.value) > sum(n.half for n in numbers) + printed.half:
                found.append(
                    f"{name}: the rows' {what} add up to {sum(n.value for n in numbers):g}, not {printed.value:g}"
                )
    return found


def faults(batch: Batch) -> list[str]:
    """Where a stage differs from Table 6, or its ranks do not share out its packs."""
    row, found = next((r for r in TABLE_6 if r.stage == batch.stage), None), []
    if batch.stage.startswith("sft") and batch.media != "videos":
        found.append(f"media={batch.media}: the report removes images in SFT (§8)")
    if batch.ranks % batch.degrees or batch.nodes % max(1, batch.ranks // batch.degrees):
        found.append(
            f"balance.packs={batch.nodes} cannot be dealt to {batch.ranks} ranks of which {batch.degrees} share one"
        )
    if row is None:
        return found
    for name, own, asked in (
        ("batch a node", batch.per_node, row.per_node),
        ("learning rate", batch.lr, row.lr),
        ("iterations", batch.iterations, row.iterations.value),
    ):
        if own != asked:
            found.append(f"{name} {own:g}, Table 6 has {asked:g}")
    low, high = row.nodes_range
    if not low <= batch.nodes <= high:
        found.append(f"{batch.nodes} nodes, Table 6 implies {low:.1f} to {high:.1f}")
    return found
