"""How long `stepvideo data publish`, `log` and `diff` take for versions of many clips.

    python benchmarks/data_versions.py 100000

Makes two catalogs of so many clips without media (random tags, two captions a clip, five concepts, subsets by the real
stage), publishes both to a DVC remote in a temporary folder without a gate, and compares them. Seconds of processor
time and of the clock, each in a process of its own.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "toys")]


def step(name: str, folder: Path) -> None:
    """One of the measured steps, in this process."""
    from flows import data, data_diff, data_log
    from tasks import version_report

    checkout = folder / "checkout"
    version_report.GATED = ()
    for module in (data, data_diff, data_log):
        module.ROOT = checkout
    if name.startswith("publish"):
        data.publish_command(str(folder / name.split()[1]), [], None, None, "made")
    elif name == "log":
        data_log.log_command(True)
    else:
        data_diff.diff_command(None, "v1", "v2", "", 0.2, None, False)


def main(clips: int) -> None:
    import made_catalog
    from made_versions import checkout_of

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkout_of(folder / "checkout", folder / "remote")
        began = time.monotonic()
        made_catalog.store(folder / "a", range(clips))
        made_catalog.store(folder / "b", range(clips // 50, clips + clips // 20), slower=0.05)
        found = {
            "clips": clips,
            "commit": _git(),
            "cores": os.cpu_count(),
            "made_s": round(time.monotonic() - began, 1),
        }
        for what in ("publish a", "publish b", "log", "diff"):
            before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
            argv = [sys.executable, __file__, "--step", what, name]
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            after, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            found[what] = {
                "cpu_s": round(cpu, 1),
                "clock_s": round(clock, 1),
                "peak_gb": round(after.ru_maxrss / 2**20, 2),
            }
            print(what, found[what], file=sys.stderr, flush=True)
        print(json.dumps(found, indent=1))


def _git() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        step(sys.argv[2], Path(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
