"""A Slurm with accounting (slurmdbd, MariaDB) that is lost and comes back: states stay right, restarts are known."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import Cluster, missing
from slurm_stages import Driver, clients, digest, stage, steps_twice, wait_for  # noqa: F401

from stepvideo.errors import ConfigError
from tasks import slurm_queue
from tasks.slurm_accounts import incarnations
from tasks.slurm_doctor import scripts

TOOLS = [t for t in ("slurmdbd", "mariadbd", "mariadb-install-db") if not shutil.which(t, path="/usr/sbin:/usr/bin")]
pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.skipif(bool(TOOLS), reason="needs the Debian packages slurmdbd mariadb-server"),
    pytest.mark.usefixtures("clients"),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SLURM_ACCOUNTING", "1")
        cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    yield cluster
    cluster.stop()


def test_restarts_and_effective_time(slurm, stage) -> None:  # noqa: F811
    """One row an incarnation: requeued, its node dead, completed."""
    expected = digest(stage("here", steps=60))
    driver = Driver(stage("there", steps=60, step_s=0.2), partition="training").until(4)
    name = driver.name_of_job
    slurm.ask("scontrol", "requeue", dict(row.split("|") for row in slurm.queue("%j|%A"))[name])
    wait_for(lambda: driver.starts() == 2)
    node = dict(row.split("|") for row in slurm.queue("%j|%N"))[name]
    time.sleep(2)
    slurm.kill(node)
    wait_for(lambda: "down" in slurm.state(node))
    slurm.revive(node)
    assert driver.outcome().artifact.digest == expected and steps_twice(driver.dir) <= 2
    wait_for(lambda: [i.state for i in incarnations(name)][-1:] == ["COMPLETED"], timeout=20)
    rows = incarnations(name)
    assert [i.state for i in rows] == ["REQUEUED", "NODE_FAIL", "COMPLETED"]
    assert rows[1].nodes == node
    at_work = sum(i.seconds for i in rows)
    assert 12 <= at_work <= rows[-1].end - rows[0].start  # 60 steps of 0.2 s; between incarnations it waits


def test_outages_of_accounting_and_controller(slurm, stage) -> None:  # noqa: F811
    expected = digest(stage("here", steps=80))
    driver = Driver(stage("there", steps=80, step_s=0.2)).until(30)
    slurm.kill("slurmdbd")
    time.sleep(3)
    assert driver.is_alive() and slurm_queue.squeue() and slurm_queue._sacct(driver.name_of_job) == []
    slurm.kill("controller")
    time.sleep(3)
    assert driver.is_alive() and slurm_queue.squeue() is None
    slurm.revive("slurmdbd")  # first: a controller that has not saved what it knows of it does not start without
    wait_for(lambda: slurm_queue.ask("sacctmgr", "-n", "list", "cluster") is not None, timeout=30)
    slurm.revive("controller")
    wait_for(lambda: slurm_queue.squeue() is not None, timeout=30)
    outcome = driver.outcome()
    assert outcome.artifact.digest == expected and outcome.attempts == 1 and driver.starts() == 1


def test_what_squeue_has_forgotten_sacct_knows(slurm, stage, monkeypatch) -> None:  # noqa: F811
    """An administrator cancelled it while no driver was there, long ago."""
    driver = Driver(stage("there", steps=200, step_s=0.2)).until(3)
    name, first = driver.name_of_job, driver.slurm._queue
    monkeypatch.setattr(first, "jobs", lambda *_, **__: None)  # this driver sees nothing of it
    slurm.ask("scancel", f"--name={name}")
    wait_for(lambda: slurm_queue._sacct(name) and slurm_queue._sacct(name)[0].state.startswith("CANCELLED"), timeout=30)
    real = slurm_queue.squeue
    monkeypatch.setattr(slurm_queue, "squeue", lambda: {k: v for k, v in (real() or {}).items() if k != name})
    again = Driver(driver.spec)
    with pytest.raises(Exception, match="was cancelled in Slurm, not by its driver"):
        again.outcome()
    driver.cancel.set()


def test_a_limit_of_the_account_is_told_with_what_to_do(slurm, stage) -> None:  # noqa: F811
    slurm.ask("sacctmgr", "-i", "modify", "user", "root", "set", "MaxSubmitJobs=0")
    try:
        with pytest.raises(ConfigError, match="(?i)assoc.*limit.*the account's or QOS' limit: ask for less"):
            Driver(stage("there")).outcome()
        (check,) = scripts([("fit", {})], Path("/tmp"), {"partition": "training"})
        assert check.status == "missing" and "ask for less" in check.fix
    finally:
        slurm.ask("sacctmgr", "-i", "modify", "user", "root", "set", "MaxSubmitJobs=-1")
    with pytest.raises(ConfigError, match="cluster.slurm.account: `sacctmgr show assoc"):
        Driver(stage("elsewhere"), account="nobodys").outcome()
