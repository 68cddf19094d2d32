"""Curated data behind a model, written by hand: raw files with licences, a catalog of clips, subsets, two trainings."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from made_runs import MadeRuns

from stepvideo.artifact import Artifact
from stepvideo.curation.records import clip_schema


def parquet(**columns: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def catalog(made: MadeRuns, clips: int, files: int, media: bytes = b"") -> tuple[Artifact, list[str]]:
    """A curated catalog of `clips` clips, cut in turn from `files` raw files of which two have a licence.

    Args:
        media: an mp4 of 32×32 pixels that every clip is the first 5 frames of; without it there are no media.
    """
    sidecars = "".join(json.dumps({"file": f"f{i}.mp4", "licence": "CC-BY-4.0", "shots": []}) + "\n" for i in (0, 1))
    raw = made.artifact("raw", "raw", {"content": "x"}, {}, {"files/sidecars.jsonl": sidecars}, data_md5="x")
    ids = [f"{i:032x}" for i in range(clips)]
    of = [i % files for i in range(clips)]
    rows = {"clip_id": ids, "source_role": ["raw"] * clips, "source_file": [f"f{n}.mp4" for n in of]}
    rows |= {"source_sha256": [f"{n:064x}" for n in of], "frames": [50] * clips, "fps": [25.0] * clips}
    known = {"role": ["raw"] * files, "file": [f"f{n}.mp4" for n in range(files)], "size": list(range(files))}
    tables: dict[str, bytes | str] = {"files.parquet": parquet(**known)}
    if media:
        said = {"kind": "clip", "file": "media/a.mp4", "first_frame": 0, "height": 32, "width": 32, "captions": "{}"}
        said |= {"caption_source": "none", "source_start": 0, "source_end": 5, "frames": 5}
        full = {n: [None] * clips for n in clip_schema().names} | rows
        full |= {name: [value] * clips for name, value in said.items()}
        tables["media/a.mp4"], rows = media, full
    tables["catalog.parquet"] = parquet(**rows)
    return made.artifact("curate", "curate", {}, {"raw": raw}, tables), ids


def model(made: MadeRuns, clips: int = 12, files: int = 4, media: bytes = b"") -> Artifact:
    """text-to-image on every third clip, then fine-tuning on the first three: six different ones of twelve."""
    curate, ids = catalog(made, clips, files, media)
    tables = {"images.parquet": parquet(clip_id=ids[::3]), "sft_1.parquet": parquet(clip_id=ids[:3])}
    subsets = made.artifact("subsets", "subsets", {}, {"curate": curate}, tables)
    stills = {"subset": "s1", "media": "images", "images": ""}
    first = made.artifact("t2i", "train", stills, {"subsets": subsets}, {"transformer/a": "1"})
    videos = {"subset": "sft_1", "media": "videos", "images": ""}
    return made.artifact("sft.1", "train", videos, {"init": first, "subsets": subsets}, {"transformer/w": "weights"})
