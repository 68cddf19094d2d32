"""What a stage of the curation left of its input, as a table and a plot for MLflow and Prefect. Read from its artifact.

`curate`: files, shots and clips. `tags`: which share of the clips each table has a value for. `captions`, `labels`: the
captions of each kind. `subsets`: the funnel of Figure 11.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.artifact import Artifact
from stepvideo.svg import TOP, bar_chart, document

Cell = str | int | float | None
WIDTH = 480  # pixels of a plot


@dataclass(frozen=True)
class Figures:
    """A table and, as a file of SVG, its plot."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    svg: str

    def markdown(self) -> str:
        lines = [self.columns, tuple("---" for _ in self.columns), *self.rows]
        table = "\n".join("| " + " | ".join(_said(cell) for cell in line) + " |" for line in lines)
        return f"# {self.title}\n\n{table}\n"

    def as_dict(self) -> dict[str, Any]:
        """As MLflow shows tables."""
        return {"columns": list(self.columns), "data": [list(row) for row in self.rows]}


def figures(artifact: Artifact) -> Figures | None:
    """Those of an artifact; None of other kinds."""
    made, source = KINDS.get(artifact.manifest["kind"], (None, ""))
    return made(artifact) if made and (artifact.out / source).exists() else None


def _curate(artifact: Artifact) -> Figures:
    found = storage.read_json(artifact.out / "funnel.json")
    rows = [("files", found["files"])]
    rows += [(f"quarantined: {reason}", n) for reason, n in found["quarantined"].items()]
    rows += [("accepted", found["accepted"]), ("shots", found["shots"]), ("shots dropped", found["dropped_shots"])]
    rows += [(f"{kind}s", n) for kind, n in found["kinds"].items()]
    return _bars("From files to clips", "step", "count", rows)


def _tags(artifact: Artifact) -> Figures:
    import pyarrow.parquet as pq

    rows, shares = [], []
    for path in sorted((artifact.out / "tables").glob("*.parquet")):
        said = {k.decode(): v.decode() for k, v in (pq.read_schema(path).metadata or {}).items()}
        share = artifact.metrics.get(path.stem)
        shares.append((path.stem, share or 0.0))
        rows.append((path.stem, share, said.get("backend"), said.get("version"), said.get("absent")))
    plot = _plot("Share of clips with a value", [(name, round(share, 4)) for name, share in shares])
    columns = ("table", "share", "backend", "version", "absent because")
    return Figures("Tags of clips", columns, rows, plot)


def _captions(artifact: Artifact) -> Figures:
    groups: Mapping[str, Any] = storage.read_json(artifact.out / "statistics.json")["groups"]
    rows = [
        (name, g["captions"], g["different"], g["flagged"], g["length"]["mean"], g["vocabulary"], g["clip_score"])
        for name, g in groups.items()
    ]
    columns = ("captions", "number", "different", "flagged", "mean length", "vocabulary", "CLIP Score")
    return Figures("Captions", columns, rows, _plot("Captions", [(row[0], row[1]) for row in rows]))


def _subsets(artifact: Artifact) -> Figures:
    found = storage.read_json(artifact.out / "funnel.json")
    rows: list[tuple[Cell, ...]] = [(what, None, None, None, None, n) for what, n in found["base"].items()]
    for level in found["levels"]:
        for s in level["filters"]:
            if s["removed_alone"]:
                rows.append(("", s["filter"], s["threshold"], s["removed_alone"], s["removed"], s["left"]))
        rows.append((level["subset"], None, None, None, level["into"] - level["left"], level["left"]))
    columns = ("subset", "filter", "threshold", "removes alone", "removes in turn", "left")
    plot = (artifact.out / "funnel.svg").read_text(encoding="utf-8")
    return Figures("What the filters leave (report, Figure 11)", columns, rows, plot)


KINDS: dict[str, tuple[Callable[[Artifact], Figures], str | Path]] = {
    "curate": (_curate, "funnel.json"),
    "tags": (_tags, "tables"),
    "captions": (_captions, "statistics.json"),
    "labels": (_captions, "statistics.json"),
    "subsets": (_subsets, "funnel.json"),
}


def _bars(title: str, name: str, count: str, rows: list[tuple[str, int]]) -> Figures:
    return Figures(title, (name, count), list(rows), _plot(title, rows))


def _plot(title: str, rows: Sequence[tuple[str, float]]) -> str:
    """Bars as a file of SVG; "" of nothing."""
    height = TOP + 20 * len(rows) + 6
    return document([bar_chart(title, rows, WIDTH, WIDTH // 2)], WIDTH, height) if rows else ""


def _said(cell: Cell) -> str:
    if cell is None:
        return ""
    text = f"{cell:.4g}" if isinstance(cell, float) else str(cell)
    return text.replace("|", "\\|").replace("\n", " ")
