"""What a contact sheet says: every clip with its tags and its fate, counts of all, and which clips are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stepvideo import storage
from stepvideo.curation import side_tables
from stepvideo.curation.records import read_rows
from stepvideo.curation.verdicts import Verdicts
from stepvideo.data.captions import captioned
from stepvideo.data.clips import Clip, load_catalog

NUMBERS = ("frames", "height", "width", "fps")  # of the catalog, beside its tags


@dataclass
class Card:
    """A clip on the page."""

    clip: Clip
    fate: str
    reason: str
    members: list[str]
    tags: dict[str, float]
    media: str = ""  # the file that plays, relative to the page
    picture: str = ""
    error: str = ""

    @property
    def cause(self) -> str:
        """The reason without the clip's own value: what it shares with others."""
        return self.reason.partition(", here ")[0]


@dataclass
class Sheet:
    """All that the page says."""

    total: int
    kinds: dict[str, int]
    fates: dict[tuple[str, str], int]  # (best subset, filter that removed it) → clips
    verdicts: Verdicts
    numbers: dict[str, np.ndarray]  # tag → float64 [clips], NaN where unknown
    files: list[dict[str, Any]]
    spans: dict[tuple[str, str], list[tuple[int, int, str]]]  # (role, file) → (start, end, clip id) of its clips
    captions: dict[str, Any] = field(default_factory=dict)  # statistics.json of the captions
    cards: list[Card] = field(default_factory=list)


def read(
    curate: Path, verdicts: Verdicts, sides: Sequence[Path], captions: Path | None = None
) -> tuple[Sheet, list[Card]]:
    """All clips of a catalog as cards without media, and what is said of them together. Raises ArtifactError."""
    clips = captioned(load_catalog(curate), captions)
    names = list(dict.fromkeys(tag for clip in clips for tag in clip.tags))
    numbers = {n: np.array([getattr(c, n) for c in clips], np.float64) for n in NUMBERS}
    numbers |= {n: np.array([_number(c.tags.get(n)) for c in clips]) for n in names}
    numbers |= side_tables.numbers(sides, [c.clip_id for c in clips])
    cards = []
    for i, clip in enumerate(clips):
        known = {n: float(v[i]) for n, v in numbers.items() if not np.isnan(v[i])}
        fate, reason = verdicts.of(clip.clip_id, clip.kind, known)
        cards.append(Card(clip, fate, reason, verdicts.members(clip.clip_id), known))
    spans: dict[tuple[str, str], list[tuple[int, int, str]]] = {}
    for clip in clips:
        if clip.kind == "clip":
            of = clip.source
            spans.setdefault((of["role"], of["file"]), []).append((of["start"], of["end"], clip.clip_id))
    return Sheet(
        len(clips),
        dict(Counter(c.kind for c in clips)),
        dict(Counter((c.fate, c.cause) for c in cards)),
        verdicts,
        {n: v[[c.kind == "clip" for c in clips]] for n, v in numbers.items()},
        read_rows(curate / "files.parquet"),
        spans,
        _statistics(captions),
    ), cards


def _statistics(captions: Path | None) -> dict[str, Any]:
    path = captions / "statistics.json" if captions else None
    return storage.read_json(path) if path and path.is_file() else {}


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def spread(cards: Sequence[Card], count: int) -> list[Card]:
    """At most `count` cards, evenly over fates and causes; ids are hashes, so their order is a random one."""
    groups: dict[tuple[str, ...], list[Card]] = {}
    for card in sorted(cards, key=lambda c: c.clip.clip_id):
        groups.setdefault((card.cause, card.fate, card.clip.kind), []).append(card)
    ranked = [(turn, key, card) for key, group in groups.items() for turn, card in enumerate(group)]
    ranked.sort(key=lambda r: r[:2])
    return sorted((card for _, _, card in ranked[:count]), key=lambda c: (c.fate, c.reason, c.clip.clip_id))
