"""Every case of a golden folder, compared."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import torch
from torch import Tensor

from stepvideo import storage
from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.inference.parity import denoising, dit, keys, rope, schedule, step_llm, vae
from stepvideo.inference.parity.compare import BAD_INPUT, BF16_SUFFIX, NOT_COMPARED, Row, Tolerance, judge
from stepvideo.inference.parity.golden import Case, NotUnderstood, read_case

KINDS: dict[str, Callable[[Case], Iterator[tuple[str, Tensor, Tolerance]]]] = {
    "dit_t2v": dit.outputs,
    "dit_ti2v": dit.outputs,
    "video_vae_v2": vae.outputs,
    "video_vae_v1": vae.outputs,
    "step_llm": step_llm.outputs,
    "rope3d": rope.outputs,
    "scheduler_tables": schedule.tables,
    "scheduler_loop": schedule.loop,
    "pipeline_t2v": denoising.outputs,
    "pipeline_ti2v": denoising.outputs,
}
FILE = re.compile(r"(.+?)(?:\.json|(?:\.io|\.weights)?\.safetensors)")
BF16_NOISE = Tolerance(0.05, mean=True)


def names(folder: Path, pattern: str = "*") -> list[str]:
    """The cases of a folder; tensors without a json are one too, which cannot be compared.

    Raises:
        ArtifactError: the folder is missing, or has no such case.
    """
    if not folder.is_dir():
        raise ArtifactError(
            f"{folder} is no folder; give one of golden cases: <case>.json beside <case>.io.safetensors"
        )
    found = {m[1] for p in folder.iterdir() if (m := FILE.fullmatch(p.name))}
    chosen = sorted(name for name in found if fnmatch(name, pattern))
    if not chosen:
        held = f"it has {', '.join(sorted(found))}" if found else "it has no <case>.json"
        raise ArtifactError(f"{folder} has no case {pattern}; {held}")
    return chosen


def check(folder: Path, name: str) -> list[Row]:
    """The rows of one case: every output that its files hold, and whatever could not be understood or read."""
    rows: list[Row] = []
    try:
        path = folder / f"{name}.json"
        raw = storage.read_json(path)
        if keys.is_key_list(raw):
            rows += _key_list(name, raw)
        elif not isinstance(raw, dict) or raw.get("kind") not in KINDS:
            kind = raw.get("kind") if isinstance(raw, dict) else None
            raise NotUnderstood(f"kind {kind!r} in {path.name}: known are {', '.join(KINDS)}")
        else:
            with torch.no_grad():
                for row in _outputs(read_case(path)):
                    rows.append(row)
    except NotUnderstood as e:
        rows.append(Row(name, "", NOT_COMPARED, note=str(e)))
    except Exception as e:  # a damaged case must not hide the others
        told = isinstance(e, StepVideoError | ValueError)
        where = "" if str(folder) in str(e) else f"{folder / name}.json: "
        rows.append(Row(name, "", BAD_INPUT, note=f"{where}{'' if told else type(e).__name__ + ' '}{e}"))
    return rows


def _outputs(case: Case) -> Iterator[Row]:
    compared: set[str] = set()
    for part, suffix in _by_dtype(case):
        start = time.perf_counter()
        for name, ours, tolerance in KINDS[case.kind](part):
            seconds = time.perf_counter() - start
            if name in part.outputs:
                compared.add(name + suffix)
                tolerance = BF16_NOISE if suffix else tolerance
                yield judge(case.name, name + suffix, ours, part.outputs[name], tolerance, seconds)
            start = time.perf_counter()
    for name in case.outputs.keys() - compared:
        yield Row(case.name, name, NOT_COMPARED, note="this version has no comparison for it")
    for where, rest in (("key of the json", case.config.rest()), ("input", case.inputs.rest())):
        for name in rest:
            yield Row(case.name, name, NOT_COMPARED, note=f"{where} that this version does not understand")
    if not case.outputs:
        yield Row(case.name, "", NOT_COMPARED, note="the case has no outputs")


def _by_dtype(case: Case) -> Iterator[tuple[Case, str]]:
    """The case as computed in float32, and where there are outputs `<name>_bf16`, in bf16."""
    rounded = {n.removesuffix(BF16_SUFFIX): t for n, t in case.outputs.items() if n.endswith(BF16_SUFFIX)}
    yield replace(case, outputs={n: t for n, t in case.outputs.items() if not n.endswith(BF16_SUFFIX)}), ""
    if rounded:
        yield replace(case, outputs=rounded, dtype=torch.bfloat16), BF16_SUFFIX


def _key_list(case: str, raw: dict) -> list[Row]:
    rows: list[Row] = []
    networks = keys.entries(raw)
    for name in networks:
        try:
            rows += keys.check(case, raw, name)
        except NotUnderstood as e:
            rows.append(Row(case, name, NOT_COMPARED, note=str(e)))
    others = [name for name in raw if name not in networks and not name.startswith("_")]
    return rows + [Row(case, name, NOT_COMPARED, note="no network with a list of keys") for name in others]
