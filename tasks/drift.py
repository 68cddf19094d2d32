"""Drift: a column whose mean moved since the last version of its table is a warning."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

DRIFT = 0.5  # of a standard deviation of the last version
MEANING = (
    "its mean moved since the last version in this store: right if you changed the data, else look at the Data Docs"
)


def expect_means(frame: Any, older: Any, columns: list[str]) -> list[Any]:
    """Expectations that the means of columns are about those of an older data frame; none where that is None."""
    import great_expectations.expectations as gxe
    from great_expectations.expectations.metadata_types import FailureSeverity

    found: list[Any] = []
    if older is None:
        return found
    for name in columns:
        if name in older and name in frame and (kept := _range(older[name])) and frame[name].notna().any():
            low, high = kept
            found.append(
                gxe.ExpectColumnMeanToBeBetween(
                    column=name, min_value=low, max_value=high, severity=FailureSeverity.WARNING, notes=MEANING
                )
            )
    return found


def drifted(findings: Iterable[Any]) -> list[str]:
    """The columns that have drifted, of findings of a gate (`tasks.gates.Finding`)."""
    return [f.expectation.split()[0] for f in findings if MEANING in f.detail]


def _range(values: Any) -> tuple[float, float] | None:
    """Where the mean of another version of a column is expected; None where it is no number."""
    if values.dtype.kind not in "fi" or not values.notna().any():
        return None
    mean, spread = float(values.mean()), float(values.std(ddof=0))
    room = DRIFT * spread if spread > 0 else 1e-6 + 0.01 * abs(mean)
    return (mean - room, mean + room) if math.isfinite(mean) else None
