"""Telemetry's views over a large training: who is slow, what the page needs, and watching it live.

    python benchmarks/telemetry_views.py [--ranks 1024] [--steps 2000] [--check] [--json]

1,024 ranks x 2,000 steps x 10 sections are 20.5 million spans. One rank of a tensor
group is 15 % slower in its backward. The rows are made first (about a minute) and kept in --folder, if one is given.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "toys"))

import pyarrow as pa
from made_training import Fault, Made, counters, samples, spans, write

from stepvideo.telemetry.anomalies import Watch
from stepvideo.telemetry.page.document import document
from stepvideo.telemetry.page.payload import payload
from stepvideo.telemetry.times import QUICK, cube, slow_places, step_times
from stepvideo.telemetry.views import open_views

BAR_S = 1.0  # the slow-rank query (issue 7)
PAGE_S = 60.0
CHUNK, TENSOR, SLOW, ROUNDS = 100, 8, 517, 5


def make(folder: Path, ranks: int, steps: int) -> None:
    """Parts as large as compacted ones are."""
    for first in range(1, steps + 1, CHUNK):
        made = Made(
            ranks, min(CHUNK, steps + 1 - first), first, tensor=TENSOR, seed=first,
            faults=(Fault((SLOW % ranks,), 1.15, "backward"),),
        )  # fmt: skip
        write(folder, "span", [pa.concat_tables(spans(made))], made)
        write(folder, "sample", [samples(made, clips=1_000_000)], made)
    about = Made(ranks, 1, 0, tensor=TENSOR)
    write(folder, "counter", [counters(about, {"parallel.tensor": TENSOR}, a_step=False)], about)


def timed(call: Callable[[], Any], rounds: int = 1) -> tuple[Any, list[float]]:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        found = call()
        times.append(time.perf_counter() - start)
    return found, times


def measure(folder: Path) -> dict[str, Any]:
    """Seconds; the slow-rank query from opening the folder to the verdict. cpu_s: of this process, of all cores."""

    def ask() -> list[Any]:
        with open_views(folder) as views:
            return slow_places(cube(views, QUICK), views.layout)

    ask()  # imports
    cpu = time.process_time()
    verdicts, times = timed(ask, ROUNDS)
    cpu = (time.process_time() - cpu) / ROUNDS
    with open_views(folder) as views:
        rows = views.sql("SELECT count(*) FROM span")[0][0]
        cpu_page = time.process_time()
        data, page = timed(lambda: payload(views))
        cpu_page = time.process_time() - cpu_page
        watch, recent = Watch(views.layout), list(step_times(views, views.steps[1] - 63, views.steps[1]))
        _, live = timed(lambda: [watch.step(step, seconds) for step, seconds in recent])
    return {
        "spans": rows,
        "parquet_mb": sum(p.stat().st_size for p in folder.rglob("span/**/*.parquet")) / 1e6,
        "slow_rank_query_s": {"median": median(times), "least": min(times), "cpu_s": cpu},
        "blamed": [str(v.place) for v in verdicts],
        "page_s": page[0],
        "page_cpu_s": cpu_page,
        "page_mb": len(document(data)) / 1e6,
        "watch_ms_a_step": 1e3 * live[0] / len(recent),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--ranks", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="where the made rows are or go")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        if not (folder / "parquet").exists():
            make(folder, args.ranks, args.steps)
        found = measure(folder)
    taken = found["slow_rank_query_s"]["median"]
    print(json.dumps(found, indent=1) if args.json else "\n".join(f"{k:20} {v}" for k, v in found.items()))
    met = taken <= BAR_S and found["page_s"] <= PAGE_S and len(found["blamed"]) == 1
    print(f"slow-rank query {taken:.2f} s (bar {BAR_S:g} s): {'met' if met else 'MISSED'}", file=sys.stderr)
    return int(args.check and not met)


if __name__ == "__main__":
    sys.exit(main())
