"""Made telemetry: what ranks of a training would have written, with faults put in on purpose.

Ranks are synchronous, as data-parallel ones are: who is done early waits for the others in `grad_reduce`. Inside a
tensor group the ranks exchange activations all the time, so forward and backward last as long as on its slowest rank;
with `exchanges` the share that is waiting is told as a span `all_reduce` inside of them. All draws come from one seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stepvideo.telemetry.schema import arrow_schema, part_folder, part_name
from stepvideo.telemetry.ship import write_parquet

SECTIONS = {  # milliseconds of a healthy step
    "data_wait": 2.0, "to_device": 3.0, "forward": 100.0, "backward": 200.0, "grad_reduce": 10.0, "clip": 2.0,
    "optimizer": 20.0, "ema": 4.0, "log": 1.0,
}  # fmt: skip
COUPLED = ("forward", "backward")  # as slow as the slowest rank of a tensor group
BUCKETS = {(1, 256, 256): 256, (17, 256, 256): 1280, (17, 192, 320): 1200}  # frames, height, width: tokens
START_NS = 1_795_000_000_000_000_000


@dataclass(frozen=True)
class Fault:
    """`section` takes `factor` times as long on `ranks` from step `since` to `until`, not included."""

    ranks: tuple[int, ...]
    factor: float
    section: str = "forward"
    since: int = 1
    until: int = 1 << 62


@dataclass(frozen=True)
class Made:
    """A training to make rows of. jitter: standard deviation of log durations; tail: of Student's t, 0 for a normal."""

    ranks: int = 16
    steps: int = 100
    first: int = 1
    attempt: int = 1
    tensor: int = 1
    per_node: int = 8
    faults: tuple[Fault, ...] = ()
    exchanges: bool = False
    jitter: float = 0.03
    tail: float = 0.0
    seed: int = 0
    run: str = "run"
    stage: str = "t2vi_192p"

    def node(self, rank: int) -> str:
        return f"training{rank // self.per_node}"


def durations(made: Made) -> dict[str, NDArray[np.float64]]:
    """{section: milliseconds [steps, ranks]}; `step` last, `all_reduce/NAME` the waiting inside NAME."""
    draw = np.random.default_rng(made.seed)
    size, steps = (made.steps, made.ranks), np.arange(made.first, made.first + made.steps)
    own = {}
    for name, mean in SECTIONS.items():
        noise = draw.standard_t(made.tail, size) if made.tail else draw.standard_normal(size)
        own[name] = mean * np.exp(made.jitter * noise)
    for fault in made.faults:
        when = (steps >= fault.since) & (steps < fault.until)
        own[fault.section][np.ix_(when, fault.ranks)] *= fault.factor
    found = dict(own)
    for name in COUPLED if made.tensor > 1 else ():
        group = own[name].reshape(made.steps, -1, made.tensor).max(-1)
        found[name] = np.repeat(group, made.tensor, axis=1)
        if made.exchanges:
            found[f"all_reduce/{name}"] = found[name] - own[name] + 0.05 * SECTIONS[name]
            found[name] = found[name] + 0.05 * SECTIONS[name]
    before = sum(found[n] for n in ("data_wait", "to_device", *COUPLED))
    found["grad_reduce"] = own["grad_reduce"] + before.max(1, keepdims=True) - before
    found["step"] = sum(found[n] for n in SECTIONS)
    return found


def spans(made: Made) -> Iterator[pa.Table]:
    """One table a node, ordered by step, rank and section."""
    found = durations(made)
    names = [n for n in found if n != "step"] + ["step"]
    labels = np.array([n.split("/")[0] for n in names])
    parents = np.array([n.partition("/")[2] or ("" if n == "step" else "step") for n in names])
    cube = (np.stack([found[n] for n in names], -1) * 1e6).astype(np.int64)  # ns [steps, ranks, names]
    within = np.cumsum(cube * ["/" not in n and n != "step" for n in names], -1) - cube
    within[..., -1] = 0
    began = START_NS + np.cumsum(cube[..., -1].max(1)) - cube[..., -1].max(1)
    for first in range(0, made.ranks, made.per_node):
        part = cube[:, first : first + made.per_node]
        shape = part.shape

        def full(values: NDArray[np.int64], axis: int, shape: tuple[int, ...] = shape) -> NDArray[np.int64]:
            view = [1, 1, 1]
            view[axis] = -1
            return np.broadcast_to(values.reshape(view), shape).ravel()

        which = full(np.arange(len(names)), 2)
        start = began[:, None, None] + np.maximum(within[:, first : first + made.per_node], 0)
        yield _table(
            "span", made, full(np.arange(first, first + shape[1]), 1),
            full(np.arange(made.first, made.first + made.steps), 0),
            name=_strings(which, labels), parent=_strings(which, parents), start_ns=start.ravel(),
            duration_ns=part.ravel(), device=["cuda"],
        )  # fmt: skip


