"""Figures of a set of captions: lengths, variety, repetition, flags, cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stepvideo.curation.captioning.checks import units

Row = Mapping[str, Any]
PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
MOST_REPEATED = 5


def statistics(rows: Sequence[Row]) -> dict[str, Any]:
    """Of rows of captions.parquet, for each "kind/language/source" and for all.

    Lengths are in words, in Chinese in characters. `distinct_n` is the number of different n-grams over their number
    (Li et al. 2016): low where a model repeats itself. `repeated` are the texts that most clips share.
    """
    groups: dict[str, list[Row]] = {}
    for r in rows:
        groups.setdefault(f"{r['kind']}/{r['language']}/{r['source']}", []).append(r)
    flags = Counter(f for r in rows for f in r["flags"])
    return {
        "captions": len(rows),
        "clips": len({r["clip_id"] for r in rows}),
        "flagged": sum(bool(r["flags"]) for r in rows),
        "flags": dict(sorted(flags.items())),
        "groups": {name: _group(groups[name]) for name in sorted(groups)},
    }


def _group(rows: Sequence[Row]) -> dict[str, Any]:
    words = [units(r["text"], r["language"]) for r in rows]
    lengths = np.array([len(w) for w in words])
    texts = Counter(r["text"] for r in rows)
    often = sorted((t for t in texts if texts[t] > 1), key=lambda t: (-texts[t], t))[:MOST_REPEATED]
    return {
        "captions": len(rows),
        "flagged": sum(bool(r["flags"]) for r in rows),
        "length": {f"p{p}": float(np.percentile(lengths, p)) for p in PERCENTILES} | {"mean": float(lengths.mean())},
        **{f"distinct_{n}": distinct(words, n) for n in (1, 2, 3)},
        "different": len(texts),
        "repeated": {t: texts[t] for t in often},
    }


def distinct(texts: Sequence[Sequence[str]], n: int) -> float | None:
    """Different n-grams over all n-grams; None where no text has one."""
    grams = [tuple(words[i : i + n]) for words in texts for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None
