"""The tables of one training as DuckDB views, in memory: nothing is copied, nobody is locked out.

    span, counter, sample    the tables of `schema`, of one run and stage, without steps that were done again later
    with open_views("STORE/_telemetry") as views:
        views.sql("SELECT node, avg(duration_ns) / 1e6 FROM span WHERE name = 'forward' GROUP BY node")

A job that resumes at step 101 does 101 … again: what earlier attempts did from there on was thrown away, and is not
here, also where the later attempt has not come that far again. In numbers: of attempt a the views have the steps below
the first step of every later attempt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from pyarrow import types as pa_types

from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.telemetry.places import Layout
from stepvideo.telemetry.schema import TABLES, arrow_schema, parts

if TYPE_CHECKING:
    import duckdb

OPEN = 1 << 62  # after the last step of an attempt that nobody has resumed


class Views:
    """Of one run and stage.

    Attributes:
        steps: the first and the last step, (0, 0) if there is none.
        attempts: {attempt: step at which a later one took over}.
    """

    def __init__(self, folder: Path, run: str, stage: str, database: duckdb.DuckDBPyConnection) -> None:
        self.folder, self.run, self.stage, self.database = folder, run, stage, database
        self.steps: tuple[int, int] = (0, 0)
        self.attempts: dict[int, int] = {}

    def sql(self, query: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of the answer. Raises ArtifactError with DuckDB's words."""
        with self._words():
            return self.database.execute(query, values or None).fetchall()

    def arrays(self, query: str) -> dict[str, NDArray[Any]]:
        """Columns of the answer; strings as objects, one of each; NaN for what is NULL."""
        with self._words():
            table = self.database.sql(query).to_arrow_table()
        found = {}
        for name, column in zip(table.column_names, table.columns):
            if pa_types.is_string(column.type):
                column = column.combine_chunks().dictionary_encode()
                found[name] = np.array(column.dictionary.to_pylist(), dtype=object)[column.indices.to_numpy()]
            else:
                found[name] = column.to_numpy()
        return found

    @contextmanager
    def _words(self) -> Iterator[None]:
        import duckdb

        try:
            yield
        except duckdb.Error as e:
            raise ArtifactError(f"telemetry of {self.run} in {self.folder}: {e}") from e

    @cached_property
    def layout(self) -> Layout:
        """Ranks that were there at the beginning or are at the end, their nodes in the latest attempt, and the degrees
        that the job told at its start."""
        ends = ", ".join(map(str, {0, *self.steps, *self.attempts.values()}))  # a look at few row groups
        nodes = dict(self.sql(f"SELECT rank, arg_max(node, attempt) FROM span WHERE step IN ({ends}) GROUP BY rank"))
        told = dict(
            self.sql("SELECT name, arg_max(value, attempt) FROM counter WHERE name LIKE 'parallel.%' GROUP BY name")
        )
        return Layout(nodes, *(int(told.get(f"parallel.{name}", 1)) for name in ("tensor", "ulysses")))

    def close(self) -> None:
        self.database.close()

    def __enter__(self) -> Views:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def runs(folder: Path) -> dict[str, float]:
    """{run: when its newest file was written}, the newest run last.

    Raises:
        StepVideoError: not a folder with telemetry.
    """
    found: dict[str, float] = {}
    for table in TABLES:
        for path in parts(folder, table):
            run = unquote(path.parent.parent.name.removeprefix("run="))
            found[run] = max(found.get(run, 0.0), path.stat().st_mtime)
    if not found:
        raise StepVideoError(
            f"{folder} has no telemetry in Parquet: give a telemetry folder such as STORE/_telemetry; if ranks still "
            f"record there, `stepvideo telemetry ship {folder}` makes Parquet of it"
        )
    return dict(sorted(found.items(), key=lambda item: item[1]))


