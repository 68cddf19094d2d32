"""What became of every clip of a catalog: the best of s1 … s6 that it is in, and what kept it from the next one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stepvideo import storage
from stepvideo.config import load
from stepvideo.curation.config import SubsetsConfig
from stepvideo.curation.funnel import SUBSETS, passes
from stepvideo.curation.likeness import DUPLICATE, OUTLIER
from stepvideo.curation.places import located
from stepvideo.curation.subsets import MADE
from stepvideo.curation.views import connect
from stepvideo.data.caption_kinds import HUMAN

TEXTS = ("clip_id", "source_role", "source_file", "source_sha256")
NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "BOOLEAN", "UBIGINT", "UINTEGER")
LABELS = (
    "clip_id",
    "cluster",
    "cluster_cnt",
    "first_frame",
    "source_start",
    "source_end",
)  # numbers that measure nothing

LEFT_OUT = {DUPLICATE: "near-duplicate of another clip", OUTLIER: "outlier of its concept"}


@dataclass(frozen=True)
class Fates:
    """The clips (kind "clip") of one catalog.

    Attributes:
        name: of the version or store.
        ids: [N], str.
        sources: role, file and sha256 of each clip's raw file, [N, 3], str.
        numbers: column → float64 [N], NaN where unknown; tags by their names in filters.
        reach: how many of s1 … s6 the clip is in, int64 [N]; all 0 without subsets.
        stopped: what kept it from the next set, [N], str; "" for what is in all of them.
        files: (role, file) → (sha256, "accepted" or the reason of its quarantine).
        places: arguments of `views.connect`.
        config: of the stage subsets; None without it.
    """

    name: str
    ids: np.ndarray
    sources: np.ndarray
    numbers: Mapping[str, np.ndarray]
    reach: np.ndarray
    stopped: np.ndarray
    files: Mapping[tuple[str, str], tuple[str, str]]
    places: Mapping[str, Any]
    config: SubsetsConfig | None

    def at(self, clip: str) -> int:
        """The row of a clip that is there; ids are sorted."""
        return int(np.searchsorted(self.ids, clip))

    def members(self, name: str) -> np.ndarray:
        """Which clips are in a set, bool [N]; "all": every one."""
        return np.ones(len(self.ids), bool) if name == "all" else self.reach > SUBSETS.index(name)


def fates(store: Path, name: str) -> Fates:
    """Of the newest catalog of a store, or of the tables of a version, which lie as in a store.

    Raises:
        StepVideoError: there is no catalog, or its tables cannot be joined.
    """
    places = located(store)
    db = connect(**places)
    columns = db.execute("DESCRIBE clips").fetchall()
    wanted = [c for c, kind, *_ in columns if kind in NUMBERS and c not in LABELS]
    chosen = ", ".join(f'"{c}"' for c in (*TEXTS, *wanted))
    found = db.execute(f"SELECT {chosen}, subset FROM clips WHERE kind = 'clip' ORDER BY clip_id").df()
    ids = found["clip_id"].to_numpy(str)
    numbers = {c.removeprefix("tag_"): found[c].to_numpy(np.float64, na_value=np.nan) for c in wanted}
    level = {s: i + 1 for i, s in enumerate(SUBSETS)}
    reach = np.array([level.get(s, 0) for s in found["subset"]], np.int64)
    sources = found[list(TEXTS[1:])].fillna("").to_numpy(str)
    files = {}
    if _has(db, "files"):
        for role, file, sha, status, reason in db.execute(
            "SELECT role, file, sha256, status, reason FROM files"
        ).fetchall():
            files[role, file] = (sha or "", status if status == "accepted" else reason or status)
    stopped, config = np.full(len(ids), "", object), None
    if subsets := places.get("subsets"):
        config = load(SubsetsConfig, storage.read_json(subsets.parent / "manifest.json")["config"], "subsets")
        stopped = _stopped(db, subsets, config, ids, numbers, reach)
    return Fates(name, ids, sources, numbers, reach, stopped, files, places, config)


def _stopped(
    db: Any, subsets: Path, config: SubsetsConfig, ids: np.ndarray, numbers: Mapping[str, np.ndarray], reach: np.ndarray
) -> np.ndarray:
    """As `subsets` decides it, in its order: captions, length, near-duplicates and outliers, then filter by filter."""
    levels = storage.read_json(subsets / "funnel.json")["levels"]
    stopped = np.full(len(ids), "", object)
    worded, made = _captioned(db, config, ids)
    out = dict(db.execute("SELECT clip_id, reason FROM left_out").fetchall()) if _has(db, "left_out") else {}
    base = reach == 0
    stopped[base & ~worded] = "no captions"
    stopped[base & (stopped == "") & (numbers["frames"] < config.min_frames)] = (
        f"shorter than {config.min_frames} frames"
    )
    for i in np.flatnonzero(base & (stopped == "")):
        stopped[i] = LEFT_OUT.get(out.get(ids[i], ""), out.get(ids[i], ""))
    for level, row in enumerate(levels):
        at_level = (reach == level) & (stopped == "")
        for rule, step in zip(config.filters, row["filters"]):
            values = numbers.get(rule.tag, np.full(len(ids), np.nan))
            if rule.tag == "caption_overlap":
                values = np.where(np.isnan(values) & made, 1.0, values)
            limit = np.nan if step["threshold"] is None else step["threshold"]
            fails = at_level & (stopped == "") & ~passes(rule, values, level, limit)
            stopped[fails] = f"{rule.name} {limit:.4g} ({row['subset']})"
        stopped[at_level & (stopped == "")] = f"not in {row['subset']} for an unknown reason"
    return stopped


def _captioned(db: Any, config: SubsetsConfig, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which clips have captions that count, and which have some that are of the whole clip, bool [N]."""
    if _has(db, "captions"):
        rows = db.execute("SELECT DISTINCT clip_id, source FROM captions").fetchall()
    else:
        rows = db.execute("SELECT clip_id, caption_source FROM catalog WHERE captions <> '{}'").fetchall()
    allowed = {*config.caption_sources, HUMAN}
    said = {i for i, source in rows if source in allowed}
    whole = {i for i, source in rows if source in allowed & MADE}
    every = "none" in config.caption_sources
    return np.array([every or i in said for i in ids], bool), np.array([i in whole for i in ids], bool)


def _has(db: Any, view: str) -> bool:
    return bool(db.execute("SELECT count(*) FROM duckdb_views() WHERE view_name = ?", [view]).fetchone()[0])
