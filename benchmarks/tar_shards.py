"""Random access to training samples: tars with their index against raw files, read in turns, in one run.

    python benchmarks/tar_shards.py [--json] [--check]

Clips of random bytes (what is read does not matter) of 100 kB to 1 MB go through the stage `shards`. Then every sample,
media and record, is read in a random order: from the raw files (KEY.mp4 and KEY.json, two folders deep), through the
index, and, as any WebDataset reader would, in sequence. The page cache is warm, so what is compared is the work of
finding and reading, in processor time; rates are medians over rounds. `--check` exits 1 when the index costs more than
`MARGIN` above raw files: both copy the same bytes, which is nearly all of the time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from model_speed import machine

from stepvideo.data import tar_stage
from stepvideo.data.balance_config import BucketConfig
from stepvideo.data.tar_shards import TarShards
from stepvideo.data.tar_shards_config import TarShardsConfig
from stepvideo.stage import StageContext

Sample = tuple[bytes, dict[str, Any]]  # media, record
CLIPS, ROUNDS = 500, 3
MARGIN = 0.05
SIZES = (100_000, 1_000_000)  # bytes of a clip


def catalog(root: Path) -> None:
    draw = np.random.default_rng(0)
    rows = []
    for i in range(CLIPS):
        key = draw.bytes(16).hex()
        (root / "media" / key[:2]).mkdir(parents=True, exist_ok=True)
        name = f"media/{key[:2]}/{key}.mp4"
        (root / name).write_bytes(draw.bytes(int(draw.integers(*SIZES))))
        captions = json.dumps({"dense": {"en": [f"caption {i} " + "word " * 60]}})
        rows.append(
            {"clip_id": key, "kind": "clip", "file": name, "first_frame": 0, "frames": 80, "height": 720, "width": 1280}
            | {"fps": 25.0, "crop": None, "captions": captions, "caption_source": "sidecar", "attributes": None}
        )
    pq.write_table(pa.Table.from_pylist(rows), root / "catalog.parquet")


def stream(root: Path) -> Iterator[Sample]:
    """All samples in the order of the tars, as WebDataset readers come by them."""
    for path in sorted(root.glob("*.tar")):
        with tarfile.open(path, "r|") as tar:
            contents = (file.read() for member in tar if (file := tar.extractfile(member)))
            for content in contents:
                yield content, json.loads(next(contents))


def measure(root: Path) -> dict[str, Any]:
    for name in ("curate", "out", "work"):
        (root / name).mkdir()
    catalog(root / "curate")
    config = TarShardsConfig(buckets=BucketConfig([68], ["192x320"]), shard_mb=256)
    began = time.perf_counter()
    counts = tar_stage.run(StageContext(config, {"curate": root / "curate"}, root / "out", root / "work"))
    packing_s = time.perf_counter() - began
    shards = TarShards(root / "out")
    keys = shards.index["key"].to_pylist()
    media = [root / "curate" / "media" / key[:2] / f"{key}.mp4" for key in keys]
    for i, path in enumerate(media):
        path.with_suffix(".json").write_text(json.dumps(shards[i][1]))

    def raw(i: int) -> Sample:
        return media[i].read_bytes(), json.loads(media[i].with_suffix(".json").read_bytes())

    ways: dict[str, Callable[[list[int]], Iterator[Sample]]] = {
        "raw": lambda order: map(raw, order),
        "index": lambda order: map(shards.__getitem__, order),
        "sequence": lambda _: stream(root / "out"),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    draw = np.random.default_rng(1)
    for round_ in range(ROUNDS + 1):
        order = draw.permutation(CLIPS).tolist()
        read = set()
        for name, way in ways.items():
            began = time.process_time()
            read.add(sum(len(content) + len(record) for content, record in way(order)))
            if round_:  # the first one warms the cache
                rates[name].append(CLIPS / (time.process_time() - began))
        assert len(read) == 1, f"they read different things: {read}"
    found = {name: round(statistics.median(values)) for name, values in rates.items()}
    ratios = [i / r for i, r in zip(rates["index"], rates["raw"])]
    return {
        "clips": CLIPS,
        "bytes": int(counts["bytes"]),
        "tars": int(counts["tars"]),
        "packing_mb_s": round(counts["bytes"] / 1e6 / packing_s),
        "samples_per_cpu_s": found,
        "index_over_raw": round(statistics.median(ratios), 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--check", action="store_true", help="exit 1 when the index is slower than raw files by more than the margin"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder)) | {"machine": machine()}
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        for name, rate in result["samples_per_cpu_s"].items():
            print(f"{name:<9} {rate:>7} samples per CPU-second")
        print(f"index over raw files {result['index_over_raw']}, packing {result['packing_mb_s']} MB/s")
    return int(args.check and result["index_over_raw"] < 1 - MARGIN)


if __name__ == "__main__":
    sys.exit(main())
