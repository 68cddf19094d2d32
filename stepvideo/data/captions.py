"""The captions of a catalog's clips as the stage `captions` writes them, and how they join the catalog's own.

`captions.parquet` has one row a caption, with where it is from and what it cost; `clips.parquet` one row a clip that
the stage saw. A clip's rows are all that later stages need: the catalog's own captions that were kept are among them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepvideo.data.clips import Captions, Clip
from stepvideo.errors import ArtifactError

if TYPE_CHECKING:
    import pyarrow as pa

CAPTIONS, CLIPS = "captions.parquet", "clips.parquet"


def caption_schema() -> pa.Schema:
    """Columns of captions.parquet.

    `tokens_in`, `tokens_out` and `cost` are the caption's part of the request that it came from, so that columns add
    up; `prompt_version` is that of the prompt, or of the rules. `flags` name what the checks doubt; `clip_score` is
    null without a CLIP that knows the language.
    """
    import pyarrow as pa

    texts = ("clip_id", "kind", "language", "text", "source", "model", "prompt_version")
    counts = [("tokens_in", pa.int64()), ("tokens_out", pa.int64()), ("cost", pa.float64())]
    judged = [("flags", pa.list_(pa.string())), ("clip_score", pa.float64())]
    return pa.schema([*((t, pa.string()) for t in texts), *counts, *judged])


def load_captions(directory: Path) -> dict[str, Captions]:
    """clip id → its captions, from an artifact of the stage `captions`; empty for clips that it found none for.

    Raises:
        ArtifactError: a table is missing or damaged.
    """
    found: dict[str, Captions] = {r["clip_id"]: {} for r in _read(directory, CLIPS, ["clip_id"])}
    for r in _read(directory, CAPTIONS, ["clip_id", "kind", "language", "text"]):
        found[r["clip_id"]].setdefault(r["kind"], {}).setdefault(r["language"], []).append(r["text"])
    return found


def load_sources(directory: Path) -> dict[str, set[str]]:
    """clip id → where its captions are from, as `load_captions`."""
    found: dict[str, set[str]] = {r["clip_id"]: set() for r in _read(directory, CLIPS, ["clip_id"])}
    for r in _read(directory, CAPTIONS, ["clip_id", "source"]):
        found[r["clip_id"]].add(r["source"])
    return found


def captioned(clips: Iterable[Clip], directory: Path | None) -> list[Clip]:
    """The clips with the captions to train with: those of the stage `captions`; the catalog's own where it did not run.

    Args:
        directory: an artifact of the stage `captions`. Clips that it did not see keep their own.

    Raises: see `load_captions`.
    """
    made = load_captions(directory) if directory else {}
    return [replace(clip, captions=made.get(clip.clip_id, clip.captions)) for clip in clips]


def _read(directory: Path, name: str, columns: list[str]) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(directory) / name
    try:
        return pq.read_table(path, columns=columns).to_pylist()
    except (OSError, pa.ArrowInvalid, KeyError) as e:
        raise ArtifactError(f"{path} is no table of captions (the stage `captions` makes one): {e}") from e
