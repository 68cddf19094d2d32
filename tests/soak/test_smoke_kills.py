"""kill -9 of the driver, of a job, of both, in the middle of T2VI: the same command ends as an undisturbed run."""

from __future__ import annotations

import os
import signal

import pytest
from whole import Smoke, results

from stepvideo import storage

pytestmark = pytest.mark.soak

STAGE = "t2vi_192.s2"
SETTINGS = ("cluster=local", "stages.t2vi_192.steps=40", "tracking=local")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict:
    return results(Smoke(tmp_path_factory.mktemp("undisturbed"), *SETTINGS).run(until="average"))


def kill_job(directory) -> None:
    os.kill(storage.read_json(directory / "heartbeat.json")["pid"], signal.SIGKILL)


@pytest.mark.parametrize("victims", ["driver", "job", "both"])
@pytest.mark.parametrize("step", [7, 23])
def test_killed_mid_t2vi(undisturbed, tmp_path, victims: str, step: int) -> None:
    smoke = Smoke(tmp_path, *SETTINGS)
    driver = smoke.start("run", "--json", "--until", "average", *smoke.overrides())
    directory = smoke.wait_for_step(STAGE, step, timeout=600)
    if victims != "job":
        driver.kill()
        driver.wait()
    if victims != "driver":
        kill_job(directory)
    if victims == "job":
        driver.communicate(timeout=600)  # the driver starts the job again by itself
    assert results(smoke.run(until="average")) == undisturbed
    smoke.cli("status", "--reap", "--store", str(smoke.store.root))
    import sqlite3

    with sqlite3.connect(smoke.folder / "work" / "mlflow.db") as db:
        assert db.execute("select count(*) from runs where status = 'RUNNING'").fetchone() == (0,)
