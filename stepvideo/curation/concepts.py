"""Stage `concepts`: clusters of what clips show, and how to balance them (§7.1 Video Concept Balancing, §7.2).

    concepts.parquet    clip_id; cluster, cluster_cnt and center_sim; duplicate_of; weight: a row for every embedding
    clusters.json       counts, and for each cluster its clips, what is kept of them, and the clip nearest to its centre
    centres.npy         float32 [K, D], to which new clips can be assigned

The report's Center_Sim is called a cosine distance there; here `center_sim` is the cosine itself, 1 in the centre, and
the distance is 1 - center_sim. A weight of 0 leaves a clip out (outlier or near-duplicate), one above 1 is how often a
clip of a rare concept should be drawn against one of a usual concept. Clips without an embedding have a weight of 1 and
no cluster. Equal bytes for equal input; finished cells are kept in `ctx.work`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stepvideo import storage
from stepvideo.curation.concepts_cells import Clusters, cluster
from stepvideo.curation.concepts_config import ConceptsConfig
from stepvideo.errors import ArtifactError, Preempted, StepVideoError
from stepvideo.stage import StageContext

if TYPE_CHECKING:
    import pyarrow as pa

TABLE, ROWS = "tables/embedding.parquet", 4096


def run(ctx: StageContext) -> dict[str, float]:
    """Cluster the embeddings of the input that holds `tables/embedding.parquet`.

    Returns:
        clips, without_embedding, clusters, largest, outliers, duplicates, kept, center_sim (mean).

    Raises:
        StepVideoError: no clip has an embedding; says why, if the table does.
        ArtifactError: the table is missing or damaged.
    """
    config: ConceptsConfig = ctx.config
    ids, rows, x_ND = read_embeddings(_table(ctx.inputs), ctx.work / "embeddings.f16")

    def done(cells: int, total: int) -> None:
        ctx.sink.progress(cells, total, "cells")
        if ctx.should_stop() and cells < total:
            raise Preempted

    k = min(config.clusters, max(1, len(rows) // config.min_clips))
    found = cluster(x_ND, k, config, ctx.work / "cells", done)
    outlier = outliers(found.labels, 1 - found.sims, config)
    weight = weights(found.labels, ~outlier & (found.duplicate_of < 0), config)
    _write(ctx.out / "concepts.parquet", ids, rows, found, weight)
    np.save(ctx.out / "centres.npy", found.centres)
    storage.write_json(ctx.out / "clusters.json", _summary(found, outlier, weight, [ids[r] for r in rows]))
    return {
        "clips": float(len(ids)),
        "without_embedding": float(len(ids) - len(rows)),
        "clusters": float(len(found.centres)),
        "largest": float(np.bincount(found.labels).max()),
        "outliers": float(outlier.sum()),
        "duplicates": float((found.duplicate_of >= 0).sum()),
        "kept": float((weight > 0).sum()),
        "center_sim": float(found.sims.mean(dtype=np.float64)),
    }


def outliers(labels: np.ndarray, distances: np.ndarray, config: ConceptsConfig) -> np.ndarray:
    """Which clips are too far from their centre, bool [N]: beyond `max_distance`, or, in clusters of `min_clips` or
    more, beyond `outlier_mads` median absolute deviations above the median."""
    far = distances > config.max_distance
    if not config.outlier_mads:
        return far
    order = np.argsort(labels, kind="stable")
    for own in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        if len(own) >= config.min_clips:
            median = np.median(distances[own])
            spread = np.median(np.abs(distances[own] - median))
            far[own] |= distances[own] > median + config.outlier_mads * spread
    return far


def weights(labels: np.ndarray, kept: np.ndarray, config: ConceptsConfig) -> np.ndarray:
    """How often to draw each clip, float64 [N]: 0 if it is not kept, else (usual / own)^`rare_power` from 1 to
    `max_weight`, where `own` is the number of clips kept of its cluster and `usual` that of the median clip."""
    counts = np.bincount(labels[kept], minlength=int(labels.max()) + 1)[labels]
    if not kept.any():
        return np.zeros(len(labels))
    rarity = np.median(counts[kept]) / np.maximum(counts, 1)
    return np.where(kept, np.clip(rarity**config.rare_power, 1, config.max_weight), 0.0)


def read_embeddings(path: Path, store: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """All clips' ids, the rows that have an embedding, and these, of length 1, float16 [N, D] in the file `store`.

    Raises: see `run`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids: list[str] = []
    rows: list[np.ndarray] = []
    width = 0
    store.parent.mkdir(parents=True, exist_ok=True)
    try:
        table = pq.ParquetFile(path)
        with open(store, "wb") as f:
            for batch in table.iter_batches(ROWS, columns=["clip_id", "embedding"]):
                held = np.flatnonzero(batch["embedding"].is_valid())
                x = _unit(batch["embedding"].drop_null(), width, path)
                rows.append(held + len(ids))
                ids += batch["clip_id"].to_pylist()
                if len(x):
                    width = x.shape[1]
                    f.write(x.astype(np.float16).tobytes())
    except (OSError, pa.ArrowInvalid, KeyError) as e:
        raise ArtifactError(f"{path} holds no embeddings of clips: {e}") from e
    if not width:
        why = (table.schema_arrow.metadata or {}).get(b"absent", b"").decode()
        raise StepVideoError(
            f"{path}: no clip has an embedding{f' ({why})' if why else ''}; give the stage tags an embedding backend "
            "and its weights"
        )
    at = np.concatenate(rows)
    return ids, at, np.memmap(store, np.float16, "r", shape=(len(at), width))


