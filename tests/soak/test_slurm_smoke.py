"""The `smoke` cascade wholly on a real Slurm, over two partitions, every job an interpreter of its own as a user's is:
the digests of a run in one process. CI has the same with jobs that are forks (`tests/system/test_slurm_smoke.py`).
"""

from __future__ import annotations

import time

import pytest
from slurm_cluster import Cluster, missing
from whole import Smoke

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7200), pytest.mark.skipif(bool(missing()), reason=missing())]
THERE = ("cluster=slurm", "cluster.concurrency=2", "cluster.slurm.poll_s=1", "cluster.slurm.partition=inference")
TRAINING = "cluster.slurm.stages={vae1: {partition: training}, text: {partition: training}, t2i: {partition: training}}"


def test_smoke_over_two_partitions(tmp_path, tmp_path_factory, monkeypatch) -> None:
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    try:
        began = time.monotonic()
        here = Smoke(tmp_path / "here", "tracking=none").run(timeout=3600)
        between = time.monotonic()
        there = Smoke(tmp_path / "there", "tracking=none", *THERE, TRAINING).run(timeout=3600)
        print(f"{len(here)} stages: {between - began:.0f} s in process, {time.monotonic() - between:.0f} s on Slurm")
        nodes = {row.rstrip("0123456789") for row in cluster.queue("%N")}
    finally:
        cluster.stop()
    same = [{name: (row["key"], row["digest"]) for name, row in rows.items()} for rows in (here, there)]
    assert same[0] == same[1]
    assert nodes == {"training", "inference"}