def samples(made: Made, clips: int = 10_000, a_step: int = 4, repeated: float = 0.0) -> pa.Table:
    """What every data rank consumed; every bucket goes through its clips in order, `repeated` of them come twice."""
    draw = np.random.default_rng(made.seed + 1)
    data = made.ranks // made.tensor
    n = made.steps * data * a_step
    bucket = np.repeat(draw.integers(0, len(BUCKETS), n // a_step), a_step)
    number = np.zeros(n, np.int64)
    for b in range(len(BUCKETS)):
        mine = np.flatnonzero(bucket == b)
        number[mine] = np.arange(len(mine)) % clips
        again = mine[1:][draw.random(len(mine) - 1) < repeated] if len(mine) else mine
        number[again] = np.maximum(number[again] - 1, 0)
    sizes = np.array(list(BUCKETS))[bucket]
    step = np.repeat(np.arange(made.first, made.first + made.steps), data * a_step)
    rank = np.tile(np.repeat(np.arange(data) * made.tensor, a_step), made.steps)
    origin, kinds = np.array(["films", "web", "stock"]), np.array(["image", "video"])
    return _table(
        "sample", made, rank, step, sample_id=[f"{b}-{i}" for b, i in zip(bucket, number)],
        source=_strings(number % 3, origin), frames=sizes[:, 0], height=sizes[:, 1], width=sizes[:, 2],
        tokens=np.array(list(BUCKETS.values()))[bucket], kind=_strings(np.minimum(bucket, 1), kinds),
        time_ns=START_NS + step * 342_000_000,
    )  # fmt: skip


def counters(made: Made, values: dict[str, float], a_step: bool = True, every: int = 1) -> pa.Table:
    """The same values on every rank, or every so many: at every step, or once at step 0."""
    steps = np.arange(made.first, made.first + made.steps) if a_step else np.zeros(1, np.int64)
    step, rank, which = (
        a.ravel() for a in np.meshgrid(steps, np.arange(0, made.ranks, every), np.arange(len(values)), indexing="ij")
    )
    amounts = np.array(list(values.values()), np.float64)[which]
    return _table(
        "counter", made, rank, step, name=_strings(which, np.array(list(values))),
        time_ns=START_NS + step * 342_000_000, value=amounts,
    )  # fmt: skip


def _strings(which: NDArray[np.int64], words: NDArray[np.str_]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(which.astype(np.int32)), pa.array(words.tolist())).cast(pa.string())


def _table(table: str, made: Made, rank: NDArray[np.int64], step: NDArray[np.int64], **columns: object) -> pa.Table:
    nodes = np.array([made.node(r) for r in range(made.ranks)])
    every = {"run": [made.run], "stage": [made.stage], "attempt": np.array([made.attempt])}
    columns = {**every, "rank": rank, "step": step, "node": _strings(rank, nodes), **columns}
    schema, arrays = arrow_schema(table), []
    for field in schema:
        values = columns[field.name]
        if len(values) == 1:  # type: ignore[arg-type]
            values = pa.repeat(pa.scalar(values[0]), len(rank))  # type: ignore[index]
        arrays.append(pa.array(values, field.type) if not isinstance(values, pa.Array) else values.cast(field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def write(folder: Path, kind: str, tables: Sequence[pa.Table] | Iterator[pa.Table], made: Made) -> int:
    """Put tables where the shipper would; returns rows."""
    where, rows = part_folder(folder, kind, made.run, "2026-11-21"), 0
    where.mkdir(parents=True, exist_ok=True)
    for batch, table in enumerate(tables, len(list(where.iterdir())) + 1):
        write_parquet(where / part_name(batch, batch), [table])
        rows += len(table)
    return rows


def write_run(folder: Path, made: Made) -> int:
    """Spans, samples and counters of a training; returns the spans."""
    write(folder, "sample", [samples(made)], made)
    tokens = 4 * sum(BUCKETS.values()) / len(BUCKETS)
    about = {"parallel.tensor": made.tensor, "parallel.ulysses": 1, "peak_tflops": 989.0}
    told = [counters(made, {"tokens": tokens, "flops": 1.3e14}, every=made.tensor)]
    write(folder, "counter", [*told, counters(made, {"predicted_step_s": 0.33})], made)
    write(folder, "counter", [counters(replace(made, first=0), about, a_step=False)], replace(made, first=0))
    return write(folder, "span", spans(made), made)
