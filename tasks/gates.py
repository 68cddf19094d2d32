"""The data gate: Great Expectations over a curated catalog and its side tables, with Data Docs for people.

Critical expectations stop the pipeline, warnings are reported and let it pass. (GX's own `success` makes no difference
between the two, so severities are read from the single results.)
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.data.clips import CATALOG
from stepvideo.errors import StepVideoError
from tasks.drift import expect_means

SUITE_VERSION = 3  # raise it with any change of an expectation: earlier verdicts then no longer count
RESULT = "gate.json"
SAMPLES = 5  # failing ids named in a message


class GateFailed(StepVideoError):
    """A critical expectation does not hold; the message names it and some of the clips. `report` has all of them."""

    def __init__(self, message: str, report: GateReport) -> None:
        super().__init__(message)
        self.report = report


@dataclass
class Finding:
    """An expectation that does not hold."""

    suite: str  # catalog, clips, files, or the name of a side table
    expectation: str
    severity: str  # "critical" or "warning"
    detail: str
    samples: list[str] = field(default_factory=list)  # clip ids (file names in the suite "files")

    def __str__(self) -> str:
        examples = f"; for example {', '.join(self.samples)}" if self.samples else ""
        return f"[{self.suite}] {self.expectation}: {self.detail}{examples}"


@dataclass
class GateReport:
    """What the gate found. `docs_index_path` is the start page of the Data Docs."""

    success: bool
    warnings: list[Finding]
    failed: list[Finding]
    docs_index_path: Path
    checked: int  # expectations evaluated
    cached: bool = False


def check_catalog(
    catalog_dir: Path, docs_dir: Path, min_frames: int = 1, min_captioned: float = 0.5, last: Path | None = None
) -> GateReport:
    """Validate a catalog and write readable Data Docs to `docs_dir`.

    An equal catalog checked before with the same expectations is not checked again: its verdict is kept in `docs_dir`.

    Args:
        min_frames: every video clip must be at least so long (critical).
        min_captioned: share of rows whose captions come from a sidecar; below it there is a warning.
        last: an earlier version of the catalog, to compare the means of its tags with.

    Raises:
        GateFailed: a critical expectation does not hold.
        StepVideoError: there is no catalog, or `docs_dir` cannot be written.
    """
    catalog_dir, docs_dir = Path(catalog_dir), Path(docs_dir)
    version = {
        "suite": SUITE_VERSION,
        "min_frames": min_frames,
        "min_captioned": min_captioned,
        "catalog": storage.sha256_file(catalog_dir / CATALOG) if (catalog_dir / CATALOG).exists() else None,
        "last": storage.sha256_file(last / CATALOG) if last else None,
    }
    suites = {"catalog": _catalog_suite, "clips": _clips_suite, "files": _files_suite}
    arguments = {"catalog": (min_captioned,), "clips": (min_frames,), "files": ()}

    def load() -> tuple[dict[str, Any], dict[str, list[Any]]]:
        from stepvideo.data.clips import load_table

        frames = _frames(load_table(catalog_dir), catalog_dir)
        found = {name: suite(*arguments[name]) for name, suite in suites.items()}
        older = _frames(load_table(last), last)["clips"] if last else None
        tags = [c for c in frames["clips"].columns if c.startswith("tag_")]
        return frames, found | {"clips": [*found["clips"], *expect_means(frames["clips"], older, tags)]}

    return gate(version, load, docs_dir, f"the catalog in {catalog_dir}")


def gate(
    version: dict[str, Any],
    load: Callable[[], tuple[dict[str, Any], dict[str, list[Any]]]],
    docs_dir: Path,
    what: str,
) -> GateReport:
    """Validate data frames, each with its suite of expectations, unless the verdict on this `version` is kept.

    Args:
        load: {suite: data frame}, {suite: expectations}; each frame has a `clip_id` (the suite "files" a `file`).
        what: is judged, for messages.

    Raises:
        GateFailed, StepVideoError: see `check_catalog`.
    """
    report = _cached(docs_dir, version)
    if report is None:
        os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
        report = _validate(*load(), docs_dir)
        saved = asdict(report) | {"docs_index_path": report.docs_index_path.relative_to(docs_dir).as_posix()}
        storage.write_json(docs_dir / RESULT, {"version": version, "report": saved})
    if report.failed:
        findings = "\n  ".join(map(str, report.failed))
        raise GateFailed(
            f"{what} fails {len(report.failed)} critical expectation(s):\n  {findings}\nsee {report.docs_index_path}",
            report,
        )
    return report


def _cached(docs_dir: Path, version: dict[str, Any]) -> GateReport | None:
    try:
        saved = json.loads((docs_dir / RESULT).read_text(encoding="utf-8"))
        if saved["version"] != version:
            return None
        fields = saved["report"]
        index = docs_dir / fields["docs_index_path"]
        findings = {k: [Finding(**f) for f in fields[k]] for k in ("warnings", "failed")}
        fields = fields | findings | {"docs_index_path": index, "cached": True}
        return GateReport(**fields) if index.exists() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent, or from another version of this file


def _validate(frames: dict[str, Any], suites: dict[str, list[Any]], docs_dir: Path) -> GateReport:
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="stepvideo-gate-") as project:
        context = gx.get_context(mode="file", project_root_dir=project)
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        source = context.data_sources.add_pandas("curated")
        findings: list[Finding] = []
        checked = 0
        for name in (n for n in suites if len(frames[n])):
            suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=suites[name]))
            batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
            definition = gx.ValidationDefinition(name=name, data=batch, suite=suite)
            checkpoint = gx.Checkpoint(
                name=name,
                validation_definitions=[context.validation_definitions.add(definition)],
                result_format={
                    "result_format": "COMPLETE",
                    "unexpected_index_column_names": ["file" if name == "files" else "clip_id"],
                },
            )
            outcome = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": frames[name]})
            for result in (r for v in outcome.run_results.values() for r in v.results):
                checked += 1
                findings += _finding(name, result)
        context.build_data_docs()
        site = Path(project) / "gx" / "uncommitted" / "data_docs" / "local_site"
        try:
            for part in site.iterdir():  # pages of an earlier catalog go; anything else in the folder is not ours
                storage.remove(docs_dir / part.name)
            shutil.copytree(site, docs_dir, dirs_exist_ok=True)
        except OSError as e:
            raise StepVideoError(f"cannot write the Data Docs to {docs_dir}: {e.strerror or e}") from e
    warnings = [f for f in findings if f.severity != "critical"]
    failed = [f for f in findings if f.severity == "critical"]
    return GateReport(not failed, warnings, failed, docs_dir / "index.html", checked)


def _frames(table: Any, catalog_dir: Path) -> dict[str, Any]:
    """The data frames of the three suites; references between tables become columns that can be expected to be true."""
    import pyarrow.parquet as pq

    catalog = table.to_pandas()
    if {"file", "parent", "clip_id"} <= set(catalog.columns):
        present = {name: (catalog_dir / name).is_file() for name in set(catalog["file"].dropna())}
        known = set(catalog["clip_id"])
        catalog["media_present"] = [present.get(name, False) for name in catalog["file"]]
        catalog["parent_known"] = [not isinstance(p, str) or p in known for p in catalog["parent"]]
    files_path = catalog_dir / "files.parquet"
    files = pq.read_table(files_path).to_pandas() if files_path.exists() else catalog.iloc[:0]
    catalog["source_known"] = True
    if len(files):
        accepted = {(r, f) for r, f, s in zip(files["role"], files["file"], files["status"]) if s == "accepted"}
        catalog["source_known"] = [p in accepted for p in zip(catalog["source_role"], catalog["source_file"])]
        files["quarantine_explained"] = [
            status != "quarantined" or bool(reason) for status, reason in zip(files["status"], files["reason"])
        ]
    clips = catalog[catalog["kind"] == "clip"] if "kind" in catalog else catalog.iloc[:0]
    return {"catalog": catalog, "clips": clips, "files": files}


def _catalog_suite(min_captioned: float) -> list[Any]:
    import great_expectations.expectations as gxe
    from great_expectations.expectations.metadata_types import FailureSeverity

    needed = ("clip_id", "kind", "file", "first_frame", "frames", "height", "width", "captions", "caption_source")
    texts = ("clip_id", "kind", "file", "captions", "caption_source", "source_sha256")
    whole = ("first_frame", "frames", "height", "width", "source_start", "source_end")
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        *(gxe.ExpectColumnValuesToNotBeNull(column=c) for c in (*needed, "source_sha256")),
        *(gxe.ExpectColumnValuesToBeOfType(column=c, type_="str") for c in texts),
        *(gxe.ExpectColumnValuesToBeOfType(column=c, type_="int32") for c in whole),
        gxe.ExpectColumnValuesToBeUnique(column="clip_id"),
        gxe.ExpectColumnValuesToMatchRegex(column="clip_id", regex=r"^[0-9a-f]{32}$"),
        gxe.ExpectColumnValuesToBeInSet(column="kind", value_set=["clip", "frame", "image"]),
        gxe.ExpectColumnValuesToBeInSet(column="media_present", value_set=[True]),
        gxe.ExpectColumnValuesToBeInSet(column="parent_known", value_set=[True]),
        gxe.ExpectColumnValuesToBeInSet(column="source_known", value_set=[True]),
        gxe.ExpectColumnValuesToBeBetween(column="first_frame", min_value=0),
        gxe.ExpectColumnValuesToBeBetween(column="frames", min_value=1),
        *(gxe.ExpectColumnValuesToBeBetween(column=c, min_value=8, max_value=16384) for c in ("height", "width")),
        gxe.ExpectColumnValuesToBeJsonParseable(column="captions"),
        gxe.ExpectColumnValuesToBeInSet(column="caption_source", value_set=["sidecar", "filename", "none"]),
        *(
            gxe.ExpectColumnValuesToBeBetween(column=f"tag_saturation_{s}", min_value=0, max_value=255)
            for s in ("mean", "max", "min")
        ),
        *(gxe.ExpectColumnValuesToNotBeNull(column=f"tag_{t}") for t in ("saturation_mean", "blur", "blur_fixed")),
        *(gxe.ExpectColumnValuesToBeBetween(column=f"tag_{t}", min_value=0) for t in ("blur", "blur_fixed")),
        gxe.ExpectColumnValuesToBeInSet(
            column="caption_source", value_set=["sidecar"], mostly=min_captioned, severity=FailureSeverity.WARNING
        ),
    ]


def _clips_suite(min_frames: int) -> list[Any]:
    import great_expectations.expectations as gxe
    from great_expectations.expectations.metadata_types import FailureSeverity

    motions = ("motion_mean", "motion_max", "motion_min")
    return [
        gxe.ExpectColumnValuesToBeBetween(column="frames", min_value=min_frames),
        gxe.ExpectColumnValuesToBeBetween(column="fps", min_value=0.1, max_value=1000),
        *(gxe.ExpectColumnValuesToBeBetween(column=f"tag_{m}", min_value=0) for m in motions),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(
            column_A="tag_motion_max",
            column_B="tag_motion_mean",
            or_equal=True,
            ignore_row_if="either_value_is_missing",
        ),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="source_end", column_B="source_start"),
        # Shares, not rules: a still scene is a legal clip, a catalog of still scenes is a mistake.
        gxe.ExpectColumnValuesToBeBetween(
            column="tag_motion_mean", min_value=0.01, mostly=0.8, severity=FailureSeverity.WARNING
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="tag_blur", min_value=1.0, mostly=0.9, severity=FailureSeverity.WARNING
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="caption_overlap", min_value=0.9, mostly=0.9, severity=FailureSeverity.WARNING
        ),
    ]


def _files_suite() -> list[Any]:
    import great_expectations.expectations as gxe
    from great_expectations.expectations.metadata_types import FailureSeverity

    return [
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["role", "file"]),
        gxe.ExpectColumnValuesToBeInSet(column="status", value_set=["accepted", "quarantined"]),
        gxe.ExpectColumnValuesToBeInSet(column="quarantine_explained", value_set=[True]),
        gxe.ExpectColumnValuesToBeInSet(
            column="status", value_set=["accepted"], mostly=0.5, severity=FailureSeverity.WARNING
        ),
    ]


def _finding(suite: str, result: Any) -> Iterator[Finding]:
    """Nothing if the expectation holds. An exception inside GX counts as a critical failure, never as a pass."""
    raised = [info for info in _exceptions(result.exception_info or {}) if info.get("raised_exception")]
    if result.success and not raised:
        return
    config = result.expectation_config
    settings = {k: v for k, v in config.kwargs.items() if k not in ("batch_id", "column", "severity")}
    where = config.kwargs.get("column", "")
    name = f"{where + ' ' if where else ''}{config.type.removeprefix('expect_')}({_plain(settings)})"
    if raised:
        yield Finding(suite, name, "critical", f"could not be checked: {raised[0].get('exception_message', '?')}")
        return
    found = result.result or {}
    rows, bad = found.get("element_count"), found.get("unexpected_count")
    seen = found.get("observed_value")
    observed = f"observed {seen:.4g}" if isinstance(seen, float) else f"observed {seen}"
    detail = f"{bad} of {rows} rows" if bad is not None else observed
    if isinstance(config.notes, str):  # what it means, and what to do
        detail += f"; {config.notes}"
    entries = found.get("unexpected_index_list") or []
    key = "file" if suite == "files" else "clip_id"
    samples = [str(e[key]) for e in entries[:SAMPLES] if key in e]
    severity = str(getattr(config.severity, "value", config.severity) or "critical")
    yield Finding(suite, name, severity, detail, samples)


def _exceptions(info: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """GX gives one flat record, or one a metric."""
    if "raised_exception" in info:
        yield info
    else:
        yield from (v for v in info.values() if isinstance(v, dict))


def _plain(settings: dict[str, Any]) -> str:
    return ", ".join(
        f"{k.removesuffix('_')}={format(v, '.4g') if isinstance(v, float) else v}" for k, v in settings.items()
    )
