"""What a clip is worth beside the others (§7.1 Video Concept Balancing): repeats and outliers go, rare concepts count.

The table `concepts` says all of it. Without it, near-duplicates are what the signatures of the table `copies` say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepvideo.curation.backends import copies
from stepvideo.curation.config import SubsetsConfig
from stepvideo.curation.records import Row
from stepvideo.data.caption_kinds import HUMAN, SOURCES
from stepvideo.errors import ArtifactError

OUTLIER, DUPLICATE = "outlier", "duplicate"
LEFT_OUT = "tables/left_out.parquet"  # of the stage subsets


@dataclass(frozen=True)
class Likeness:
    """By clip id.

    Attributes:
        weights: of the table `concepts`; empty without it. 0: an outlier, or a near-duplicate.
        repeats: near-duplicates in `concepts`, each with the clip that it repeats.
        signatures: of the table `copies`, where there is no `concepts`.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    repeats: Mapping[str, str] = field(default_factory=dict)
    signatures: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, tables: Sequence[Path]) -> Likeness:
        """From the side tables that go by these names. Raises ArtifactError."""
        named = {p.stem: p for p in tables}
        if "concepts" in named:
            rows = _rows(named["concepts"], "weight", "duplicate_of")
            repeats = {r["clip_id"]: r["duplicate_of"] for r in rows if r["duplicate_of"]}
            return cls({r["clip_id"]: r["weight"] for r in rows}, repeats)
        rows = _rows(named["copies"], "signature") if "copies" in named else []
        return cls(signatures={r["clip_id"]: r["signature"] for r in rows if r["signature"]})

    def left_out(self, rows: Sequence[Row], config: SubsetsConfig) -> list[Row]:
        """The outliers and near-duplicates among candidates of one kind: {clip_id, reason, kept}.

        Of near-duplicates the one is `kept` that has captions of the best source, then the most pixels, then the first.

        Args:
            rows: of the catalog, each with its captions' `sources`.
        """
        far = [r["clip_id"] for r in rows if not config.outliers and self._outlier(r["clip_id"])]
        out = [{"clip_id": i, "reason": OUTLIER, "kept": None} for i in far]
        if config.duplicates:
            return out
        rest = {r["clip_id"]: r for r in rows if r["clip_id"] not in set(far)}
        for group in self._groups(list(rest), config.duplicate_bits):
            best = min(group, key=lambda i: _rank(rest[i]))
            out += [{"clip_id": i, "reason": DUPLICATE, "kept": best} for i in group if i != best]
        return out

    def draws(self, ids: Sequence[str]) -> list[float]:
        """How often an epoch should show each clip: the weight of its concept, which a near-duplicate has from the
        clip that it stands in for; 1 for a clip of no concept."""
        return [self.weights.get(self.repeats.get(i, i), 1.0) or 1.0 for i in ids]

    def _outlier(self, clip_id: str) -> bool:
        return self.weights.get(clip_id, 1.0) == 0 and clip_id not in self.repeats

    def _groups(self, ids: list[str], bits: float) -> list[list[str]]:
        if self.weights:
            members: dict[str, list[str]] = {}
            for i in ids:
                members.setdefault(self.repeats.get(i, i), []).append(i)
            return [group for group in members.values() if len(group) > 1]
        known = [i for i in ids if i in self.signatures]
        return copies.duplicates(known, [self.signatures[i] for i in known], bits)


def _rank(row: Row) -> tuple[int, int]:
    order = (HUMAN, *SOURCES)
    return min(map(order.index, row["sources"]), default=len(order)), -row["frames"] * row["height"] * row["width"]


def _rows(path: Path, *columns: str) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, columns=["clip_id", *columns]).to_pylist()
    except (OSError, pa.ArrowInvalid, KeyError) as e:
        raise ArtifactError(f"{path} has no columns {', '.join(columns)}: {e}") from e
