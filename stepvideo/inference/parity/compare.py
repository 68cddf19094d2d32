"""One output against what the released code gave, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

OK, MISS, REPORTED, NOT_COMPARED, BAD_INPUT = "ok", "MISS", "reported", "not compared", "bad input"
VERDICTS = (OK, MISS, REPORTED, NOT_COMPARED, BAD_INPUT)
BF16_SUFFIX = "_bf16"


@dataclass(frozen=True)
class Tolerance:
    """|ours − theirs| ≤ atol + rtol · |theirs| for every element, or for the mean alone."""

    atol: float
    rtol: float = 0.0
    mean: bool = False

    def __str__(self) -> str:
        relative = f" + {self.rtol:.0e}·|x|" if self.rtol else ""
        return f"{'mean ' if self.mean else ''}{self.atol:.0e}{relative}" if self.atol else "exact"


@dataclass(frozen=True)
class Row:
    """A line of the result. `used` is the share of the tolerance that the worst element takes: above 1 is outside."""

    case: str
    output: str
    verdict: str
    seconds: float = 0.0
    error: float | None = None  # the largest absolute difference; None where nothing could be compared, or not finite
    tolerance: Tolerance | None = None
    used: float | None = None
    note: str = ""


def judge(case: str, output: str, ours: Tensor, theirs: Tensor, tolerance: Tolerance, seconds: float) -> Row:
    """The row of one output. What the released code computed in bf16 is reported and never fails."""
    bf16 = theirs.dtype == torch.bfloat16 or output.endswith(BF16_SUFFIX)
    if ours.shape != theirs.shape:
        note = f"shape {list(ours.shape)}, expected {list(theirs.shape)}"
        return Row(case, output, REPORTED if bf16 else MISS, seconds, tolerance=tolerance, note=note)
    theirs = theirs.double()
    difference = (ours.double() - theirs).abs()
    allowed = tolerance.atol + tolerance.rtol * theirs.abs()
    judged, limit = (difference.mean(), allowed.mean()) if tolerance.mean else (difference, allowed)
    inside = bool((judged <= limit).all())  # false where ours is not a number
    error, used = (float(x.max()) if x.numel() else 0.0 for x in (difference, judged / limit))
    mean = f"mean {float(difference.mean()):.1e}, {'inside' if inside else 'outside'}"
    verdict, note = (REPORTED, mean) if bf16 else (OK if inside else MISS, "")
    return Row(case, output, verdict, seconds, _finite(error), tolerance, _finite(used), note)


def _finite(x: float) -> float | None:
    return x if x - x == 0 else None
