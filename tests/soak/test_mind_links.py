"""Bad nodes found by real jobs of small groups on a real Slurm."""

from __future__ import annotations

import json

import pytest
from slurm_cluster import Cluster, missing

from stepvideo.cli import main
from tasks.slurm_nodes import SlurmNodes

pytestmark = [pytest.mark.soak, pytest.mark.skipif(bool(missing()), reason=missing())]


def test_a_node_that_takes_no_job_is_found(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    cluster = Cluster(tmp_path_factory.mktemp("links"))  # short: slurmstepd's socket is below it
    try:
        monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
        for node in ("inference0", "inference1"):
            assert SlurmNodes().move(node, "training")
        nodes = ["training0", "training1", "inference0", "inference1"]
        options = ["--partition", "training", "--seconds", "0.05", "--share", "0.01", "--json"]
        assert main(["mind", "links", *nodes, *options]) == 0
        healthy = json.loads(capsys.readouterr().out)
        assert healthy["usual_gbs"] > 0 and healthy["rounds"] == 2 and healthy["tests"] == 3
        cluster.kill("inference0")
        assert main(["mind", "links", *nodes, *options]) == 1
        found = json.loads(capsys.readouterr().out)
        assert found["nodes"] == ["inference0"] and found["links"] == []
    finally:
        cluster.stop()
