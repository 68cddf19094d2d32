"""Stage `subsets`: six nested pre-training subsets with rising thresholds, SFT sets, and images (§7.2, §8, Figure 11).

    s1.parquet … s6.parquet    ids of video clips; every set contains the next
    sft_1.parquet …            ids drawn from the best subset, for fine-tuning
    images.parquet             ids of stills, and of single frames of the clips of s1, for text-to-image
    images_2.parquet           those of them that `image_filters` keep: the second data set of T2I (Table 6)
    funnel.json, funnel.svg    what each filter removed at each level, and what was left

Everything is scored before; filtering happens only here, so thresholds move without measuring again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stepvideo import storage
from stepvideo.curation import side_tables
from stepvideo.curation.config import SubsetsConfig
from stepvideo.curation.funnel import SUBSETS, ladder, svg
from stepvideo.data.captions import load_sources
from stepvideo.data.clips import load_table
from stepvideo.errors import StepVideoError
from stepvideo.stage import StageContext

NUMERIC = ("frames", "height", "width", "fps", "caption_overlap")


def run(ctx: StageContext) -> dict[str, float]:
    """Read the catalog of the input `curate`, what `captions` has for it, the others' side tables; write the subsets.

    Returns:
        s1 … s6, images, sft (all sets together): numbers of ids.

    Raises:
        StepVideoError: no clip is long enough and captioned, or a subset would be empty (names the threshold).
    """
    config: SubsetsConfig = ctx.config
    sides = [path for role, path in sorted(ctx.inputs.items()) if role not in ("curate", "captions")]
    found = funnel(ctx.inputs["curate"], sides, config, ctx.inputs.get("captions"))
    sets = dict(found.sets)
    metrics = {name: float(len(members)) for name, members in sets.items()}
    sets["images"], sets["images_2"], image_level = _images(found, config)
    best = sets[f"s{config.sft_from}"]
    sft = sft_sets(best, config.sft_sets, config.sft_share, config.seed, config.allow_empty)
    sets |= {f"sft_{i + 1}": members for i, members in enumerate(sft)}
    for name, members in sets.items():
        _write_ids(members, ctx.out / f"{name}.parquet")
    about = {"base": found.base, "levels": found.levels, "images": len(sets["images"]), "sft": [len(s) for s in sft]}
    about |= {"images_2": image_level}
    storage.write_json(ctx.out / "funnel.json", about)
    storage.write_atomic(ctx.out / "funnel.svg", svg(found.levels))
    return metrics | {"images": float(len(sets["images"])), "sft": float(sum(map(len, sft)))}


@dataclass(frozen=True)
class Funnel:
    """What thresholds make of a catalog: `sets` s1 … s6 of clip ids, `base` and `levels` as in funnel.json."""

    columns: Callable[[list[dict[str, Any]]], dict[str, np.ndarray]]  # of rows of the catalog: what filters can name
    rows: list[dict[str, Any]]
    base: dict[str, int]
    levels: list[dict[str, Any]]
    sets: dict[str, list[str]]


def funnel(catalog: Path, sides: Iterable[Path], config: SubsetsConfig, captions: Path | None = None) -> Funnel:
    """Apply a config's filters to the catalog and the side tables in the folders `sides`. Raises as `run` does.

    Args:
        captions: artifact of the stage `captions`; without it the catalog's own count.
    """
    table = load_table(catalog)
    rows = table.to_pylist()
    said = load_sources(captions) if captions else {}
    for row in rows:
        row["captioned"] = _captioned(row, said.get(row["clip_id"]), config)
    candidates, base = _candidates(rows, config)
    tables = side_tables.find(sides)

    def columns(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        found = {name: _column(rows, name) for name in NUMERIC}
        found |= {n.removeprefix("tag_"): _column(rows, n) for n in table.column_names if n.startswith("tag_")}
        return found | side_tables.numbers(tables, [r["clip_id"] for r in rows])

    masks, levels = ladder(columns(candidates), config.filters, len(candidates), config.allow_empty)
    ids = np.array([r["clip_id"] for r in candidates])
    return Funnel(columns, rows, base, levels, {s: ids[mask].tolist() for s, mask in zip(SUBSETS, masks)})


def sft_sets(ids: Sequence[str], k: int, share: float, seed: int, allow_empty: bool = False) -> list[list[str]]:
    """`k` sets drawn from `ids` by seed: disjoint and together everything for share 0, else random shares of it.

    Raises StepVideoError if a set would be empty, unless it may.
    """
    rng = np.random.default_rng(seed)
    order = np.array(sorted(ids))
    if share:
        size = round(share * len(order))
        sets = [sorted(rng.permutation(order)[:size].tolist()) for _ in range(k)]
    else:
        sets = [sorted(part.tolist()) for part in np.array_split(rng.permutation(order), k)] if k else []
    if any(not s for s in sets) and not allow_empty:
        raise StepVideoError(
            f"subsets: sft_sets {k}, sft_share {share:g} leave an SFT set empty; sft_from has {len(order)} clips"
        )
    return sets


def _candidates(rows: list[dict[str, Any]], config: SubsetsConfig) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Video clips that are long enough and captioned, and the counts on the way there."""
    clips = [r for r in rows if r["kind"] == "clip"]
    said = [r for r in clips if r["captioned"]]
    kept = [r for r in said if r["frames"] >= config.min_frames]
    if not said:
        raise StepVideoError(
            f"subsets: none of {len(clips)} clips has captions from {' or '.join(config.caption_sources)}; "
            "add sidecars.jsonl to the raw folder, or filename to caption_sources"
        )
    if not kept:
        longest = max(r["frames"] for r in said)
        raise StepVideoError(
            f"subsets: the longest captioned clip has {longest} frames, min_frames is {config.min_frames}"
        )
    base = {"clips": len(clips), "without_captions": len(clips) - len(said), "too_short": len(said) - len(kept)}
    return kept, base | {"candidates": len(kept)}


def _captioned(row: dict[str, Any], said: set[str] | None, config: SubsetsConfig) -> bool:
    """Whether a row has captions of the kinds that count; `said` are the sources that the stage `captions` names."""
    if said is None:
        said = {row["caption_source"]} if json.loads(row["captions"]) else set()
    return "none" in config.caption_sources or bool(said & set(config.caption_sources))


def _images(found: Funnel, config: SubsetsConfig) -> tuple[list[str], list[str], dict[str, Any]]:
    """Both data sets of T2I, and the funnel between them."""
    good = set(found.sets["s1"])
    rows = [
        r
        for r in found.rows
        if r["captioned"]
        and (
            (r["kind"] == "image" and config.images) or (r["kind"] == "frame" and config.frames and r["parent"] in good)
        )
    ]
    columns = found.columns(rows)
    (mask,), (level,) = ladder(columns, config.image_filters, len(rows), config.allow_empty, ["images_2"])
    ids = [r["clip_id"] for r in rows]
    return ids, [i for i, kept in zip(ids, mask) if kept], level


def _column(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([np.nan if r[name] is None else r[name] for r in rows], dtype=np.float64)


def _write_ids(ids: list[str], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"clip_id": pa.array(ids, pa.string())}), path)
