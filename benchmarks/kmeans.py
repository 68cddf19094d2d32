"""K-means of the concepts: does it find the clusters of a known mixture, and at what price?

    OMP_NUM_THREADS=1 python benchmarks/kmeans.py [--check] [--plain] [--json]
    OMP_NUM_THREADS=1 python benchmarks/kmeans.py --stage [--clips N] [--clusters K] [--json]

The first form draws a Gaussian mixture on the unit sphere (100,000 vectors, 512 numbers, 1,000 clusters, noise as long
as the centres) and compares what is found with the truth by the adjusted Rand index; `--check` exits 1 below 0.97 or
above 20 seconds, and `--plain` adds faiss with its own seeding and 20 iterations. The second runs the whole stage on
embeddings in Parquet and reports its time, its peak memory and its agreement with the mixture. Seconds are the
processor's; nothing but this process works.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "toys"))

from gaussian_mixture import adjusted_rand_index, mixture  # noqa: E402 # pyright: ignore

from stepvideo.curation.concepts import run  # noqa: E402
from stepvideo.curation.concepts_config import ConceptsConfig  # noqa: E402
from stepvideo.curation.concepts_kmeans import assign, kmeans  # noqa: E402
from stepvideo.stage import StageContext  # noqa: E402

MIN_ARI, MAX_SECONDS = 0.97, 20.0
CLIPS, DIM, CLUSTERS = 100_000, 512, 1_000
PART = 20_000  # rows that are drawn and written at once


def found(plain: bool) -> dict[str, Any]:
    """ARI and seconds of ours, and of faiss as it comes."""
    x, truth = mixture(CLIPS, DIM, CLUSTERS)
    start = time.process_time()
    labels, _ = assign(x, kmeans(x, CLUSTERS, seed=0))
    result = {"seconds": time.process_time() - start, "ari": adjusted_rand_index(truth, labels)}
    if plain:
        import faiss

        faiss.omp_set_num_threads(1)
        start = time.process_time()
        usual = faiss.Kmeans(DIM, CLUSTERS, niter=20, spherical=True, seed=0)
        usual.train(x)
        labels, _ = assign(x, usual.centroids)
        result |= {"plain_seconds": time.process_time() - start, "plain_ari": adjusted_rand_index(truth, labels)}
    return result


def stage(clips: int, clusters: int) -> dict[str, Any]:
    """The stage on a mixture of `clusters` concepts in families of about 300, as real ones have them."""
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        truth = write(root / "tags" / "tables" / "embedding.parquet", clips, clusters)
        (root / "out").mkdir()
        # no near-duplicates in a mixture, and fewer clips a cluster than in real data
        config = ConceptsConfig(clusters=clusters, min_clips=1)
        ctx = StageContext(config, {"tags": root / "tags"}, root / "out", root / "work")
        before, start, wall = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time(), time.time()
        metrics = run(ctx)
        seconds, wall = time.process_time() - start, time.time() - wall
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        labels = pq.read_table(root / "out" / "concepts.parquet")["cluster"].to_numpy()
    memory = {"peak_mib": after / 1024, "peak_before_mib": before / 1024}
    return {"seconds": seconds, "wall": wall, **memory, "ari": adjusted_rand_index(truth, labels), **metrics}


def write(path: Path, clips: int, clusters: int) -> np.ndarray:
    """Embeddings in Parquet, drawn part by part; which concept each is of."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True)
    rng = np.random.default_rng(0)
    families = rng.standard_normal((max(clusters // 300, 1), DIM), np.float32)
    centres = rng.standard_normal((clusters, DIM), np.float32) + families[np.arange(clusters) % len(families)]
    truth = rng.integers(clusters, size=clips)
    schema = pa.schema([("clip_id", pa.string()), ("embedding", pa.list_(pa.float32()))])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for first in range(0, clips, PART):
            own = truth[first : first + PART]
            x = centres[own] + rng.standard_normal((len(own), DIM), np.float32)
            x /= np.linalg.norm(x, axis=1, keepdims=True)
            ids = [f"{first + i:032x}" for i in range(len(own))]
            lists = pa.ListArray.from_arrays(pa.array(np.arange(len(own) + 1) * DIM, pa.int32()), pa.array(x.ravel()))
            writer.write_table(pa.table([pa.array(ids), lists], schema=schema))
    return truth


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--stage", action="store_true")
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--clusters", type=int, default=120_000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = stage(args.clips, args.clusters) if args.stage else found(args.plain)
    print(json.dumps(result) if args.json else "\n".join(f"{k:18} {v:12.4f}" for k, v in result.items()))
    if args.check and not args.stage and (result["ari"] < MIN_ARI or result["seconds"] > MAX_SECONDS):
        print(f"ARI below {MIN_ARI} or more than {MAX_SECONDS:g} CPU-seconds", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
