"""A curated catalog in an in-memory DuckDB: filtered, counted, sorted and exported in milliseconds."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stepvideo import storage
from stepvideo.curation import sheet_data, side_tables
from stepvideo.curation.browse.expression import Condition, condition
from stepvideo.curation.funnel import SUBSETS
from stepvideo.curation.preview import moving, poster
from stepvideo.curation.verdicts import Verdicts
from stepvideo.data.clips import Clip
from stepvideo.errors import ArtifactError, StepVideoError

BINS = 24  # of a column's histogram
SIDE, SECONDS, PREVIEWS = 240, 8.0, 500  # of what plays: shorter side, length, how many are kept
EVERYTHING = Condition("TRUE")


class Catalog:
    """All clips of one `curate` artifact, with what later stages said of them.

    Args:
        curate, subsets, captions: artifacts.
        tables: artifacts with side tables.

    Attributes:
        columns: what conditions and the order can name → float or str.

    Raises:
        ArtifactError: an artifact is missing or damaged.
    """

    def __init__(
        self, curate: Path, subsets: Path | None = None, tables: Iterable[Path] = (), captions: Path | None = None
    ) -> None:
        self.root = curate
        sides = side_tables.find([*tables, captions])
        self.sheet, cards = sheet_data.read(curate, Verdicts.read(subsets), sides, captions)
        self.clips: dict[str, Clip] = {c.clip.clip_id: c.clip for c in cards}
        ids = list(self.clips)
        found: dict[str, Any] = {
            "kind": [c.clip.kind for c in cards],
            "file": [str(c.clip.source.get("file", c.clip.file)) for c in cards],
            "caption": ["\n".join(c.clip.caption_list()) for c in cards],
            "subset": [c.fate for c in cards],
            "why": [c.reason for c in cards],
            "level": pa.array([SUBSETS.index(c.fate) + 1.0 if c.fate in SUBSETS else 0.0 for c in cards]),
        }
        for name in self.sheet.numbers:
            found.setdefault(name, pa.array([c.tags.get(name) for c in cards], pa.float64()))
        for name, values in _texts(sides, ids).items():
            found.setdefault(name, values)
        table = pa.table({"clip_id": ids} | found)
        self.columns: dict[str, type] = {n: str if table[n].type == pa.string() else float for n in table.column_names}
        self._database = duckdb.connect(config={"threads": 2})
        self._database.register("given", table)
        self._database.execute("CREATE TABLE clips AS SELECT * FROM given")
        self._database.unregister("given")
        self._database.execute("SET enable_external_access = false")
        self._media = TemporaryDirectory(prefix="stepvideo-browse-")
        self._made: OrderedDict[str, None] = OrderedDict()
        self._making = threading.Lock()

    def describe(self) -> dict[str, Any]:
        """What a page needs to offer filters: columns of numbers with their histograms, values of subset and kind."""
        numbers = [self._range(name) for name, of in self.columns.items() if of is float]
        choices = {
            n: [r[0] for r in self._all(f"SELECT DISTINCT {n} FROM clips ORDER BY 1")] for n in ("kind", "subset")
        }
        limits = self.sheet.verdicts.limits()
        for row in numbers:
            row["thresholds"] = limits.get(row["name"], [])
        texts = [n for n, of in self.columns.items() if of is str]
        return {"total": len(self.clips), "numbers": [r for r in numbers if r["known"]], "texts": texts} | choices

    def look(
        self, filters: Sequence[str], sort: str = "clip_id", descending: bool = False, offset: int = 0, limit: int = 0
    ) -> dict[str, Any]:
        """What conditions leave.

        Returns:
            {count, alone: [clips that each drops by itself], left: [clips left after each in turn], ms, clips: rows}.

        Raises:
            StepVideoError: a condition cannot be read, or there is no such column.
        """
        if sort not in self.columns:
            raise StepVideoError(f"no column {sort!r} to sort by; there are {', '.join(self.columns)}")
        began = time.perf_counter()
        terms = [condition(text, self.columns) for text in filters]
        total, every = EVERYTHING, []
        for term in terms:
            total = total.joined("AND", term)
            every += [(f"({term.sql}) IS NOT TRUE", term.values), (total.sql, total.values)]
        counts = ", ".join(f"count(*) FILTER (WHERE {sql})" for sql, _ in [(total.sql, ()), *every])
        values = [*total.values, *(v for _, given in every for v in given)]
        count, *each = self._all(f"SELECT {counts} FROM clips", values)[0]
        rows = []
        if limit:
            order = f'"{sort}" {"DESC" if descending else "ASC"} NULLS LAST, clip_id'
            text = f"SELECT * FROM clips WHERE {total.sql} ORDER BY {order} LIMIT ? OFFSET ?"
            rows = self._arrow(text, [*total.values, limit, offset]).to_pylist()
        spent = round(1000 * (time.perf_counter() - began), 1)
        return {"count": count, "alone": each[::2], "left": each[1::2], "ms": spent, "clips": rows}

    def ids(self, filters: Sequence[str]) -> pa.Table:
        """The clips that conditions leave: a table of `clip_id`, as a subset's file. Raises as `look`."""
        total = EVERYTHING
        for text in filters:
            total = total.joined("AND", condition(text, self.columns))
        return self._arrow(f"SELECT clip_id FROM clips WHERE {total.sql} ORDER BY clip_id", total.values)

    def film(self, clip_id: str, still: bool) -> Path:
        """The clip as a small mp4, or its middle frame as JPEG; made once.

        Raises:
            StepVideoError: there is no such clip.
            ArtifactError: it cannot be decoded.
        """
        clip = self.clips.get(clip_id)
        if clip is None:
            raise StepVideoError(f"no clip {clip_id!r}")
        path = Path(self._media.name) / f"{clip_id}{'.jpg' if still else '.mp4'}"
        with self._making:  # one at a time: a page asks for many at once
            if not path.exists() and still:
                storage.write_atomic(path, poster(self.root, clip, SIDE))
            elif not path.exists():
                moving(self.root, clip, SIDE, SECONDS, path)
            self._made[path.name] = None
            self._made.move_to_end(path.name)
            if len(self._made) > PREVIEWS:
                (path.parent / self._made.popitem(last=False)[0]).unlink(missing_ok=True)
        return path

    def file(self, clip_id: str) -> Path:
        """The clip's media file as it is kept. Raises as `film`."""
        if clip_id not in self.clips:
            raise StepVideoError(f"no clip {clip_id!r}")
        path = self.root / self.clips[clip_id].file
        if not path.is_file() or not path.resolve().is_relative_to(self.root.resolve()):
            raise ArtifactError(f"{self.clips[clip_id].file} is not in the catalog's folder")
        return path

    def close(self) -> None:
        self._database.close()
        self._media.cleanup()

    def _range(self, name: str) -> dict[str, Any]:
        low, high, known = self._all(f'SELECT min("{name}"), max("{name}"), count("{name}") FROM clips')[0]
        bins = [0] * BINS
        if known and high > low:
            where = f'least(floor(("{name}" - ?) / ? * {BINS}), {BINS - 1})'
            counts = f'SELECT {where} AS b, count(*) FROM clips WHERE "{name}" IS NOT NULL GROUP BY b'
            for b, n in self._all(counts, [low, high - low]):
                bins[int(b)] = n
        return {"name": name, "min": low, "max": high, "known": known, "bins": bins}

    def _all(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._database.cursor().execute(sql, list(values)).fetchall()

    def _arrow(self, sql: str, values: Sequence[Any]) -> pa.Table:
        return self._database.cursor().execute(sql, list(values)).to_arrow_table()


def _texts(paths: Iterable[Path], ids: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    """Columns of text of side tables, in the order of `ids`."""
    found = {}
    for path in paths:
        table = pq.read_table(path)
        at = pc.index_in(  # type: ignore[attr-defined]
            pa.array(ids, pa.string()), table["clip_id"].combine_chunks()
        )
        names = [f.name for f in table.schema if f.type == pa.string() and f.name != "clip_id"]
        found |= {name: table[name].take(at) for name in names}
    return found
