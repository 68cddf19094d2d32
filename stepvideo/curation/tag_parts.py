"""What backends measured of chunks of clips, kept for every run over the same store.

    TABLE-KEY/AB/CHUNK.parquet      clip_id, the backend's columns, lost, detail

A key is a digest of all that the values follow from but the clips: the backend's name, version, code, packages and
weights, and how clips are shown to it. A chunk's name is a digest of its clips: their files' contents, the frames and
the box in them. So a table that is added, or a backend that changed, costs nothing of what others measured.

A part in which a clip was lost to the machine (a crash, a timeout, too little memory) is kept for one run only.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepvideo import storage
from stepvideo.artifact import content_digest
from stepvideo.config import digest
from stepvideo.curation.backends import Backend
from stepvideo.curation.measure import DETAIL, LOST, UNREADABLE, Measured, Order, Row, Table
from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.fingerprint import fingerprint, packages

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1  # of a part; another one makes all of them anew
MEASURE = "stepvideo.curation.measure"


def table(name: str, made_by: type[Backend], backend: str, weights: str, samples: int, planned: str = "") -> Table:
    """A table with its key; reads its weights, whole.

    Args:
        planned: digest that the weights had when the run was planned, if it is known.

    Raises:
        Absent: the backend cannot work here.
        StepVideoError: the weights are others than planned.
    """
    contents = [_content(path) for path in made_by.needs(weights)]
    if planned and contents and planned not in (*contents, weights):  # weights of the hub were planned by name
        raise StepVideoError(f"weights of {name}: {weights} changed since the run was planned; start the run again")
    code = (made_by.__module__, MEASURE)
    about = [name, backend, made_by.__qualname__, made_by.version, dict(made_by.columns), samples, FORMAT]
    return Table(name, made_by, weights, digest([about, contents, fingerprint(*code), packages(*code)])[:32])


def chunked(orders: Sequence[Order], most: int) -> list[list[Order]]:
    """Runs of at most `most` clips, about half as long. They end where a clip's id says so: a clip more or less in the
    catalog changes one or two of them.
    """
    chunks: list[list[Order]] = []
    ended = True
    for order in orders:
        if ended:
            chunks.append([])
        chunks[-1].append(order)
        ended = len(chunks[-1]) == most or zlib.crc32(order.clip_id.encode()) % max(1, most // 2) == 0
    return chunks


def chunk_name(orders: Sequence[Order], contents: Mapping[str, str]) -> str:
    """Args: contents: sha256 of the catalog's files."""
    return digest([[o.clip_id, contents[o.window.file], asdict(o.window)] for o in orders])[:32]


@dataclass(frozen=True)
class TagParts:
    """Parts of chunks, by name; a chunk's is there when all `tables` have theirs."""

    kept: Path  # for every run
    own: Path  # for this one
    tables: Sequence[Table]

    def missing(self, name: str) -> tuple[Table, ...]:
        return tuple(t for t in self.tables if not any(p.exists() for p in self._places(t, name)))

    def there(self, name: str) -> bool:
        return not self.missing(name)

    def write(self, name: str, results: list[Measured]) -> None:
        """The chunk's rows by clip id, for the tables that were measured."""
        for t in self.tables:
            rows = [{"clip_id": clip, **found[t.name]} for clip, found in results if t.name in found]
            if rows:
                lasting = all(r.get(LOST) in (None, UNREADABLE) for r in rows)
                kept, own = self._places(t, name)
                storage.write_atomic(kept if lasting else own, _parquet(_arrow(rows, t.made_by.columns)))

    def read(self, t: Table, name: str) -> pa.Table:
        """Raises ArtifactError if it was damaged since it was written."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = next((p for p in self._places(t, name) if p.exists()), self._places(t, name)[0])
        try:
            with pq.ParquetFile(path) as file:
                return file.read()
        except (OSError, pa.ArrowInvalid) as e:
            raise ArtifactError(f"{path} cannot be read ({e}); remove it and run again") from e

    def _places(self, t: Table, name: str) -> tuple[Path, Path]:
        place = Path(f"{t.name}-{t.key}") / name[:2] / f"{name}.parquet"
        return self.kept / place, self.own / place


def _content(path: Path) -> str:
    return content_digest(storage.checksums(path)) if path.is_dir() else storage.sha256_file(path)


def schema(columns: Mapping[str, str], *more: str) -> pa.Schema:
    """clip_id, a backend's columns, and `more` strings."""
    import pyarrow as pa

    said = [("clip_id", pa.string()), *((n, _type(t)) for n, t in columns.items()), *((n, pa.string()) for n in more)]
    return pa.schema(said)


def _arrow(rows: list[Row], columns: Mapping[str, str]) -> pa.Table:
    import pyarrow as pa

    fields = schema(columns, LOST, DETAIL)
    return pa.Table.from_arrays([pa.array([r.get(f.name) for r in rows], f.type) for f in fields], schema=fields)


def _parquet(table: pa.Table) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def _type(name: str) -> Any:
    import pyarrow as pa

    inside = name.removeprefix("list<").removesuffix(">")
    kinds = {"double": pa.float64(), "float": pa.float32(), "int": pa.int64(), "int32": pa.int32()}
    kinds |= {"string": pa.string(), "bool": pa.bool_()}
    return pa.list_(kinds[inside]) if inside != name else kinds[name]
