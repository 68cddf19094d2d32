"""A stage that needs longer than a job may take: jobs one after the other, and the bytes of an undisturbed run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import toy_stages
from fixtures import TOYS
from mini import Mini
from slurm_cluster import Cluster, missing

pytestmark = [pytest.mark.soak, pytest.mark.skipif(bool(missing()), reason=missing())]


def test_time_limits_end_in_exact_resume(
    tmp_path: Path, tmp_path_factory, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Slurm's shortest limit is a minute, and it may warn a minute too early."""
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
        monkeypatch.setenv("STEPVIDEO_KINDS", toy_stages.KINDS)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TOYS), str(TOYS.parents[1])]))
        mini = Mini(tmp_path, capsys)
        limit = ["cluster.slurm.time_min=1", "cluster.slurm.warn_s=40", "cluster.slurm.poll_s=0.5"]
        there = mini.run("cluster=slurm", *limit, "stages.fit.steps=90", "stages.fit.step_s=1")
        here = mini.run("stages.fit.steps=90", f"store={tmp_path / 'here'}")
        jobs = [name for name in cluster.queue() if name.startswith("fit-")]
    finally:
        cluster.stop()
    assert {n: r["digest"] for n, r in there.items()} == {n: r["digest"] for n, r in here.items()}
    assert len(jobs) >= 2
