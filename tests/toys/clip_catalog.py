"""A small catalog of clips of several lengths and aspects, one of them damaged, with its subsets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stepvideo.data.video_io import write_image, write_video

# frames, height, width of the clips c0, c1, …; c3's file is damaged
CLIPS = [(17, 32, 32), (20, 32, 64), (40, 64, 32), (17, 32, 32), (36, 32, 32), (18, 40, 72), (16, 32, 32), (17, 48, 48)]
BROKEN = "3"


def clip_id(name: int | str) -> str:
    return f"{name:0>32}"


@pytest.fixture(scope="session")
def curated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Inputs of the latents stage: "curate" and "subsets"."""
    from stepvideo.world.attributes import all_combinations
    from stepvideo.world.captions import prompts

    folder, subsets = tmp_path_factory.mktemp("curate"), tmp_path_factory.mktemp("subsets")
    texts = [p.text for p in prompts(all_combinations(), 600, 0)]
    draw = np.random.default_rng(0)
    rows = []

    def add(name: int | str, kind: str, file: str, size: tuple[int, int, int], parent: str | None = None) -> None:
        captions = {"short": {"en": [texts[len(rows)]]}, "dense": {"en": [texts[40 + len(rows)], texts[80]]}}
        shape = dict(zip(("frames", "height", "width"), size, strict=True))
        rows.append(
            {"clip_id": clip_id(name), "kind": kind, "file": file, "first_frame": 0, "fps": 25.0, "parent": parent}
            | {"crop": None, "captions": json.dumps(captions), "caption_source": "sidecar", "attributes": None, **shape}
        )

    for i, (frames, height, width) in enumerate(CLIPS):
        coarse = draw.integers(0, 256, (frames, height // 8, width // 8, 3)).astype(np.uint8)
        write_video(folder / f"{i}.mp4", coarse.repeat(8, 1).repeat(8, 2), 25)
        add(i, "clip", f"{i}.mp4", CLIPS[i])
    (folder / f"{BROKEN}.mp4").write_bytes(b"no video" * 100)
    for i, (height, width) in enumerate([(32, 32), (64, 32), (48, 48)]):
        write_image(folder / f"{i}.png", draw.integers(0, 256, (height, width, 3)).astype(np.uint8))
        add(f"a{i}", "image", f"{i}.png", (1, height, width))
    add("b0", "frame", "0.mp4", (1, 32, 32), clip_id(0))
    pq.write_table(pa.Table.from_pylist(rows), folder / "catalog.parquet")
    for name, kinds in (("s1", ("clip",)), ("images", ("image", "frame"))):
        ids = [r["clip_id"] for r in rows if r["kind"] in kinds]
        pq.write_table(pa.table({"clip_id": ids}), subsets / f"{name}.parquet")
    return {"curate": folder, "subsets": subsets}
