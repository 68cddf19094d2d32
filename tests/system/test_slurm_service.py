"""The driver as a systemd service whose process is killed again and again: the service ends, the jobs were one each."""

from __future__ import annotations

import configparser
import os
import shlex
import signal
import subprocess
import time

import pytest
from mini import Mini
from slurm_cluster import missing

from stepvideo.storage import read_json

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.usefixtures("clients"),
]
ON = ["cluster=slurm", "cluster.snapshot=false", "cluster.slurm.poll_s=0.5", "cluster.slurm.warn_s=50"]
SETTINGS = [*ON, "stages.fit.step_s=0.2", "stages.fit.steps=25"]


class Supervisor:
    """What systemd does with the [Service] of a unit, as far as ours uses it."""

    def __init__(self, unit: str) -> None:
        parser = configparser.RawConfigParser(strict=False)
        parser.optionxform = str  # type: ignore[method-assign,assignment]
        parser.read_string(unit)
        self.unit = dict(parser["Service"])
        self.starts = 0

    def start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        return subprocess.Popen(shlex.split(self.unit["ExecStart"]), cwd=self.unit["WorkingDirectory"], env=os.environ)

    def again(self, code: int) -> bool:
        assert self.unit["Restart"] == "on-failure"
        return code != 0 and str(code) not in self.unit["RestartPreventExitStatus"].split()


def test_a_service_that_is_killed_ends_as_an_undisturbed_one(slurm, mini: Mini, capsys) -> None:
    rows = mini.run(f"store={mini.folder / 'here'}", "stages.fit.steps=25")
    expected = {name: row["digest"] for name, row in rows.items()}
    code, unit, _ = mini.cli("service", *mini.args(*SETTINGS))
    assert code == 0 and f'Environment="SLURM_CONF={slurm.conf}"' in unit
    supervisor, before = Supervisor(unit), len(slurm.queue())
    process = supervisor.start()
    for step in (2, 12):
        mini.wait_for_step("fit", step)
        process.send_signal(getattr(signal, supervisor.unit["KillSignal"]))
        assert supervisor.again(process.wait())
        time.sleep(0.5)
        process = supervisor.start()
    assert not supervisor.again(process.wait(60)) and supervisor.starts == 3
    made = {p.parent.parent.name: read_json(p)["digest"] for p in mini.store.root.glob("*/*/manifest.json")}
    assert made == expected and len(slurm.queue()) == before + 3
    assert not supervisor.again(1) and supervisor.again(-9)


def test_jobs_without_a_driver_are_cancelled_by_command(slurm, mini: Mini) -> None:
    process = mini.process(*SETTINGS)
    mini.wait_for_step("fit", 2)
    process.kill()
    process.wait()
    code, said, _ = mini.cli("cancel", "--store", str(mini.store.root))
    assert code == 0 and said.startswith("fit-") and "cancelled" in said
    assert "No jobs" not in said and not slurm.ask("squeue", "--noheader", "--states=PENDING,RUNNING")


def test_a_unit_has_nothing_that_systemd_would_expand(mini: Mini) -> None:
    code, unit, _ = mini.cli("service", *mini.args("cluster=slurm", "cluster.slurm.setup=['cd $HOME/100%']"))
    assert code == 0 and "cd $$HOME/100%%" in Supervisor(unit).unit["ExecStart"]


def test_a_service_of_a_wrong_setting_is_not_written(mini: Mini) -> None:
    code, said, err = mini.cli("service", *mini.args("cluster=slurm", "cluster.slurm.partion=x"))
    assert code == 2 and not said and "partion" in err
