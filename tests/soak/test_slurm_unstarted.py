"""A job that no node can start is not submitted for ever. Here the paths of slurmstepd's sockets are too long."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import toy_stages
from fixtures import TOYS
from mini import Mini
from slurm_cluster import Cluster, missing

from tasks.slurm import UNSTARTED

pytestmark = [pytest.mark.soak, pytest.mark.skipif(bool(missing()), reason=missing())]


def test_it_ends_and_says_where_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(Cluster, "LONGEST", 1000)
    cluster = Cluster(tmp_path / "slurm-of-a-long-name")
    try:
        monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
        monkeypatch.setenv("STEPVIDEO_KINDS", toy_stages.KINDS)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TOYS), str(TOYS.parents[1])]))
        mini = Mini(tmp_path, capsys)
        code, _, err = mini.cli("run", *mini.args("cluster=slurm", "cluster.snapshot=false", "cluster.slurm.poll_s=1"))
        names = cluster.queue()
    finally:
        cluster.stop()
    assert code == 1 and f"{UNSTARTED} times in a row no node could start it" in err and "slurmd.log" in err
    assert len(names) == UNSTARTED, names
