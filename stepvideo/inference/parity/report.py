"""The result as a table and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from stepvideo.inference.parity.compare import BAD_INPUT, MISS, NOT_COMPARED, OK, VERDICTS, Row

HEAD = ("case", "output", "max error", "tolerance", "verdict", "seconds", "")
RIGHT = (2, 5)  # columns of numbers


def table(rows: Sequence[Row], seconds: float) -> str:
    """A line an output, and the totals."""
    cells = [HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEAD) - 1)] + [0]
    lines = [
        "  ".join(c.rjust(w) if i in RIGHT else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths))).rstrip()
        for line in cells
    ]
    counts = Counter(row.verdict for row in rows)
    said = ", ".join(f"{counts[v]} {v}" for v in VERDICTS if counts[v])
    cases = len({row.case for row in rows})
    total = f"{len(rows)} comparisons in {cases} case{'s' * (cases > 1)}, {seconds:.1f} s: {said}{_closest(rows)}"
    return "\n".join([*lines, total])


def passed(rows: Sequence[Row]) -> bool:
    """Every output was compared, and those in float32 are inside."""
    return not any(row.verdict in (MISS, NOT_COMPARED, BAD_INPUT) for row in rows)


def as_json(rows: Sequence[Row], seconds: float) -> dict[str, Any]:
    counts = Counter(row.verdict for row in rows)
    totals = {verdict: counts[verdict] for verdict in VERDICTS}
    return {"passed": passed(rows), "totals": totals, "seconds": seconds, "rows": [asdict(row) for row in rows]}


def _cells(row: Row) -> tuple[str, ...]:
    error = "-" if row.error is None else f"{row.error:.1e}" if row.error else "0"
    tolerance = str(row.tolerance or "-")
    return row.case, row.output or "-", error, tolerance, row.verdict, f"{row.seconds:.2f}", row.note


def _closest(rows: Sequence[Row]) -> str:
    worst = max((row for row in rows if row.verdict == OK and row.used), key=lambda row: row.used or 0, default=None)
    return f"; of the ok, {worst.case} {worst.output} uses most of its tolerance, {worst.used:.0%}" if worst else ""
