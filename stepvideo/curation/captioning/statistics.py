"""Figures of a set of captions: languages, lengths, vocabulary, repetition, flags, CLIP Scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from stepvideo.curation.captioning.checks import units

Row = Mapping[str, Any]
PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
MOST_REPEATED = 5


def statistics(rows: Sequence[Row]) -> dict[str, Any]:
    """Of rows of captions.parquet, for each language, each "kind/language/source" and for all.

    Lengths are in words, in Chinese in characters; `vocabulary` is how many different ones there are. `distinct_n` is
    the number of different n-grams over their number (Li et al. 2016): low where a model repeats itself. `repeated` are
    the texts that most clips share.
    """
    languages: dict[str, list[Row]] = {}
    groups: dict[str, list[Row]] = {}
    for r in rows:
        groups.setdefault(f"{r['kind']}/{r['language']}/{r['source']}", []).append(r)
        languages.setdefault(r["language"], []).append(r)
    flags = Counter(f for r in rows for f in r["flags"])
    return {
        "captions": len(rows),
        "clips": len({r["clip_id"] for r in rows}),
        "flagged": sum(bool(r["flags"]) for r in rows),
        "flags": dict(sorted(flags.items())),
        "languages": {name: _group(languages[name]) for name in sorted(languages)},
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
        "clip_score": mean(r["clip_score"] for r in rows),
        "vocabulary": len({word for text in words for word in text}),
        "length": {f"p{p}": float(np.percentile(lengths, p)) for p in PERCENTILES} | {"mean": float(lengths.mean())},
        "lengths": dict(sorted(Counter(map(len, words)).items())),
        **{f"distinct_{n}": distinct(words, n) for n in (1, 2, 3)},
        "different": len(texts),
        "repeated": {t: texts[t] for t in often},
    }


def brief(made: Mapping[str, Any]) -> dict[str, float]:
    """The figures of `statistics` that a run is compared by, as metrics: of each language the mean length, vocabulary,
    duplicates (1 - different texts / captions), and the mean CLIP Score where there is one."""
    found = {}
    for language, group in made["languages"].items():
        found[f"length_{language}"] = group["length"]["mean"]
        found[f"vocabulary_{language}"] = float(group["vocabulary"])
        found[f"duplicates_{language}"] = 1 - group["different"] / group["captions"]
        if group["clip_score"] is not None:
            found[f"clip_score_{language}"] = group["clip_score"]
    return found


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that there are."""
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def distinct(texts: Sequence[Sequence[str]], n: int) -> float | None:
    """Different n-grams over all n-grams; None where no text has one."""
    grams = [tuple(words[i : i + n]) for words in texts for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None
