"""Video-text alignment: the CLIP Score of captions (§7.1), from the embeddings that the stage `tags` made.

The score is the mean, over the clip's frames, of the cosine of frame and caption. With f_1 … f_S the unit vectors of
the frames, m their mean divided by its length r, and t the caption's unit vector, it is r m·t: the table `embedding`
holds m and r, so no clip is decoded again. A CLIP that knows one language scores captions of that language only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stepvideo.curation.backends import Absent
from stepvideo.errors import ArtifactError

if TYPE_CHECKING:
    from stepvideo.curation.backends.clip_model import Towers

TABLE = "alignment"
BATCH = 64  # texts at once
LENGTH = "embedding_length"


@dataclass(frozen=True)
class Embeddings:
    """Of clips, by id: mean vectors of length 1, float32 [E] each, and their lengths before."""

    backend: str
    vectors: Mapping[str, np.ndarray]
    lengths: Mapping[str, float]


def read_embeddings(folders: Iterable[Path]) -> Embeddings:
    """The table `embedding` of the artifacts.

    Raises:
        Absent: there is none, or its backend was not there; with the reason.
        ArtifactError: the table cannot be read.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    found = [path for folder in folders if (path := Path(folder) / "tables" / "embedding.parquet").is_file()]
    if not found:
        raise Absent("the stage tags made no table embedding; set its backends.embedding")
    try:
        table = pq.read_table(found[0], columns=["clip_id", "embedding", LENGTH])
    except (OSError, pa.ArrowInvalid, KeyError) as e:
        raise ArtifactError(f"{found[0]} is no table of embeddings: {e}") from e
    said = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    if said.get("absent"):
        raise Absent(said["absent"])
    table = table.filter(pc.is_valid(table["embedding"]))  # type: ignore[attr-defined]
    ids = table["clip_id"].to_pylist()
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table["embedding"].chunks]
    vectors = np.concatenate(parts, dtype=np.float32).reshape(len(ids), -1) if ids else ()
    return Embeddings(said.get("backend", ""), dict(zip(ids, vectors)), dict(zip(ids, table[LENGTH].to_pylist())))


def text_towers(backend: str, weights: str) -> Towers:
    """The CLIP that the embeddings are from. Raises Absent without its weights."""
    from stepvideo.curation.backends.embedding import ClipEmbedding, SmallEmbedding

    return {"clip": ClipEmbedding, "small": SmallEmbedding}[backend](weights).towers


def scores(
    rows: Sequence[Mapping[str, Any]], seen: Embeddings, towers: Towers, done: Callable[[int, int], None]
) -> list[float | None]:
    """The CLIP Score of each row of captions.parquet, -1 to 1; None for a language that the CLIP does not know, and
    for a clip without an embedding.

    Args:
        done: told how many of how many texts are embedded; may raise, to stop.

    Raises:
        ArtifactError: the embeddings are of another CLIP.
    """
    known = [r["language"] in towers.languages and r["clip_id"] in seen.vectors for r in rows]
    texts = list(dict.fromkeys(r["text"] for r, k in zip(rows, known) if k))
    embedded: dict[str, np.ndarray] = {}
    for first in range(0, len(texts), BATCH):
        batch = texts[first : first + BATCH]
        embedded |= zip(batch, towers.texts(batch))
        done(first + len(batch), len(texts))
    return [_score(embedded[r["text"]], r["clip_id"], seen) if k else None for r, k in zip(rows, known)]


def _score(text: np.ndarray, clip_id: str, seen: Embeddings) -> float:
    vector = seen.vectors[clip_id]
    if vector.shape != text.shape:
        raise ArtifactError(
            f"captions: clips have embeddings of {len(vector)} numbers, texts of {len(text)}; give runtime.clip the "
            "weights that the stage tags had for its table embedding"
        )
    return seen.lengths[clip_id] * float(vector @ text)


def table(ids: Sequence[str], rows: Sequence[Mapping[str, Any]], backend: str, absent: str) -> Any:
    """A side table of the catalog: `clip_score`, the mean of the clip's scored captions."""
    import pyarrow as pa

    own: dict[str, list[float]] = {}
    for r in rows:
        if r["clip_score"] is not None:
            own.setdefault(r["clip_id"], []).append(r["clip_score"])
    means = [float(np.mean(own[i])) if i in own else None for i in ids]
    note = "CLIP Score of video and text, mean of the clip's captions (report §7.1)"
    schema = pa.schema(
        [("clip_id", pa.string()), ("clip_score", pa.float64())],
        metadata={"backend": backend, "version": "1", "note": note, "absent": absent},
    )
    return pa.table([pa.array(ids, pa.string()), pa.array(means, pa.float64())], schema=schema)
