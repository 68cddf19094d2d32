"""Measured step times from CSV files of two forms, as workloads and plans; torch-free.

Megatron-DeepSpeed runs of GPT shapes on A100 (VIA-Research/vTrain), and dense Llama-3 widths on B200 (MooreThreads/
SimuMax). What the files do not say is said here, from those projects' own settings.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepvideo.emulator.calibration import Calibration
from stepvideo.emulator.hardware import GPU, find
from stepvideo.emulator.networks import Decoder, decoder_workload
from stepvideo.emulator.plan import NUMBERS, Plan, problems
from stepvideo.emulator.workload import Workload
from stepvideo.errors import ConfigError


@dataclass(frozen=True)
class Runs:
    """Measured steps of one model: `plan` and `seconds` have a row each, `lines` are theirs in the file."""

    model: str
    work: Workload
    plan: Plan
    seconds: NDArray[np.float64]
    lines: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.seconds)

    def only(self, keep: Any) -> Runs:
        """The rows that a mask or indices keep."""
        plan = replace(self.plan, **{n: np.broadcast_to(getattr(self.plan, n), len(self))[keep] for n in NUMBERS})
        return replace(self, plan=plan, seconds=self.seconds[keep], lines=self.lines[keep])

    def recomputing(self, share: float) -> Runs:
        """The same, all of it with that share of layers recomputed."""
        return replace(self, plan=replace(self.plan, recompute=share))


@dataclass(frozen=True)
class File:
    """All runs of a file, by model.

    prior, fitted: constants to begin with, and those that the measurements are to decide.
    """

    name: str
    form: Form
    gpu: GPU
    runs: tuple[Runs, ...]

    def __len__(self) -> int:
        return sum(map(len, self.runs))

    @property
    def prior(self) -> Calibration:
        return Calibration().with_("prior of such runs", **self.form.known)

    @property
    def fitted(self) -> tuple[str, ...]:
        """Constants of links that no row of the file uses stay out."""
        return self.form.fitted + (BETWEEN_NODES if self.many_nodes else ())

    @property
    def many_nodes(self) -> bool:
        return any(r.plan.gpus.max() > self.gpu.gpus_per_node for r in self.runs)

    def as_done_in(self, other: File) -> File:
        """The same runs, recomputing if those of a file of the same kind and reach did: rows need not show it."""
        if self.form is not other.form or self.many_nodes != other.many_nodes:
            return self
        done = all(np.all(r.plan.recompute == 1) for r in other.runs)
        return replace(self, runs=tuple(r.recomputing(1.0) for r in self.runs)) if done else self

    def parts(self, runs: Runs) -> list[tuple[str, NDArray[np.bool_]]]:
        """What is held out at once, with a mask of its rows: a whole model, or a layout of one."""
        if not self.form.by_layout:
            return [(runs.model, np.ones(len(runs), bool))]
        layouts = np.broadcast_arrays(*(getattr(runs.plan, n) for n in LAYOUT), runs.seconds)[:-1]
        rows = np.stack(layouts, axis=1)
        names = (", ".join(f"{n} {x}" for n, x in zip(LAYOUT, row) if x > 1) for row in np.unique(rows, axis=0))
        return [
            (f"{runs.model}: {name or 'one GPU'}", (rows == row).all(axis=1))
            for name, row in zip(names, np.unique(rows, axis=0))
        ]


LAYOUT = ("tensor", "context", "pipeline", "data")
BETWEEN_NODES = ("inter_efficiency", "inter_latency_s")


@dataclass(frozen=True)
class Form:
    """How one kind of file is read: its columns (others are left alone), a row's model and plan, and what it ran on."""

    columns: tuple[str, ...]
    words: tuple[str, ...]
    model: Callable[[Mapping[str, Any]], tuple[str, Callable[[], Workload]]]
    plan: Callable[[Mapping[str, Any]], dict[str, float]]
    milliseconds: str
    gpu: Callable[[], GPU]
    known: Mapping[str, float]  # constants that such runs are said to have
    fitted: tuple[str, ...]
    may_recompute: bool  # the project does not say if it did
    by_layout: bool  # held out is a layout (all its numbers of micro-batches) instead of a whole model


def _gpt(row: Mapping[str, Any]) -> tuple[str, Callable[[], Workload]]:
    """Attention is not fused; the vocabulary of GPT-2 is not padded (vTrain `src/config.py`, `gpt_modeling.py`)."""
    h, a, n, s = (row[x] for x in ("hidden_size", "attention_heads", "layers", "sequence_length"))
    shape = Decoder(n, h, a, s, vocabulary=50257, fused=False)
    return f"hidden {h}, heads {a}, layers {n}, sequence {s}", lambda: decoder_workload(shape, gradient=2)


