"""Videos of the same prompt from the same noise, side by side: which there are, and their copies beside a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.comparison.subjects import Aligned, Gap, Subject
from stepvideo import storage
from stepvideo.artifact import Artifact
from stepvideo.errors import ArtifactError
from stepvideo.evaluation.results import Row, read_rows


@dataclass(frozen=True)
class Film:
    """One prompt: the video of every subject, None where none was kept.

    `right` is what the oracle said of each: attribute → right, wrong, or None (untestable).
    """

    evaluation: str
    run: str
    text: str
    lang: str
    split: str
    seed: int
    index: int
    fps: float
    frames: int
    width: int
    height: int
    videos: list[Path | None]
    right: list[Mapping[str, bool | None]]


def films(rows: Aligned, compared: Sequence[Subject]) -> tuple[list[Film], list[Gap]]:
    """Every prompt with a video of the first subject, by evaluation; and what cannot be shown."""
    found: list[Film] = []
    missing: list[Gap] = []
    for name, row in rows.items():
        if sum(map(bool, row)) > 1 and len({a.digest for a in row if a}) == 1:
            missing.append(Gap("videos", name, "the same in all that have them, not shown"))
            continue
        kept, shapes = [], []
        for artifact, subject in zip(row, compared):
            try:
                both = (_kept(artifact), _shapes(artifact)) if artifact else ({}, {})
            except ArtifactError as e:
                both = {}, {}
                missing.append(Gap("videos", name, f"{subject.name}: {e}"))
            else:
                if not both[0]:
                    missing.append(Gap("videos", name, f"{subject.name} {'kept none' if artifact else 'has none'}"))
            kept.append(both[0])
            shapes.append(both[1])
        if sum(bool(k) for k in kept) < 2:
            continue
        paired = 0
        for key in dict.fromkeys(k for each in kept for k in each):
            run, index, text, seed = key
            first = next(i for i, k in enumerate(kept) if key in k)
            shape = shapes[first][run]
            fits = [key in k and shapes[i][run] == shape for i, k in enumerate(kept)]
            if sum(fits) < 2:
                continue
            sample, (fps, frames, width, height) = kept[first][key][1], shape
            videos = [k[key][0] if ok else None for k, ok in zip(kept, fits)]
            right: list[Mapping[str, bool | None]] = [k[key][1].right if ok else {} for k, ok in zip(kept, fits)]
            about = (name, run, text, sample.lang, sample.split, seed, index, fps, frames, width, height)
            found.append(Film(*about, videos, right))
            paired += 1
        if len({tuple(s.items()) for s in shapes if s}) > 1:
            missing.append(Gap("videos", name, "another size, length or rate; only those that are alike are paired"))
        if not paired:
            missing.append(Gap("videos", name, "no two kept one of the same prompt and seed"))
    return found, missing


def copies(found: Sequence[Film], page: Path) -> list[dict[str, Any]]:
    """Link or copy every video to a folder beside `page`, named by its content; films as JSON, with relative links.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    folder = page.with_name(f"{page.stem}_files")
    rows = []
    for film in found:
        links: list[str | None] = []
        for path in film.videos:
            if path is None:
                links.append(None)
                continue
            target = folder / f"{storage.sha256_file(path)[:20]}{path.suffix}"
            if not target.exists():
                storage.link_or_copy(path, target)
            links.append(f"{folder.name}/{target.name}")
        about = {k: getattr(film, k) for k in ("evaluation", "run", "text", "lang", "split", "seed", "fps", "frames")}
        rows.append(
            about | {"aspect": film.width / film.height, "videos": links, "right": [dict(r) for r in film.right]}
        )
    return rows


def _kept(artifact: Artifact) -> dict[tuple[str, int, str, int], tuple[Path, Row]]:
    """(run, index, prompt, seed) → file and row, of samples that were kept and are still there."""
    return {
        (row.run, row.index, row.text, row.seed): (artifact.out / row.sample, row)
        for rows in read_rows(artifact.out / "results.jsonl").values()
        for row in rows
        if row.sample and (artifact.out / row.sample).exists()
    }


def _shapes(artifact: Artifact) -> dict[str, tuple[float, int, int, int]]:
    """Run → (fps, frames, width, height)."""
    summary = storage.read_json(artifact.out / "summary.json")
    sampled = {run: about["sampling"] for run, about in summary["runs"].items()}
    return {run: (summary["fps"], s["frames"], s["width"], s["height"]) for run, s in sampled.items()}
