"""Stores with a curated catalog of any size: random tags, captions and concepts, and real subsets of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stepvideo import storage
from stepvideo.artifact import Artifact, Store, content_digest
from stepvideo.config import dump
from stepvideo.curation import subsets
from stepvideo.curation.config import Filter, SubsetsConfig
from stepvideo.curation.records import clip_schema, files_schema
from stepvideo.data.captions import caption_schema
from stepvideo.stage import StageContext

COLOURS = ("red", "green", "blue", "amber", "violet")
CENTRES = np.eye(5, 8, dtype=np.float32)
FILTERS = [
    Filter("blur_fixed", "above", [0.0, 0.02, 0.04, 0.07, 0.11, 0.16], quantile=True),
    Filter("motion_mean", "above", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
]


def settings(**changed: Any) -> SubsetsConfig:
    about = {"filters": FILTERS, "frames": False, "images": False, "allow_empty": True, **changed}
    return SubsetsConfig(**about)


def store(
    root: Path,
    clips: Sequence[int],
    config: SubsetsConfig | None = None,
    slower: float = 0.0,
    redder: bool = False,
    quarantined: Sequence[int] = (),
    again: Sequence[int] = (),
    order: Sequence[int] | None = None,
) -> Store:
    """A store with curate, concepts, captions and subsets of the clips of these numbers, one a raw file.

    Args:
        slower: is taken from every clip's motion.
        redder: clips of other colours are red in three of four cases.
        quarantined: raw files that give no clip, beside those of `clips`.
        again: clips that were cut at another frame.
        order: number of concepts, where a fit found the same in another order.
    """
    made, numbers = Store(root), np.array(clips)
    count = len(numbers)
    drawn = np.random.default_rng(0).random((int(max(numbers, default=0)) + 1, 4))[numbers]
    colour = (drawn[:, 0] * len(COLOURS)).astype(int)
    if redder:
        colour[drawn[:, 1] < 0.75] = 0
    ids = [hashlib.md5(f"{i}{' again' if i in set(again) else ''}".encode()).hexdigest() for i in clips]
    columns: dict[str, Any] = {f.name: pa.nulls(count, f.type) for f in clip_schema()}
    shas = [hashlib.sha256(str(i).encode()).hexdigest() for i in clips]
    names = [f"file{i:06d}.mp4" for i in clips]
    columns |= {"clip_id": ids, "kind": ["clip"] * count, "file": names, "frames": [30] * count, "fps": [24.0] * count}
    columns |= {"height": [64] * count, "width": [64] * count, "first_frame": [0] * count, "captions": ["{}"] * count}
    columns |= {"caption_source": ["none"] * count, "source_role": ["raw"] * count, "source_file": names}
    columns |= {"source_sha256": shas, "tag_blur_fixed": drawn[:, 2], "tag_motion_mean": drawn[:, 3] - slower}
    bad = [hashlib.sha256(str(i).encode()).hexdigest() for i in quarantined]
    files = {f.name: pa.nulls(count + len(bad), f.type) for f in files_schema()}
    files |= {"role": ["raw"] * (count + len(bad)), "file": [*names, *(f"file{i:06d}.mp4" for i in quarantined)]}
    files |= {"sha256": [*shas, *bad], "status": ["accepted"] * count + ["quarantined"] * len(bad)}
    files |= {"reason": [""] * count + ["unreadable"] * len(bad)}

    def catalog(out: Path) -> None:
        pq.write_table(pa.table(columns, clip_schema()), out / "catalog.parquet")
        pq.write_table(pa.table(files, files_schema()), out / "files.parquet")

    curate = artifact(made, "curate", "curate", {}, {"segment": {"min_frames": 17}}, catalog, 1)
    ranks = np.array(order if order is not None else range(len(COLOURS)))

    def concepts(out: Path) -> None:
        table = {"clip_id": ids, "cluster": pa.array(np.argsort(ranks)[colour], pa.int32()), "weight": [1.0] * count}
        table |= {"duplicate_of": pa.nulls(count, pa.string())}
        pq.write_table(pa.table(table), out / "concepts.parquet")
        np.save(out / "centres.npy", CENTRES[ranks])

    def captions(out: Path) -> None:
        rows: dict[str, Any] = {f.name: pa.nulls(2 * count, f.type) for f in caption_schema()}
        said = [f"a {COLOURS[c]} circle moves" for c in colour] + [
            f"一个{'红色' if c == 0 else '蓝色'}的圆" for c in colour
        ]
        rows |= {"clip_id": ids * 2, "kind": ["short"] * (2 * count), "language": ["en"] * count + ["zh"] * count}
        rows |= {"text": said, "source": ["vlm"] * (2 * count), "flags": [[]] * (2 * count)}
        pq.write_table(pa.table(rows, caption_schema()), out / "captions.parquet")
        pq.write_table(pa.table({"clip_id": ids}), out / "clips.parquet")
        (out / "tables").mkdir()
        pq.write_table(pa.table({"clip_id": ids, "clip_score": drawn[:, 1]}), out / "tables" / "alignment.parquet")

    about = artifact(made, "concepts", "concepts", {"curate": curate}, {}, concepts, 2)
    worded = artifact(made, "captions", "captions", {"curate": curate}, {}, captions, 3)
    chosen = config or settings(caption_sources=["vlm"])
    inputs = {"curate": curate, "captions": worded, "concepts": about}

    def sets(out: Path) -> None:
        (out / "tables").mkdir()
        subsets.run(StageContext(chosen, {role: a.out for role, a in inputs.items()}, out, out))

    artifact(made, "subsets", "subsets", inputs, dump(chosen), sets, 4)
    return made


def artifact(
    made: Store, stage: str, kind: str, inputs: dict[str, Artifact], config: Any, fill: Any, age: int
) -> Artifact:
    folder = made.dir(stage, hashlib.md5(stage.encode()).hexdigest()[:16])
    (folder / "out").mkdir(parents=True)
    fill(folder / "out")
    said = storage.checksums(folder / "out")
    refs = {role: {"stage": a.manifest["stage"], "key": a.dir.name, "digest": a.digest} for role, a in inputs.items()}
    about = {"stage": stage, "key": folder.name, "kind": kind, "files": said, "digest": content_digest(said)}
    about |= {"inputs": refs, "config": config, "started": 0.0, "finished": 1000.0 + age, "metrics": {}, "lineage": {}}
    storage.write_json(folder / "manifest.json", about | {"fingerprint": "", "environment": {}})
    os.utime(folder / "manifest.json", (1000 + age, 1000 + age))
    return Artifact(folder, about)
