"""Which clips pass which thresholds (§8, Figure 11): pure functions of tag arrays, and the figure as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from stepvideo.curation.config import LEVELS, Filter
from stepvideo.errors import StepVideoError

SUBSETS = [f"s{i + 1}" for i in range(LEVELS)]
Columns = Mapping[str, np.ndarray]  # tag → float64 [N], NaN where unknown


def thresholds(rule: Filter, values: np.ndarray) -> list[float]:
    """The filter's absolute threshold at each level; quantiles are over the known entries of `values`, float64 [N]."""
    if not rule.quantile:
        return list(rule.values)
    known = values[~np.isnan(values)]
    if not known.size:
        return [np.nan] * len(rule.values)
    # Without interpolation equal data give equal bytes, and 0 and 1 keep everything.
    return [float(np.quantile(known, q, method="lower" if rule.keep == "above" else "higher")) for q in rule.values]


def passes(rule: Filter, values: np.ndarray, level: int, threshold: float) -> np.ndarray:
    """Which entries stay at `level` (0 for s1), bool [N]."""
    if rule.quantile and rule.values[level] == (0.0 if rule.keep == "above" else 1.0):
        return np.ones(len(values), bool)
    with np.errstate(invalid="ignore"):
        return values >= threshold if rule.keep == "above" else values <= threshold


def ladder(
    columns: Columns,
    filters: Sequence[Filter],
    total: int,
    allow_empty: bool = False,
    names: Sequence[str] = SUBSETS,
) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
    """Nested sets and their funnel.

    Args:
        columns: tag values of `total` candidates.
        names: of the sets; a filter has a value for each.

    Returns:
        Masks over the candidates, bool [N] for each set, each contained in the one before; and for each level
        {subset, into, left, filters: [{filter, threshold, removed_alone, removed, left}]}, where `removed_alone` counts
        what the filter would drop from the level before by itself, and `removed` what it drops in its turn.

    Raises:
        StepVideoError: a filter names no known tag, or a subset is empty (unless it may be); names the threshold that
            emptied it.
    """
    for rule in filters:
        if rule.tag not in columns:
            raise StepVideoError(f"subsets: no tag {rule.tag!r} in the catalog; it has {', '.join(sorted(columns))}")
    limits = [thresholds(rule, columns[rule.tag]) for rule in filters]
    before = np.ones(total, bool)
    masks, table = [], []
    for level, name in enumerate(names):
        mask, steps = before.copy(), []
        for rule, limit in zip(filters, limits):
            ok = passes(rule, columns[rule.tag], level, limit[level])
            after = mask & ok
            steps.append(
                {
                    "filter": rule.name,
                    "threshold": None if np.isnan(limit[level]) else limit[level],
                    "removed_alone": int((before & ~ok).sum()),
                    "removed": int((mask & ~ok).sum()),
                    "left": int(after.sum()),
                }
            )
            if mask.any() and not after.any() and not allow_empty:
                relax = "lower" if rule.keep == "above" else "raise"
                raise StepVideoError(
                    f"subsets: {name} is empty: {rule.name} {limit[level]:.4g} drops the last {int(mask.sum())} "
                    f"of {total} clips; {relax} value {level + 1} of that filter, or give more data"
                )
            mask = after
        table.append({"subset": name, "into": int(before.sum()), "left": int(mask.sum()), "filters": steps})
        masks.append(mask)
        before = mask
    return masks, table


def svg(table: Sequence[Mapping[str, Any]], width: int = 760) -> str:
    """The funnel as a stand-alone SVG: a coloured bar for what is left, grey ones for what each filter removed."""
    total = max([row["into"] for row in table] + [1])
    label, bar, row_height, gap = 150, width - 150 - 110, 16, 10
    parts, y = [], 8
    for row in table:
        lines = [(f"− {s['filter']} {_short(s['threshold'])}", s["removed"], "#b8b8b8") for s in row["filters"]]
        lines = [line for line in lines if line[1]] + [(row["subset"], row["left"], "#2f6fb3")]
        for name, count, colour in lines:
            length = bar * count / total
            parts.append(
                f'<text x="{label - 8}" y="{y + 12}" text-anchor="end">{escape(name)}</text>'
                f'<rect x="{label}" y="{y + 2}" width="{length:.1f}" height="{row_height - 4}" fill="{colour}"/>'
                f'<text x="{label + length + 6:.1f}" y="{y + 12}">{count}</text>'
            )
            y += row_height
        y += gap
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" font-family="sans-serif" font-size="11">'
    return head + "<title>Clips left in, and removed from, each subset</title>" + "".join(parts) + "</svg>\n"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
