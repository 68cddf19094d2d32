"""The gates over captions, subsets and shards: references hold, texts are texts, sets nest, no drift unseen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.curation.funnel import SUBSETS
from stepvideo.data.caption_kinds import CAPTION_KINDS, HUMAN, LANGUAGES, SOURCES
from stepvideo.data.captions import CAPTIONS, CLIPS
from stepvideo.data.clips import CATALOG
from stepvideo.data.tar_shards import INDEX
from stepvideo.errors import StepVideoError
from tasks.drift import expect_means
from tasks.gates import GateReport, gate

SUITE_VERSION = 3  # as in `gates`
WRITTEN_HERE = ("vlm", "rule")  # sources of captions
FLAGGED = 0.5  # share of the captions that were written here which the checks doubt, above which there is a warning
DOUBTED = "more than half of what was written here is doubted: `captions` on the sheet, and checks.parquet, say why"
IN_CATALOG = "in_catalog"


def check_captions(made: Path, catalog_dir: Path, docs_dir: Path, last: Path | None = None) -> GateReport:
    """Validate an artifact of the stage `captions` or `labels`; Data Docs go to `docs_dir`.

    Args:
        last: an earlier version of it.

    Raises:
        GateFailed: a caption is empty, twice there or of no clip, or a clip of the catalog is not accounted for.
    """
    paths = [made / CAPTIONS, made / CLIPS]
    before = [last / CAPTIONS] if last else []

    def load() -> tuple[dict[str, Any], dict[str, list[Any]]]:
        known = _known(catalog_dir)
        captions, clips = _captions(made, known), _read(made / CLIPS, known)
        accounted = set(clips["clip_id"])
        clips["whole_catalog"] = accounted == known
        older = _captions(last, known) if last else None
        return {"captions": captions, "clips": clips}, {
            "captions": _captions_suite(captions, older),
            "clips": [*_keys(), _true("whole_catalog")],
        }

    return gate(_version([*paths, *before], catalog_dir), load, docs_dir, f"the captions in {made}")


def check_subsets(made: Path, catalog_dir: Path, docs_dir: Path) -> GateReport:
    """Validate an artifact of the stage `subsets`; Data Docs go to `docs_dir`.

    Raises:
        GateFailed: a set has a clip twice or one that the catalog has not, or is not within the one that it is from.
        StepVideoError: there is no subset.
    """
    paths = sorted(Path(made).glob("*.parquet"))
    if not paths:
        raise StepVideoError(f"{made} has no *.parquet; the stage `subsets` makes them")

    def load() -> tuple[dict[str, Any], dict[str, list[Any]]]:
        known = _known(catalog_dir)
        frames = {p.stem: _read(p, known) for p in paths}
        members = {name: set(frame["clip_id"]) for name, frame in frames.items()}
        for name, frame in frames.items():
            outer = members.get(_outer(name), known)
            frame["nested"] = frame["clip_id"].isin(outer)
        return frames, {name: [*_keys(), _true("nested")] for name in frames}

    return gate(_version(paths, catalog_dir), load, docs_dir, f"the subsets in {made}")


def check_shards(made: Path, catalog_dir: Path, docs_dir: Path) -> GateReport:
    """Validate the index of an artifact of the stage `shards`; Data Docs go to `docs_dir`.

    Raises:
        GateFailed: a clip is there twice or not in the catalog, or a place that the index names is not in its tar.
    """
    path = Path(made) / INDEX

    def load() -> tuple[dict[str, Any], dict[str, list[Any]]]:
        import great_expectations.expectations as gxe
        import pyarrow.parquet as pq

        known = _known(catalog_dir)
        frame = pq.read_table(path).to_pandas().rename(columns={"key": "clip_id"})
        frame[IN_CATALOG] = frame["clip_id"].isin(known)
        tars = {p.name: p.stat().st_size for p in Path(made).glob("*.tar")}
        ends = frame[["offset", "json_offset"]].to_numpy() + frame[["size", "json_size"]].to_numpy()
        frame["in_tar"] = ends.max(axis=1) <= [tars.get(tar, -1) for tar in frame["tar"]]
        numbers = ("offset", "size", "json_offset", "json_size", "frames")
        positive = [gxe.ExpectColumnValuesToBeBetween(column=c, min_value=1) for c in numbers]
        return {"shards": frame}, {"shards": [*_keys(), _true("in_tar"), *positive]}

    return gate(_version([path], catalog_dir), load, docs_dir, f"the shards in {made}")


def _outer(name: str) -> str:
    """The set that a set must lie in."""
    if name in SUBSETS[1:]:
        return SUBSETS[SUBSETS.index(name) - 1]
    return {"images_2": "images"}.get(name, SUBSETS[0] if name.startswith("sft_") else "")


def _captions(folder: Path, known: set[str]) -> Any:
    frame = _read(folder / CAPTIONS, known)
    frame["flagged"] = [float(len(flags) > 0) for flags in frame["flags"]]
    # people's own captions are listed when they are doubted, but they are no fault of this run
    ours = frame["source"].isin(WRITTEN_HERE)
    frame["doubted"] = frame["flagged"].where(ours)
    frame["letters"] = [float(len(text)) for text in frame["text"]]
    return frame.drop(columns=["flags"])


def _captions_suite(frame: Any, older: Any) -> list[Any]:
    import great_expectations.expectations as gxe
    from great_expectations.expectations.metadata_types import FailureSeverity

    allowed = {"kind": CAPTION_KINDS, "language": LANGUAGES, "source": (*SOURCES, HUMAN)}
    doubted = gxe.ExpectColumnMeanToBeBetween(
        column="doubted", max_value=FLAGGED, severity=FailureSeverity.WARNING, notes=DOUBTED
    )
    return [
        _true(IN_CATALOG),
        *(gxe.ExpectColumnValuesToBeInSet(column=c, value_set=list(v)) for c, v in allowed.items()),
        gxe.ExpectColumnValuesToMatchRegex(column="text", regex=r"\S"),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["clip_id", "kind", "language", "text"]),
        *(gxe.ExpectColumnValuesToBeBetween(column=c, min_value=0) for c in ("tokens_in", "tokens_out", "cost")),
        gxe.ExpectColumnValuesToBeBetween(column="clip_score", min_value=-1, max_value=1),
        *([doubted] if frame["doubted"].notna().any() else []),
        *expect_means(frame, older, ["flagged", "letters", "clip_score"]),
    ]


def _keys() -> list[Any]:
    import great_expectations.expectations as gxe

    unique = gxe.ExpectColumnValuesToBeUnique(column="clip_id")
    return [gxe.ExpectColumnValuesToNotBeNull(column="clip_id"), unique, _true(IN_CATALOG)]


def _true(column: str) -> Any:
    import great_expectations.expectations as gxe

    return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[True])


def _read(path: Path, known: set[str]) -> Any:
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pandas().assign(**{IN_CATALOG: lambda f: f["clip_id"].isin(known)})


def _known(catalog_dir: Path) -> set[str]:
    from stepvideo.data.clips import load_table

    return set(load_table(catalog_dir)["clip_id"].to_pylist())


def _version(paths: list[Path], catalog_dir: Path) -> dict[str, Any]:
    return {"suite": SUITE_VERSION, "files": [storage.sha256_file(p) for p in [catalog_dir / CATALOG, *paths]]}