def _unit(column: pa.Array, width: int, path: Path) -> np.ndarray:
    """float32 [n, D] of length 1; `width` is that of the rows before, 0 if there were none."""
    if not len(column):
        return np.empty((0, width), np.float32)
    flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    width = width or len(column[0])
    lengths = np.diff(column.offsets.to_numpy())
    x = flat.reshape(len(column), -1) if (lengths == width).all() else np.empty(0)
    norms = np.linalg.norm(x, axis=-1, keepdims=True)
    if not x.size or not (np.isfinite(norms) & (norms > 0)).all():
        raise ArtifactError(
            f"{path}: an embedding is not of {width} finite numbers, or all zeros; make the table again"
        )
    return x / norms


def _table(inputs: Mapping[str, Path]) -> Path:
    found = [path for folder in inputs.values() if (path := Path(folder) / TABLE).is_file()]
    if len(found) != 1:
        raise ArtifactError(f"{len(found)} of the inputs {', '.join(inputs)} hold {TABLE}; give one, by the stage tags")
    return found[0]


def _write(path: Path, ids: list[str], rows: np.ndarray, found: Clusters, weight: np.ndarray) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    counts = np.bincount(found.labels)[found.labels]
    repeats = [ids[rows[i]] if i >= 0 else None for i in found.duplicate_of]
    columns = {
        "cluster": pa.array(found.labels, pa.int32()),
        "cluster_cnt": pa.array(counts, pa.int64()),
        "center_sim": pa.array(found.sims, pa.float64()),
        "duplicate_of": pa.array(repeats, pa.string()),
        "weight": pa.array(weight, pa.float64()),
    }
    at = np.full(len(ids), -1)
    at[rows] = np.arange(len(rows))
    take = pa.array(at, mask=at < 0)  # null for a clip without an embedding
    table = pa.table({"clip_id": pa.array(ids, pa.string())} | {n: c.take(take) for n, c in columns.items()})
    everyone = table["weight"].fill_null(1.0)
    pq.write_table(table.set_column(table.num_columns - 1, "weight", everyone), path, compression="zstd")


def _summary(found: Clusters, outlier: np.ndarray, weight: np.ndarray, ids: list[str]) -> dict[str, Any]:
    k = len(found.centres)

    def count(mask: np.ndarray) -> list[int]:
        return np.bincount(found.labels[mask], minlength=k).tolist()

    order = np.lexsort((-found.sims, found.labels))
    nearest = order[np.searchsorted(found.labels[order], np.arange(k))]
    top = np.zeros(k)
    np.maximum.at(top, found.labels, weight)
    columns = {
        "clips": np.bincount(found.labels, minlength=k).tolist(),
        "outliers": count(outlier),
        "duplicates": count(found.duplicate_of >= 0),
        "kept": count(weight > 0),
        "weight": top.tolist(),
        "nearest": [ids[i] for i in nearest],
    }
    return {"clusters": k, "clips": len(ids), "each": [dict(zip(columns, row)) for row in zip(*columns.values())]}
