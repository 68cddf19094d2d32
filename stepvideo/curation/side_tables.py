"""Side tables of a catalog: Parquet files whose rows are named by `clip_id`, such as those of the stage `tags`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from stepvideo.errors import ArtifactError, StepVideoError


def find(folders: Iterable[Path | None]) -> list[Path]:
    """Every side table in artifacts: `tables/*.parquet`, or without any a Parquet file that lies beside."""
    given = [Path(f) for f in folders if f]
    return [p for f in given for p in sorted(f.glob("tables/*.parquet")) or sorted(f.glob("*.parquet"))]


def numbers(paths: Iterable[Path], ids: Sequence[str]) -> dict[str, np.ndarray]:
    """The columns that a threshold can apply to: numbers, and truth values as 0 and 1.

    Returns:
        column → float64 [N] for the N `ids`; NaN where a table has no such clip or no value.

    Raises:
        ArtifactError: a table cannot be read, has no `clip_id`, or has a clip twice.
        StepVideoError: two tables have a column of one name.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: dict[str, np.ndarray] = {}
    owner: dict[str, Path] = {}
    for path in paths:
        try:
            table = pq.read_table(path)
            keys = table["clip_id"].combine_chunks()
        except (OSError, pa.ArrowInvalid, KeyError) as e:
            raise ArtifactError(f"{path} is no side table of a catalog: {e}") from e
        at = _rows(keys, ids, path)
        for field in table.schema:
            if not (pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or field.type == pa.bool_()):
                continue
            if field.name in owner:
                raise StepVideoError(
                    f"{path} and {owner[field.name]} both have a column {field.name!r}; leave one of the tables out"
                )
            values = table[field.name].take(at).cast(pa.float64())
            found[field.name] = values.to_numpy(zero_copy_only=False).astype(np.float64)
            owner[field.name] = path
    return found


def _rows(keys, ids: Sequence[str], path: Path):
    import pyarrow as pa
    import pyarrow.compute as pc

    if len(keys.unique()) < len(keys):
        raise ArtifactError(f"{path} has a clip twice; make it again")
    return pc.index_in(pa.array(ids, pa.string()), keys)  # type: ignore[attr-defined]
