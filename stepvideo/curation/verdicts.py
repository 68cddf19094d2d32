"""Why a clip is in a subset or not, in words: from the subsets' ids and their funnel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.curation.funnel import SUBSETS
from stepvideo.curation.likeness import LEFT_OUT
from stepvideo.curation.records import read_rows
from stepvideo.data.clips import load_ids

SIGNS = {"≥": lambda value, limit: value >= limit, "≤": lambda value, limit: value <= limit}


@dataclass
class Verdicts:
    """The artifact of the stage `subsets`, asked clip by clip. Empty without one.

    Attributes:
        sets: subset → ids.
        levels: the rows of funnel.json.
        alike: near-duplicate or outlier → what it is, in words.
    """

    sets: dict[str, set[str]] = field(default_factory=dict)
    funnel: dict[str, Any] = field(default_factory=dict)
    alike: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, subsets: Path | None) -> Verdicts:
        """Raises ArtifactError if the funnel is missing or damaged."""
        if subsets is None:
            return cls()
        found = {p.stem: set(load_ids(p)) for p in sorted(subsets.glob("*.parquet"))}
        return cls(found, storage.read_json(subsets / "funnel.json"), _alike(subsets / LEFT_OUT))

    @property
    def levels(self) -> list[dict[str, Any]]:
        return self.funnel.get("levels", [])

    def limits(self) -> dict[str, list[tuple[str, float]]]:
        """Tag → (subset, threshold) of every filter of it."""
        found: dict[str, list[tuple[str, float]]] = {}
        for level in self.levels:
            for step in level["filters"]:
                if step["threshold"] is not None:
                    found.setdefault(step["filter"].rpartition(" ")[0], []).append((level["subset"], step["threshold"]))
        return found

    def members(self, clip_id: str) -> list[str]:
        """The subsets that the clip is in."""
        return [name for name, ids in self.sets.items() if clip_id in ids]

    def of(self, clip_id: str, kind: str, tags: Mapping[str, float | None]) -> tuple[str, str]:
        """A word for the clip's fate, and what decided it: ("s2", "s3: motion_mean ≥ 0.52, here 0.31").

        The word is the best subset that it is in, or "out".
        """
        if not self.sets:
            return "all", ""
        if clip_id in self.alike:
            return "out", self.alike[clip_id]
        if kind != "clip":
            best = [name for name in ("images_2", "images") if clip_id in self.sets.get(name, ())]
            return (best or ["out"])[0], "" if best else "no caption that counts, or its clip is not in s1"
        inside = [name for name in SUBSETS if clip_id in self.sets.get(name, ())]
        if len(inside) == len(SUBSETS):
            return inside[-1], ""
        reason = self._removed(SUBSETS[len(inside)], tags)
        if not inside and not reason:
            reason = "no captions from a source that counts, or too short"
        return (inside or ["out"])[-1], reason

    def _removed(self, subset: str, tags: Mapping[str, float | None]) -> str:
        steps = next((level["filters"] for level in self.levels if level["subset"] == subset), [])
        for step in steps:
            tag, _, sign = step["filter"].rpartition(" ")
            value, limit = tags.get(tag), step["threshold"]
            unknown = value is None or math.isnan(value)
            if step["removed"] and (unknown or limit is None or not SIGNS[sign](value, limit)):
                said = "" if limit is None else f" {limit:.4g}"
                return f"{subset}: {step['filter']}{said}, here {'unknown' if unknown else f'{value:.4g}'}"
        return ""


def _alike(path: Path) -> dict[str, str]:
    rows = read_rows(path) if path.is_file() else []
    return {
        r["clip_id"]: f"{r['reason']}, here of {r['kept']}" if r["kept"] else f"{r['reason']} of its concept"
        for r in rows
    }
