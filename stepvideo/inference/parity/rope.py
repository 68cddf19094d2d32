"""RoPE-3D on given queries and keys.

Ours computes the angles in float32 always. A bf16 case holds a rounding fault of the released code, which casts them
to bf16 before cosine and sine: its tolerance is for those who repeat the fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from stepvideo.inference.parity.compare import Tolerance
from stepvideo.inference.parity.golden import Asked, Case, NotUnderstood
from stepvideo.models.rope import apply_rope, rope_tables

CLOSE = {"float32": Tolerance(5e-6), "bfloat16": Tolerance(1e-3)}


def outputs(case: Case) -> Iterator[tuple[str, Tensor, Tolerance]]:
    """`q<index>` and `k<index>` of every entry of `cases`."""
    for entry in case.config["cases"]:
        e: Asked[Any] = Asked(entry, f"{case.name}.json: an entry of cases")
        index, heads, computed = e["index"], e["heads"], e.get("compute_dtype", "float32")
        (frames, height, width), (time, rows, columns) = e["grid_fhw"], e["ch_split"]
        theta = float(e.get("theta", 10000.0))
        if computed not in CLOSE or e.rest():
            raise NotUnderstood(f"case {index}: {', '.join(e.rest()) or 'compute_dtype ' + computed} not understood")
        split = (time, rows, columns)
        tables = rope_tables(frames, height, width, split, torch.device("cpu"), theta)
        for name in (f"q{index}", f"k{index}"):
            x = case.inputs[name].to(getattr(torch, computed))
            if list(x.shape[1:]) != [frames * height * width, heads, sum(split)]:
                raise ValueError(f"{name} is {list(x.shape)}: it does not fit case {index} of {case.name}.json")
            yield name, apply_rope(x, *tables, split), CLOSE[computed]
