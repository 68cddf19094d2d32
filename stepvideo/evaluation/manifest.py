"""The manifest of a folder of videos: which prompt each shows and how it was made. Nothing is scored without one.

    DIR/plan.json        every video that the folder is to hold, with its settings; written once, equal for all parts
    DIR/.rows/NAME.json  a video's row, written by whoever made it, right after the file
    DIR/manifest.jsonl   all rows in the order of the plan; written when the last one is there

No step merges parts: any part may find that all rows are there, and what it then writes depends on the rows alone.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.config import canonical
from stepvideo.errors import ArtifactError, StepVideoError

MANIFEST, PLAN, ROWS = "manifest.jsonl", "plan.json", ".rows"
MEDIA = (".mp4", ".webm", ".mov", ".mkv", ".avi", ".gif", ".png")
GENERATED, GIVEN = "generated", "given"
NAMED = 8  # ids in a message


@dataclass(frozen=True)
class Video:
    """A row of a manifest. What is not known of given videos is None.

    Attributes:
        suite: sha256 of the suite.
        cluster: id of the first prompt with the same text; what intervals resample.
        sample: number of the video among those of its prompt, from 0; pairs the videos of two models.
        file: relative to the folder.
        text: the prompt as given to the model, without its suffix.
        nfe: network evaluations.
        checkpoint: digest of the weights. `model` is what they are called.
        commit: of the code; ends in "+" and a hash where it was changed.
        options: memory options that change a video slightly.
        ranks: how many shared the work, and in which ways (`ParallelConfig`): other numbers round differently.
        source: "generated" here, or "given".
    """

    suite: str
    id: str
    cluster: str
    lang: str
    sample: int
    file: str
    text: str
    category: str = ""
    dimensions: tuple[str, ...] = ()
    aux: Mapping[str, Any] = field(default_factory=dict)
    source: str = GIVEN
    sha256: str = ""
    seed: int | None = None
    steps: int | None = None
    nfe: int | None = None
    guidance: float | None = None
    guidance_schedule: str | None = None
    time_shift: float | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    fps: float | None = None
    negative: str | None = None
    suffix: str | None = None
    image: str | None = None
    motion_score: float | None = None
    precision: str | None = None
    options: Mapping[str, Any] | None = None
    ranks: Mapping[str, int] | None = None
    checkpoint: str | None = None
    model: str | None = None
    commit: str | None = None
    codec: str | None = None
    crf: int | None = None
    pix_fmt: str | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        """What the videos of two models are paired by."""
        return self.id, self.lang, self.sample

    @property
    def name(self) -> str:
        """For people: "001 zh 0"."""
        return " ".join(map(str, self.key))


@dataclass(frozen=True)
class Manifest:
    """Verified rows in the plan's order.

    Attributes:
        suite: the head line of its file.
        missing: names of videos that the plan has and the folder has not; empty unless the caller allowed it.
    """

    folder: Path
    suite: Mapping[str, Any]
    videos: tuple[Video, ...]
    missing: list[str]


def begin(folder: Path, suite: Mapping[str, Any], videos: Sequence[Video]) -> None:
    """Write the plan, or check that the one that is there is the same; safe against parts that begin at once.

    Raises:
        StepVideoError: the folder was begun with other settings, and which.
        ArtifactError: it cannot be written.
    """
    plan = {"suite": dict(suite), "videos": [_given_of(v) for v in videos]}
    text = canonical(plan) + "\n"
    tmp = folder / f".{PLAN}.tmp-{uuid.uuid4().hex[:8]}"
    try:
        storage.write_atomic(tmp, text)
        os.link(tmp, folder / PLAN)  # unlike a rename, this fails if another part was first
    except FileExistsError:
        _check_same(folder, storage.read_json(folder / PLAN), json.loads(text))
    except OSError as e:
        raise ArtifactError(f"cannot write {folder / PLAN}: {e.strerror or e}") from e
    finally:
        tmp.unlink(missing_ok=True)


def _check_same(folder: Path, there: Any, wanted: Any) -> None:
    if there == wanted:
        return
    if there.get("suite") != wanted["suite"]:
        raise StepVideoError(f"{folder} holds videos of another suite, or of another state of it; choose another --out")
    a, b = there.get("videos", []), wanted["videos"]
    if [v["file"] for v in a] != [v["file"] for v in b]:
        raise StepVideoError(f"{folder} was begun with {len(a)} videos of other seeds or languages, not {len(b)}; "
                             "give the same ones, or choose another --out")  # fmt: skip
    keys = sorted({k for x, y in zip(a, b) for k in {**x, **y} if x.get(k) != y.get(k)})
    if keys == ["ranks"] and not any("ranks" in x for x in a):
        return  # a plan of before they were recorded
    raise StepVideoError(f"{folder} was begun with other settings ({', '.join(keys)}); choose another --out")


def record(folder: Path, video: Video) -> None:
    """A video is there: keep its row. An equal row is left as it is, so the commit is that of its making.

    Raises:
        ArtifactError: a row of the same file says that its content was another.
    """
    path = _row_path(folder, video.file)
    if path.exists():
        old = _video(storage.read_json(path), str(path))
        if old.sha256 != video.sha256:
            raise ArtifactError(
                f"{folder / video.file} was changed after it was made: its sha256 is {video.sha256[:16]}, its row says "
                f"{old.sha256[:16]}; remove it to have it made again"
            )
        return
    storage.write_json(path, _given_of(video))


def assemble(folder: Path) -> bool:
    """Write the manifest if every row is there; returns whether."""
    _, planned = _plan(folder)
    rows = [_row_path(folder, v.file) for v in planned]
    if not all(p.exists() for p in rows):
        return False
    write(folder, [_video(storage.read_json(p), str(p)) for p in rows])
    return True


def write(folder: Path, videos: Iterable[Video]) -> None:
    """The manifest, whole or not at all."""
    storage.write_atomic(folder / MANIFEST, "".join(canonical(_given_of(v)) + "\n" for v in videos))


def load(folder: Path, partial: bool = False) -> Manifest:
    """The manifest of a folder whose every file was hashed and compared.

    Args:
        partial: take what is there where videos are missing.

    Raises:
        ArtifactError: no manifest; videos that are missing, in no row, or changed since they were made: all named.
    """
    suite, rows, planned = _rows(folder)
    found = _compare(folder, rows, planned)
    if found["changed"]:
        raise ArtifactError(f"{folder}: changed since they were made: {_names(found['changed'])}; make them again")
    if found["orphans"]:
        raise ArtifactError(
            f"{folder}: in no row of the manifest: {_names(found['orphans'])}; move them away, or adopt the folder"
        )
    missing = found["missing"]
    if missing and not partial:
        raise ArtifactError(
            f"{folder}: {len(missing)} of {len(planned)} videos are missing: {_names(missing)}; generate them (the "
            "same command goes on), or take what is there with --partial, which every result will say"
        )
    there = tuple(v for v in rows if v.name not in set(missing))
    if not there:
        raise ArtifactError(f"{folder} holds no video of its manifest")
    return Manifest(folder, suite, there, missing)


def status(folder: Path) -> dict[str, Any]:
    """What is there and what is not, without an error."""
    suite, rows, planned = _rows(folder)
    found = _compare(folder, rows, planned)
    videos = len(planned) - len(found["missing"])
    complete = not any(found.values())
    return {"suite": suite.get("suite", ""), "expected": len(planned), "videos": videos, "complete": complete, **found}


def _rows(folder: Path) -> tuple[dict[str, Any], list[Video], list[Video]]:
    """Head of the suite, rows that are there, and all that should be."""
    suite, planned = _plan(folder)
    rows: dict[str, Video] = {}
    if (folder / MANIFEST).exists():
        found = storage.read_json_lines(folder / MANIFEST)
        listed = [_video(row, f"{folder / MANIFEST} row {n}") for n, row in enumerate(found, 1)]
        rows = {v.name: v for v in listed}
        if len(rows) != len(listed):
            raise ArtifactError(f"{folder / MANIFEST} has two rows of one sample; generate or adopt again")
        planned = planned or listed
    if not planned:
        raise ArtifactError(
            f"{folder} has no {MANIFEST}; make videos with `stepvideo suite generate`, or take yours in with "
            "`stepvideo suite adopt`: without knowing what a video shows nothing is scored"
        )
    if strange := sorted(set(rows) - {v.name for v in planned}):
        raise ArtifactError(f"{folder / MANIFEST} has rows that its {PLAN} has not: {_names(strange)}")
    for v in planned:
        path = _row_path(folder, v.file)
        if v.name not in rows and path.exists():
            rows[v.name] = _video(storage.read_json(path), str(path))
    return suite, [rows[v.name] for v in planned if v.name in rows], planned


def _compare(folder: Path, rows: Sequence[Video], planned: Sequence[Video]) -> dict[str, list[str]]:
    there = set(media(folder, stills=any(v.file.endswith(".png") for v in planned)))
    recorded = {v.name for v in rows}
    missing = [v.name for v in planned if v.name not in recorded or not (folder / v.file).is_file()]
    digests = {v.file: v.sha256 for v in rows if (folder / v.file).is_file()}  # prompts with the same text share one
    changed = [file for file, digest in digests.items() if storage.sha256_file(folder / file) != digest]
    # a planned file without a row is being written, or its part was killed in between: missing, no orphan
    orphans = sorted(there - {v.file for v in planned})
    return {"missing": missing, "orphans": orphans, "changed": changed}


def media(folder: Path, stills: bool) -> list[str]:
    """Videos below a folder, relative, hidden folders and files left out; PNG only where they are videos."""
    kinds = MEDIA if stills else MEDIA[:-1]
    return [
        p.relative_to(folder).as_posix()
        for p in storage.tree(folder)
        if p.suffix.lower() in kinds and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    ]


def _plan(folder: Path) -> tuple[dict[str, Any], list[Video]]:
    if not (folder / PLAN).exists():
        return {}, []
    plan = storage.read_json(folder / PLAN)
    try:
        return plan["suite"], [_video(row, f"{folder / PLAN}") for row in plan["videos"]]
    except (KeyError, TypeError) as e:
        raise ArtifactError(f"{folder / PLAN} is no plan of a suite: {e!r}") from e


def _video(row: Mapping[str, Any], where: str) -> Video:
    known = {f.name for f in fields(Video)}
    if unknown := sorted(set(row) - known):
        raise ArtifactError(f"{where}: unknown keys {', '.join(unknown)}")
    try:
        return Video(**{**row, "dimensions": tuple(row.get("dimensions", ()))})
    except TypeError as e:
        raise ArtifactError(f"{where} is no row of a manifest: {e}") from e


def _given_of(video: Video) -> dict[str, Any]:
    return json.loads(canonical(asdict(video)))  # as it is read back


def _row_path(folder: Path, file: str) -> Path:
    return folder / ROWS / f"{file}.json"


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
