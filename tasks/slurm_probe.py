"""A small job on the nodes of a partition that tells what they and the driver share: files, locks, time, packages."""

from __future__ import annotations

import fcntl
import json
import shlex
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from stepvideo.config import load
from stepvideo.doctor import Check
from stepvideo.errors import ConfigError
from tasks import slurm_queue
from tasks.slurm_config import Resources, SlurmConfig
from tasks.slurm_queue import Queue
from tasks.slurm_script import script
from tasks.slurm_submission import Submission

NOW_S = 0.2  # between two writings of the driver's time
VISIBLE_S = 15.0  # a shared file system may show so late what a node has written
SKEW_S = 2.0


def probe(store: Path, slurm: SlurmConfig, partition: str, nodes: int = 2, wait_s: float = 120.0) -> list[Check]:
    """Checks of a partition, by a job on so many of its nodes; nothing of it is left behind.

    Args:
        wait_s: how long it may wait for its turn.
    """
    name = f"slurm nodes of {partition or 'the default partition'}"
    folder = store / "_probe" / uuid.uuid4().hex[:8]
    (folder / "logs").mkdir(parents=True)
    given = {f.name: getattr(slurm, f.name) for f in fields(Resources)}
    given |= {"partition": partition, "nodes": nodes, "gpus_per_node": 0, "cpus_per_task": 1, "mem_gb": 0.0}
    asked = load(Resources, given | {"time_min": 5, "het": []}, name)
    run = f"{asked.python or shlex.quote(sys.executable)} -P -m stepvideo.node_probe {shlex.quote(str(folder))}"
    logs = folder / "logs" / "probe.out", folder / "logs" / "probe.err"
    try:
        with _driver_is_there(folder):
            job = Submission.make(
                folder / "slurm.json", Queue(0.5), "doctor", lambda job: script(asked, job, run, logs)
            )
            try:
                return _report(name, folder, nodes, _wait(job, folder, nodes, wait_s))
            finally:
                job.stop(0.0)
    except ConfigError as e:
        return [Check(name, "missing", str(e), "")]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _driver_is_there(folder: Path) -> Iterator[None]:
    """Hold the lock and tell the time."""
    done = threading.Event()

    def tell() -> None:
        while True:
            (folder / ".now").write_text(repr(time.time()))
            (folder / ".now").rename(folder / "now")
            if done.wait(NOW_S):
                return

    with (folder / "held").open("w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        telling = threading.Thread(target=tell, daemon=True)
        telling.start()
        try:
            yield
        finally:
            done.set()
            telling.join()


def _wait(job: Submission, folder: Path, nodes: int, wait_s: float) -> tuple[dict[str, Any], str]:
    """({host: what it said, and when that was seen}, what Slurm said when it was too late)."""
    seen: dict[str, Any] = {}
    deadline, ended = time.monotonic() + wait_s, None
    while len(seen) < nodes:
        for path in folder.glob("*.json"):
            if path.stem not in (*seen, "slurm"):
                seen[path.stem] = json.loads(path.read_text()) | {"seen": time.time()}
        jobs = job.jobs()
        now = time.monotonic()
        if jobs and not any(j.active for j in jobs):
            ended = ended or now
            if now > ended + (VISIBLE_S if jobs[0].state == "COMPLETED" else 1.0):
                return seen, f"the job ended as {jobs[0].state} on {jobs[0].nodes}"
        elif now > deadline:
            return seen, slurm_queue.in_words(jobs) if jobs else "Slurm does not answer"
        time.sleep(0.05)
    return seen, ""


def _report(name: str, folder: Path, nodes: int, found: tuple[dict[str, Any], str]) -> list[Check]:
    seen, said = found
    if len(seen) < nodes:
        errors = (folder / "logs" / "probe.err").read_text().strip().splitlines() if _written(folder) else []
        if said.startswith("waits"):
            return [Check(name, "warn", f"the probe did not start: it {said}", "try again when nodes are free")]
        if errors and not any("is not here" in line for line in errors):
            fix = "cluster.slurm.python and setup: what runs the stages there"
            return [Check(name, "missing", f"{said}: {'; '.join(errors[:3])}", fix)]
        fix = "put the store (store=DIR) on a file system that all nodes mount at the same path"
        detail = f"{said}, and nothing that it wrote is in {folder}: the store or its log folder is not shared"
        return [Check(name, "missing", detail, fix)]
    checks = [Check(name, "ok", f"{', '.join(sorted(seen))} share {folder.parent.parent}")]
    for host, node in sorted(seen.items()):
        checks += [c for c in (_lock(host, node), _clock(host, node)) if c]
        checks += [Check(f"{c['name']} on {host}", **{k: c[k] for k in ("status", "detail", "fix")})
                   for c in node["checks"] if c["status"] in ("warn", "missing")]  # fmt: skip
    return checks


def _written(folder: Path) -> bool:
    return (folder / "logs" / "probe.err").exists()


def _lock(host: str, node: dict[str, Any]) -> Check | None:
    if node["locked"]:
        return None
    fix = "mount it with locks between nodes: NFS 4, Lustre -o flock; without them two jobs may write one artifact"
    return Check(f"flock on {host}", "missing", "a lock that the driver holds is not seen there", fix)


def _clock(host: str, node: dict[str, Any]) -> Check | None:
    """Ahead of the driver by something between `least` and `most`: a file was written and seen in between."""
    least, most = node["time"] - node["seen"], node["time"] - node["driver"]
    if least <= SKEW_S and most >= -SKEW_S:
        return None
    ahead = least if least > SKEW_S else most
    way = "ahead of" if ahead > 0 else "behind"
    detail = f"its clock is {abs(ahead):.0f} s {way} the driver's"
    return Check(f"clock of {host}", "warn", detail, "chrony or ntpd there; heartbeats older than 60 s count as dead")
