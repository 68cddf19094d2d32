"""A catalog with its side tables as views of a DuckDB database.

    catalog        one row a clip, as the stage `curate` wrote it
    files          one row a source file
    NAME           one view a side table: text, camera, nsfw, concepts, …
    clips          catalog joined with every side table on clip_id; `subset` is the best of s1 … s6
    captions       one row a caption
    memberships    one row a clip and subset: clip_id, subset
    left_out       why near-duplicates and outliers are in no subset

Nothing is copied: DuckDB reads the Parquet files.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepvideo.curation import side_tables
from stepvideo.curation.funnel import SUBSETS
from stepvideo.data.captions import CAPTIONS
from stepvideo.data.clips import CATALOG
from stepvideo.errors import ArtifactError, StepVideoError

if TYPE_CHECKING:
    import duckdb

OWN = ("catalog", "files", "captions", "memberships", "left_out", "clips")


def connect(
    curate: Path, subsets: Path | None = None, tables: Iterable[Path] = (), captions: Path | None = None
) -> duckdb.DuckDBPyConnection:
    """A database in memory with the views above, those whose files there are.

    Args:
        curate, subsets, captions: artifacts.
        tables: artifacts with side tables.

    Raises:
        ArtifactError: a file is missing or damaged.
        StepVideoError: two side tables have one name, or a column of one name.
    """
    import duckdb

    database = duckdb.connect(config={"threads": 2})
    sides = {p.stem: p for p in side_tables.find([*tables, captions])}
    files = {"catalog": curate / CATALOG}
    files |= {"files": curate / "files.parquet"} if (curate / "files.parquet").is_file() else {}
    files |= {"captions": captions / CAPTIONS} if captions else {}
    files |= {p.stem: p for p in subsets.glob("tables/left_out.parquet")} if subsets else {}
    if both := sorted(set(sides) & set(OWN)):
        raise StepVideoError(f"{sides[both[0]]}: {both[0]} is the name of a view of every catalog; name it otherwise")
    sets = {p.stem: p for p in sorted(subsets.glob("*.parquet"))} if subsets else {}
    try:
        for name, path in (files | sides).items():
            database.execute(f'CREATE VIEW "{name}" AS SELECT * FROM read_parquet({_text(path)})')
        rows = [f"SELECT clip_id, '{name}' AS subset FROM read_parquet({_text(path)})" for name, path in sets.items()]
        none = "SELECT NULL::VARCHAR AS clip_id, NULL::VARCHAR AS subset WHERE false"
        database.execute(f"CREATE VIEW memberships AS {' UNION ALL '.join(rows or [none])}")
        _check_columns(database, list(sides))
        levels = ", ".join(f"'{s}'" for s in SUBSETS)
        best = f"(SELECT clip_id, max(subset) AS subset FROM memberships WHERE subset IN ({levels}) GROUP BY clip_id)"
        joined = " ".join(f'LEFT JOIN "{name}" USING (clip_id)' for name in sides)
        database.execute(f"CREATE VIEW clips AS SELECT * FROM catalog {joined} LEFT JOIN {best} USING (clip_id)")
    except duckdb.Error as e:
        raise ArtifactError(f"{curate} and its tables cannot be joined: {e}") from e
    return database


def answer(query: str, as_csv: bool = False, **places: Any) -> str:
    """What the query gives, as a table for people or as CSV.

    Args:
        places: arguments of `connect`.

    Raises:
        StepVideoError: DuckDB does not take the query; with its own words.
    """
    import duckdb

    try:
        found = connect(**places).sql(query)
        if found is None:
            return ""
        return found.df().to_csv(index=False).rstrip() if as_csv else str(found)
    except duckdb.Error as e:
        raise StepVideoError(f"{query!r}: {e}") from e


def _check_columns(database: duckdb.DuckDBPyConnection, names: list[str]) -> None:
    """A join would rename a column that two tables have, without a word."""
    owner: dict[str, str] = {}
    for name in ["catalog", *names]:
        for column in (row[0] for row in database.execute(f'DESCRIBE "{name}"').fetchall()):
            if column != "clip_id" and owner.setdefault(column, name) != name:
                raise StepVideoError(
                    f"the tables {owner[column]} and {name} both have a column {column!r}; leave one of them out"
                )


def _text(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
