"""Finds means, rates and scores that stand without an interval, in what is written for programs and for people."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from stepvideo.evaluation.results import ATTRIBUTES

VALUES = {"mean", "rate", "value"}  # of {value, low, high, n} and its kin
MEANS = {"accuracy", "agreement", "against", "alpha", "kappa", "left_share", "raw", "score", "strength", "theta",
         "tie_share", "ties", "simulated_power"}  # fmt: skip
ASKED = {"config", "design", "rules", "sampling", "settings"}  # what was asked for, not what was found
INTERVAL = re.compile(r"[\d.]+\s?(–|to)\s[+−-]?[\d.]+|[\d.]+–[\d.]+")


def bare(data: Any, path: str = "", reasons: Mapping[str, str] | None = None) -> list[str]:
    """Paths of the means in a JSON value that have no interval beside them, in order.

    One may lack its interval if the value says why: in its `reasons` by name, or by `prompts` of 1.
    """
    return [*_bare(data, path, reasons or (data.get("reasons") if isinstance(data, dict) else None) or {})]


def _bare(data: Any, path: str, reasons: Mapping[str, str]) -> Iterator[str]:
    if isinstance(data, list | tuple):
        for i, part in enumerate(data):
            yield from _bare(part, f"{path}[{i}]", reasons)
    if not isinstance(data, Mapping):
        return
    name = path.rpartition(".")[2]
    for key, x in data.items():
        ends = ("low", "high") if key in VALUES else (f"{key}_low", f"{key}_high")
        excused = key in VALUES and data.get("low", 0) is None and (name in reasons or data.get("prompts") == 1)
        if _mean(key, x) and not excused and not _held(x, *(data.get(end) for end in ends)):
            yield f"{path}.{key}"
        if key not in ASKED:
            yield from _bare(x, f"{path}.{key}", reasons)


def _mean(key: str, x: Any) -> bool:
    """Whether a number, or a list of nothing but numbers, is called as a mean is."""
    if isinstance(x, list):
        return key in MEANS and bool(x) and all(_mean(key, part) for part in x)
    named = key in MEANS or ("/" in key and key.rpartition("/")[2] in ATTRIBUTES)
    return isinstance(x, float) and named or isinstance(x, int | float) and key in VALUES


def _held(x: Any, low: Any, high: Any) -> bool:
    return isinstance(x, int | float) and None not in (low, high) and low <= x <= high


def bare_cells(html: str) -> list[str]:
    """Cells of a page's tables that hold a percentage and no interval; chance and what is equal are no measurement."""
    rows = [r for r in re.findall(r"<tr[^>]*>.*?</tr>", html, re.DOTALL) if "<td>chance</td>" not in r]
    cells = [re.sub(r"<[^>]+>", " ", c) for r in rows for c in re.findall(r"<td[^>]*>(.*?)</td>", r, re.DOTALL)]
    return [c.strip() for c in cells if re.search(r"\d\s?%(?! is equal)", c) and not INTERVAL.search(c)]