def _gpt_plan(row: Mapping[str, Any]) -> dict[str, float]:
    ranks = {"tensor": row["tensor_parallel"], "data": row["data_parallel"], "pipeline": row["pipeline_parallel"]}
    gpus, each = ranks["tensor"] * ranks["data"] * ranks["pipeline"], row["micro_batch"] * row["data_parallel"]
    if gpus != row["gpus"]:
        raise ValueError(f"gpus: {row['gpus']} is not tensor · data · pipeline = {gpus}")
    if row["global_batch"] % each:
        raise ValueError(f"global_batch: {row['global_batch']} is no multiple of micro_batch · data_parallel = {each}")
    batches = {"micro_batch": row["micro_batch"], "micro_batches": row["global_batch"] // each}
    return ranks | batches | {"zero": 0, "sequence_parallel": False}


LLAMA = {  # hidden, heads, ffn (arXiv:2407.21783, Table 3); 8 heads of keys and values, vocabulary of 128256
    "8b": (4096, 32, 14336),
    "70b": (8192, 64, 28672),
    "405b": (16384, 128, 53248),
}


def _llama(row: Mapping[str, Any]) -> tuple[str, Callable[[], Workload]]:
    width, n, s = row["width_of"], row["layers"], row["sequence_length"]
    if width not in LLAMA:
        raise ValueError(f"width_of: {width!r} is not one of {', '.join(LLAMA)}")
    h, a, ffn = LLAMA[width]
    shape = Decoder(n, h, a, s, vocabulary=128256, kv_heads=8, ffn=ffn, gated=True)
    return f"{width} width, layers {n}, sequence {s}", lambda: decoder_workload(shape)


def _llama_plan(row: Mapping[str, Any]) -> dict[str, float]:
    names = {"tensor": "tensor_parallel", "context": "context_parallel", "pipeline": "pipeline_parallel"}
    names |= {"data": "data_parallel", "micro_batches": "micro_batches"}
    return {field: row[column] for field, column in names.items()} | {"zero": 1, "sequence_parallel": True}


COMPUTE = ("gemm_efficiency", "memory_efficiency", "kernel_s", "intra_efficiency", "intra_latency_s")

FORMS = (
    Form(
        columns=("gpus", "global_batch", "micro_batch", "hidden_size", "attention_heads", "layers", "sequence_length")
        + ("tensor_parallel", "data_parallel", "pipeline_parallel", "iteration_time_ms"),
        words=(),
        model=_gpt,
        plan=_gpt_plan,
        milliseconds="iteration_time_ms",
        gpu=lambda: replace(find("A100"), inter_gbs=12.5),  # 800 Gb/s a node (vTrain `src/config.py`)
        known={"data_overlap": 0.0, "launch_s": 3e-5},  # no gradient buckets; eager Python of 2021
        fitted=(*COMPUTE, "gemm_unaligned", "launch_s"),
        may_recompute=True,
        by_layout=False,
    ),
    Form(
        columns=("config", "width_of", "layers", "tensor_parallel", "context_parallel", "pipeline_parallel")
        + ("data_parallel", "micro_batches", "sequence_length", "measured_ms"),
        words=("config", "width_of"),
        model=_llama,
        plan=_llama_plan,
        milliseconds="measured_ms",
        gpu=lambda: find("B200"),
        known={"data_overlap": 0.0},  # overlap is switched off (SimuMax `docs/b200/b200_real_repro_guide.md`)
        fitted=(*COMPUTE, "attention_efficiency"),
        may_recompute=False,
        by_layout=True,
    ),
)


def read(path: Path) -> File:
    """The measurements of a CSV file, grouped by model in the order of the file.

    Raises:
        ConfigError: no such file, no known header, or a value that is wrong: names line and column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"measurements {path}: {e}") from e
    reader = csv.reader(io.StringIO(text))
    try:
        lines = [(values, reader.line_num) for values in reader]
    except csv.Error as e:
        raise ConfigError(f"measurements {path}, line {reader.line_num}: {e}") from e
    header = [name.strip() for name in lines[0][0]] if lines else []
    form = _form(path, header)
    models: dict[str, tuple[Callable[[], Workload], list[tuple[dict[str, float], float, int]]]] = {}
    for row, line in _rows(path, form, header, lines[1:]):
        try:
            name, work = form.model(row)
            plan = form.plan(row)
        except ValueError as e:
            raise ConfigError(f"measurements {path}, line {line}, column {e}") from e
        models.setdefault(name, (work, []))[1].append((plan, row[form.milliseconds] / 1e3, line))
    if not models:
        raise ConfigError(f"measurements {path}: no rows below the header")
    runs = tuple(_runs(path, form, name, work, rows) for name, (work, rows) in models.items())
    gpu = form.gpu()
    if form.may_recompute and any(_activations_overflow(r, gpu) for r in runs):
        runs = tuple(r.recomputing(1.0) for r in runs)
    return File(path.name, form, gpu, runs)


def _activations_overflow(runs: Runs, gpu: GPU) -> bool:
    """Whether a row would not fit without recomputation; a study recomputes in all its runs or in none.

    Activations after arXiv:2205.05198, Eq. 2 and 4: 34 bytes a token and channel, and 5 a score where attention is not
    fused. Weights, gradients and Adam's state: 18 bytes a parameter, 12 of which ZeRO divides.
    """
    p, n, bucket = runs.plan, runs.work.network, runs.work.buckets[0]
    scores = sum(5 * a.heads * a.keys for a in bucket.layer.attentions if not a.fused)
    shared = np.where(p.sequence_parallel, p.tensor, 1)
    token = n.hidden * (10 / shared + 24 / p.tensor) + scores / p.tensor
    held = n.parameters / p.tensor / p.pipeline * np.where(p.zero > 0, 6 + 12 / p.data, 18)
    alive = np.minimum(p.pipeline, p.micro_batches) * p.micro_batch * bucket.tokens / p.context
    return bool(np.any(alive * token * n.layers / p.pipeline + held > gpu.memory))


def _runs(path: Path, form: Form, name: str, work: Callable[[], Workload], rows: list) -> Runs:
    line = rows[0][2]
    try:
        found = work()
    except ConfigError as e:
        raise ConfigError(f"measurements {path}, line {line}: {e}") from e
    numbers: Any = {field: np.array([p[field] for p, _, _ in rows]) for field in rows[0][0]}
    plan = Plan(**numbers)
    for reason, mask in problems(plan, found).items():
        if np.any(mask):
            line = rows[int(np.argmax(np.broadcast_to(mask, len(rows))))][2]
            column = next(c for c in form.columns if c.removesuffix("_parallel") in reason.split()[:2])
            raise ConfigError(f"measurements {path}, line {line}, column {column}: {reason}")
    return Runs(name, found, plan, np.array([s for _, s, _ in rows]), np.array([n for _, _, n in rows]))


def _form(path: Path, header: list[str]) -> Form:
    def lacking(form: Form) -> list[str]:
        return [c for c in form.columns if c not in header]

    form = min(FORMS, key=lambda f: len(lacking(f)))
    if missing := lacking(form):
        raise ConfigError(
            f"measurements {path}, line 1: column {', '.join(missing)} missing; give the columns "
            + " | or ".join(", ".join(f.columns) for f in FORMS)
        )
    if again := [c for c in form.columns if header.count(c) > 1]:
        raise ConfigError(f"measurements {path}, line 1: column {again[0]!r} is there twice; leave one of them")
    return form


def _rows(
    path: Path, form: Form, header: list[str], lines: list[tuple[list[str], int]]
) -> Iterator[tuple[dict[str, Any], int]]:
    for values, line in lines:
        if not any(v.strip() for v in values):
            continue
        if len(values) != len(header):
            last = header[min(len(values), len(header)) - 1]
            raise ConfigError(
                f"measurements {path}, line {line}, column {last}: {len(values)} values for {len(header)} columns"
            )
        read = zip(header, values)
        yield {c: _value(path, form, c, v.strip(), line) for c, v in read if c in form.columns}, line


def _value(path: Path, form: Form, column: str, text: str, line: int) -> Any:
    if column in form.words:
        return text
    time = column == form.milliseconds
    try:
        value = float(text)
        value = value if time else int(value) if value.is_integer() else -1
    except ValueError:
        value = -1
    low, high = (1e-6, 1e12) if time else (1, 1e9)
    if not low <= value <= high:
        what = "a time in milliseconds" if time else "a whole number"
        raise ConfigError(
            f"measurements {path}, line {line}, column {column}: {text[:40]!r} is not {what} above 0 "
            f"({low:g} to {high:g})"
        )
    return value
