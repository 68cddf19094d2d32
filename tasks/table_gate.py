"""The gate over side tables of a catalog: every clip once and known, values in their ranges, no drift unseen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.curation import side_tables
from stepvideo.data.clips import CATALOG
from stepvideo.errors import StepVideoError
from tasks.drift import expect_means
from tasks.gates import GateReport, gate

SUITE_VERSION = 3  # as in `gates`
REFERENCES = ("duplicate_of",)  # columns that name another clip of the catalog, or nothing
UNKNOWN = 0.2  # share of clips without a value above which there is a warning, where the backend was not absent
# What a column may hold, wherever it stands; others have no bounds.
RANGES: dict[str, tuple[float | None, float | None]] = {
    "aesthetic": (-10, 20),  # a regression around 1 to 10
    "camera_steadiness": (0, 1),
    "center_sim": (-1, 1.000001),  # float32 cosines
    "cluster": (0, None),
    "cluster_cnt": (1, None),
    "embedding_length": (0, 1.000001),
    "frozen_share": (0, 1),
    "frozen_s": (0, None),
    "nsfw": (0, 1),
    "text_area": (0, 1),
    "text_frames": (0, 1),
    "watermark": (0, 1),
    "weight": (0, None),
}


def check_tables(tags_dir: Path, catalog_dir: Path, docs_dir: Path, last: Path | None = None) -> GateReport:
    """Validate the side tables of an artifact, such as those of the stages `tags` and `concepts`.

    Args:
        docs_dir: where Data Docs go.
        last: an earlier version of the artifact, over the same or other clips, to compare means with.

    Raises:
        GateFailed: a clip is listed twice, is not in the catalog or refers to one that is not, or a value is out of
            its range.
        StepVideoError: there is no side table.
    """
    paths = side_tables.find([tags_dir])
    if not paths:
        raise StepVideoError(f"{tags_dir} has no tables/*.parquet; the stage `tags` makes them")
    before = side_tables.find([last])
    every = [Path(catalog_dir) / CATALOG, *paths, *before]
    version = {"suite": SUITE_VERSION, "files": [storage.sha256_file(p) for p in every]}

    def load() -> tuple[dict[str, Any], dict[str, list[Any]]]:
        from stepvideo.data.clips import load_table

        known = set(load_table(Path(catalog_dir))["clip_id"].to_pylist())
        frames, suites = {}, {}
        for path in paths:
            frames[path.stem], absent = _frame(path, known)
            older = next((_frame(p, known)[0] for p in before if p.name == path.name), None)
            suites[path.stem] = _suite(frames[path.stem], absent, older)
        return frames, suites

    return gate(version, load, Path(docs_dir), f"the side tables in {tags_dir}")


def _frame(path: Path, known: set[str]) -> tuple[Any, str]:
    """The table, with whether the catalog has each clip, and why it is empty if it is."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    frame = table.select([n for n in table.column_names if not str(table.schema.field(n).type).startswith("list")])
    absent = (table.schema.metadata or {}).get(b"absent", b"").decode()
    found = frame.to_pandas().assign(in_catalog=lambda f: f["clip_id"].isin(known))
    for name in set(REFERENCES) & set(frame.column_names):
        found[f"{name}_known"] = found[name].isna() | found[name].isin(known)
    return found, absent


def _suite(frame: Any, absent: str, older: Any) -> list[Any]:
    import great_expectations.expectations as gxe
    from great_expectations.expectations.metadata_types import FailureSeverity

    found: list[Any] = [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        gxe.ExpectColumnValuesToNotBeNull(column="clip_id"),
        gxe.ExpectColumnValuesToBeUnique(column="clip_id"),
        gxe.ExpectColumnValuesToBeInSet(column="in_catalog", value_set=[True]),
    ]
    references = [c for c in frame.columns if c.removesuffix("_known") in REFERENCES]
    known = [c for c in references if c.endswith("_known")]
    found += [gxe.ExpectColumnValuesToBeInSet(column=c, value_set=[True]) for c in known]
    columns = [c for c in frame.columns if c not in ("clip_id", "in_catalog", *references)]
    for name in columns if not absent else ():
        low, high = RANGES.get(name, (None, None))
        if (low, high) != (None, None):
            found.append(gxe.ExpectColumnValuesToBeBetween(column=name, min_value=low, max_value=high))
        found.append(
            gxe.ExpectColumnValuesToNotBeNull(column=name, mostly=1 - UNKNOWN, severity=FailureSeverity.WARNING)
        )
    return [*found, *([] if absent else expect_means(frame, older, columns))]