def open_views(folder: Path | str, run: str = "", stage: str = "", threads: int = 0) -> Views:
    """The views of a run, by default the newest, and of its stage, by default the one that began last.

    Args:
        run: its name, or as much of its beginning as is unique.
        threads: of DuckDB; 0: as many as it likes.

    Raises:
        StepVideoError: there is no such run or stage; says which there are.
        ArtifactError: a file is damaged.
    """
    import duckdb

    folder = Path(folder)
    chosen = _choose(folder, run)
    database = duckdb.connect(config={"threads": threads} if threads else {})
    views = Views(folder, chosen, stage, database)
    files = {table: [str(p) for p in parts(folder, table, chosen)] for table in TABLES}
    for table in TABLES:
        if files[table]:
            source = f"read_parquet({_listed(files[table])}, hive_partitioning = false)"
        else:
            database.register(f"no_{table}", arrow_schema(table).empty_table())
            source = f"no_{table}"
        views.sql(f"CREATE VIEW every_{table} AS SELECT * FROM {source}")
    lives = _lives(views, files)
    _choose_stage(views, lives)
    _keep_latest(views, [life for life in lives if life.stage == views.stage])
    return views


def _choose(folder: Path, run: str) -> str:
    known = list(runs(folder))
    found = [r for r in known if r == run] or [r for r in known if r.startswith(run)]
    if not found or (run and len(found) > 1):
        raise StepVideoError(f"{folder}: {len(found)} runs are called {run!r}…; there are: {', '.join(known)}")
    return found[-1]


def _listed(files: Sequence[str]) -> str:
    return "[" + ", ".join("'" + f.replace("'", "''") + "'" for f in files) + "]"


class _Life(NamedTuple):
    """What one attempt at a stage did. began: nanoseconds."""

    stage: str
    attempt: int
    first: int
    last: int
    began: int


def _lives(views: Views, files: Mapping[str, list[str]]) -> list[_Life]:
    """The latest attempt first. Where files tell in their footers that there is one attempt, nothing else is read."""
    if not files["span"]:
        return []
    number = "TRY_CAST({} AS BIGINT)"
    low, high = number.format("stats_min_value"), number.format("stats_max_value")
    stats = views.sql(
        f"SELECT path_in_schema, min(stats_min_value), max(stats_max_value), min({low}), max({high}),"
        f" bool_and(stats_min_value IS NOT NULL) FROM parquet_metadata({_listed(files['span'])})"
        " WHERE path_in_schema IN ('stage', 'attempt', 'step', 'start_ns') GROUP BY path_in_schema"
    )
    known = {name: row for name, *row in stats}
    if len(known) == 4 and all(row[-1] for row in known.values()):
        (stage, other, *_), (_, _, attempt, another, _) = known["stage"], known["attempt"]
        if stage == other and attempt == another:
            first = known["step"][2] or views.sql("SELECT min(step) FROM every_span WHERE step > 0")[0][0]
            return [_Life(stage, attempt, first, known["step"][3], known["start_ns"][2])] if first else []
    rows = views.sql(
        "SELECT stage, attempt, min(step), max(step), min(start_ns) FROM every_span WHERE step > 0"
        " GROUP BY stage, attempt ORDER BY attempt DESC"
    )
    return [_Life(*row) for row in rows]


def _choose_stage(views: Views, lives: Sequence[_Life]) -> None:
    known = list(dict.fromkeys(life.stage for life in sorted(lives, key=lambda life: life.began)))
    if views.stage and views.stage not in known:
        raise StepVideoError(f"{views.run} has no stage {views.stage!r}; it has: {', '.join(known) or 'no steps'}")
    views.stage = views.stage or (known[-1] if known else "")
    only = "" if len(known) < 2 else " WHERE stage = '" + views.stage.replace("'", "''") + "'"
    for table in TABLES:
        views.sql(f"CREATE VIEW staged_{table} AS SELECT * FROM every_{table}{only}")


def _keep_latest(views: Views, lives: Sequence[_Life]) -> None:
    end = OPEN
    for life in lives:
        views.attempts[life.attempt] = end
        end = min(end, life.first)
    if lives:
        views.steps = (end, max(min(life.last, views.attempts[life.attempt] - 1) for life in lives))
    cut = {attempt: end for attempt, end in views.attempts.items() if end < OPEN}
    kept = ""
    if cut:
        ends = " ".join(f"WHEN {attempt} THEN {end}" for attempt, end in cut.items())
        kept = f" WHERE step < CASE attempt {ends} ELSE {OPEN} END"
    for table in TABLES:
        views.sql(f"CREATE VIEW {table} AS SELECT * FROM staged_{table}{kept}")
