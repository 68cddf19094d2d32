"""Stage `subsets`: six nested pre-training subsets with rising thresholds, SFT sets, and images (§7.2, §8, Figure 11).

    s1.parquet … s6.parquet    ids of video clips; every set contains the next
    sft_1.parquet …            ids drawn from the best subset, for fine-tuning; with labels, of approved clips
    images.parquet             ids of stills, and of single frames of the clips of s1, for text-to-image
    images_2.parquet           those of them that `image_filters` keep: the second data set of T2I (Table 6), with the
                               share of written text that `written_text` asks for
    tables/left_out.parquet    near-duplicates, each with the clip that is kept, and outliers of their concepts
    funnel.json, funnel.svg    what each filter removed at each level, and what was left

With the table `concepts` the ids have a `weight`: how often an epoch of training shows the clip. Everything is scored
before; filtering happens only here, so thresholds move without measuring again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stepvideo import storage
from stepvideo.curation import side_tables, written_text
from stepvideo.curation.config import SubsetsConfig
from stepvideo.curation.funnel import SUBSETS, ladder, svg
from stepvideo.curation.likeness import DUPLICATE, LEFT_OUT, OUTLIER, Likeness
from stepvideo.curation.records import Row, write_table
from stepvideo.data.caption_kinds import HUMAN
from stepvideo.data.captions import load_sources
from stepvideo.data.clips import load_table
from stepvideo.errors import StepVideoError
from stepvideo.stage import StageContext

NUMERIC = ("frames", "height", "width", "fps", "caption_overlap")
MADE = {"vlm", "rule", HUMAN}  # sources of captions that are of the whole clip


def run(ctx: StageContext) -> dict[str, float]:
    """Read the catalog of the input `curate`, what `captions` has for it, the others' side tables; write the subsets.

    Returns:
        s1 … s6, images, sft (all sets together): numbers of ids; outliers, duplicates: what was left out for that.

    Raises:
        StepVideoError: no clip is long enough and captioned, or a subset would be empty (names the threshold).
    """
    config: SubsetsConfig = ctx.config
    sides = [path for role, path in sorted(ctx.inputs.items()) if role not in ("curate", "captions")]
    found = funnel(ctx.inputs["curate"], sides, config, ctx.inputs.get("captions"))
    sets = dict(found.sets)
    metrics = {name: float(len(members)) for name, members in sets.items()}
    sets["images"], sets["images_2"], alike, level = _images(found, config)
    best = _approved(sets[f"s{config.sft_from}"], found)
    sft = sft_sets(best, config.sft_sets, config.sft_share, config.seed, config.allow_empty)
    sets |= {f"sft_{i + 1}": members for i, members in enumerate(sft)}
    parents = {r["clip_id"]: r["parent"] or r["clip_id"] for r in found.rows}
    for name, members in sets.items():
        weights = found.likeness.draws([parents[i] for i in members]) if found.likeness.weights else None
        _write_ids(members, weights, ctx.out / f"{name}.parquet")
    about = {"base": found.base, "levels": found.levels, "images": len(sets["images"]), "sft": [len(s) for s in sft]}
    about |= {"images_left_out": _reasons(alike), "images_2": level}
    storage.write_json(ctx.out / "funnel.json", about)
    storage.write_atomic(ctx.out / "funnel.svg", svg(found.levels))
    out = [*found.left_out, *alike]
    write_table(out, _left_out_schema(), ctx.out / LEFT_OUT)
    metrics |= {name: float(n) for name, n in _reasons(out).items()}
    return metrics | {"images": float(len(sets["images"])), "sft": float(sum(map(len, sft)))}


@dataclass(frozen=True)
class Funnel:
    """What thresholds make of a catalog: `sets` s1 … s6 of clip ids, `base` and `levels` as in funnel.json."""

    columns: Callable[[list[Row]], dict[str, np.ndarray]]  # of rows of the catalog: what filters can name
    rows: list[Row]
    likeness: Likeness
    left_out: list[Row]  # as in left_out.parquet, of the candidates for s1
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
        own = {row["caption_source"]} if json.loads(row["captions"]) else set()
        row["sources"] = said.get(row["clip_id"], own) & {*config.caption_sources, HUMAN}
        row["captioned"] = "none" in config.caption_sources or bool(row["sources"])
        if row["caption_overlap"] is None and row["sources"] & MADE:
            row["caption_overlap"] = 1.0
    tables = side_tables.find([*sides, captions if captions and (captions / "tables").is_dir() else None])
    likeness = Likeness.read(tables)
    candidates, left_out, base = _candidates(rows, likeness, config)

    def columns(rows: list[Row]) -> dict[str, np.ndarray]:
        found = {name: _column(rows, name) for name in NUMERIC}
        found |= {n.removeprefix("tag_"): _column(rows, n) for n in table.column_names if n.startswith("tag_")}
        return found | side_tables.numbers(tables, [r["clip_id"] for r in rows])

    masks, levels = ladder(columns(candidates), config.filters, len(candidates), config.allow_empty)
    ids = np.array([r["clip_id"] for r in candidates])
    sets = {s: ids[mask].tolist() for s, mask in zip(SUBSETS, masks)}
    return Funnel(columns, rows, likeness, left_out, base, levels, sets)


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
            " that people approved, or that nobody was asked about"
        )
    return sets


def _approved(ids: list[str], found: Funnel) -> list[str]:
    """Those of the clips that people approved; all of them where nobody was asked (§7.2)."""
    members = set(ids)
    rows = [r for r in found.rows if r["clip_id"] in members]
    approved = found.columns(rows).get("approved")
    return ids if approved is None else [r["clip_id"] for r, ok in zip(rows, approved) if ok == 1]


def _candidates(
    rows: list[Row], likeness: Likeness, config: SubsetsConfig
) -> tuple[list[Row], list[Row], dict[str, int]]:
    """Video clips that are long enough, captioned, and unlike the others; those that are not; the counts of them."""
    clips = [r for r in rows if r["kind"] == "clip"]
    said = [r for r in clips if r["captioned"]]
    long = [r for r in said if r["frames"] >= config.min_frames]
    if not said:
        raise StepVideoError(
            f"subsets: none of {len(clips)} clips has captions from {' or '.join(config.caption_sources)}; "
            "add sidecars.jsonl to the raw folder, or rule or none to caption_sources; stepvideo funnel --uncaptioned "
            "counts them all"
        )
    if not long:
        longest = max(r["frames"] for r in said)
        raise StepVideoError(
            f"subsets: the longest captioned clip has {longest} frames, min_frames is {config.min_frames}"
        )
    left_out = likeness.left_out(long, config)
    kept = _without(long, left_out)
    base = {"clips": len(clips), "without_captions": len(clips) - len(said), "too_short": len(said) - len(long)}
    return kept, left_out, base | _reasons(left_out) | {"candidates": len(kept)}


def _without(rows: list[Row], left_out: list[Row]) -> list[Row]:
    gone = {r["clip_id"] for r in left_out}
    return [r for r in rows if r["clip_id"] not in gone]


def _reasons(left_out: list[Row]) -> dict[str, int]:
    counts = Counter(r["reason"] for r in left_out)
    return {f"{reason}s": counts[reason] for reason in (OUTLIER, DUPLICATE)}


def _images(found: Funnel, config: SubsetsConfig) -> tuple[list[str], list[str], list[Row], dict[str, Any]]:
    """Both data sets of T2I, the stills that are left out of both, and the funnel between them."""
    good = set(found.sets["s1"])
    kinds = {"image": config.images, "frame": config.frames}
    rows = [r for r in found.rows if r["captioned"] and kinds.get(r["kind"])]
    rows = [r for r in rows if r["kind"] == "image" or r["parent"] in good]
    left_out = found.likeness.left_out([r for r in rows if r["kind"] == "image"], config)
    rows = _without(rows, left_out)
    ids = [r["clip_id"] for r in rows]
    columns = found.columns(rows)
    (mask,), (level,) = ladder(columns, config.image_filters, len(rows), config.allow_empty, ["images_2"])
    second = [i for i, kept in zip(ids, mask) if kept]
    if config.written_text.share:
        if written_text.TAG not in columns:
            raise StepVideoError(
                "subsets: written_text.share needs the table text: set stages.tags.backends.text, or a share of 0"
            )
        text = columns[written_text.TAG][mask]
        kept, level["written_text"] = written_text.steered(second, text, config.written_text, config.allow_empty)
        second = [i for i, k in zip(second, kept) if k]
        level["left"] = len(second)
    return ids, second, left_out, level


def _column(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([np.nan if r[name] is None else r[name] for r in rows], dtype=np.float64)


def _write_ids(ids: list[str], weights: list[float] | None, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    weighed = {} if weights is None else {"weight": pa.array(weights, pa.float64())}
    pq.write_table(pa.table({"clip_id": pa.array(ids, pa.string()), **weighed}), path)


def _left_out_schema() -> Any:
    import pyarrow as pa

    return pa.schema([(name, pa.string()) for name in ("clip_id", "reason", "kept")])
