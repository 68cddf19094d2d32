"""The `smoke` cascade wholly on a real Slurm, over two partitions, has the digests of the run in one process.

The jobs are forks of a process that has imported what they need: 30 interpreters would take two minutes of processor
time. `tests/soak/test_slurm_smoke.py` has them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import warm_job
from fixtures import TOYS
from rank_pool import shared
from slurm_cluster import Cluster, missing
from whole import Smoke, digests, local_run, uncaptioned

pytestmark = [
    pytest.mark.soak,  # `make test` has tests/integration/test_scheduled_smoke.py, without streaming
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
ON = ["tracking=none", "cluster=slurm", "cluster.snapshot=false", "cluster.concurrency=2", "cluster.slurm.poll_s=0.5"]
TRAINING = "cluster.slurm.stages={vae1: {partition: training}, text: {partition: training}, t2i: {partition: training}}"


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    monkeypatch.setenv("SLURM_CONF", str(made.conf))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TOYS), str(TOYS.parents[1])]))
    yield made
    made.stop()


def test_over_two_partitions_and_streamed(cluster: Cluster, tmp_path: Path, tmp_path_factory) -> None:
    on = [*ON, f"cluster.slurm.python={warm_job.command(shared())}", "cluster.slurm.partition=inference", TRAINING]
    raw = uncaptioned(tmp_path / "raw")
    there = Smoke(tmp_path / "there", f"raw={raw}", *on)
    made = digests(there.run(timeout=3000))
    streamed = there.run("latents=streamed", until="t2vi_192.s1", timeout=1500)
    ran = [row.split("|") for row in cluster.queue("%j|%P|%T")]
    here = digests(local_run(tmp_path_factory).first)
    assert made == here and len(made) > 25
    places = {name.rpartition("-")[0]: place for name, place, _ in ran}
    assert {places[n] for n in ("vae1", "text", "t2i")} == {"training"} and places["t2vi_192.s1"] == "inference"
    assert {state for name, _, state in ran if not name.startswith("producer.")} == {"COMPLETED"}
    for name in ("t2i", "t2vi_192.s1"):  # from producers, which are jobs of their own
        assert not streamed[name]["cached"] and streamed[name]["digest"] == here[name][1]
        assert places[f"producer.{name}"] == "inference"
