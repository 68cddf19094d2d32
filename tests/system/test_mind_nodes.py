"""Nodes in StepMind's care on a real Slurm: a bad one goes and returns, an admin's stays, a broken check does no harm.

HealthCheckProgram reports, a keeper in this process decides, RebootProgram mends what `hosts/NODE` holds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm_cluster import Cluster, missing

from stepvideo.cli import main
from stepvideo.mind.cluster import NodeState
from stepvideo.mind.keeper import Keeper
from stepvideo.mind.nodes import Kind, Record, State
from stepvideo.mind.settings import Folder
from stepvideo.storage import write_json
from tasks.slurm_nodes import SlurmNodes

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]
SETTINGS = {
    "pools": [{"name": "training", "least_score": 0.8}],
    "limits": {"always": 2},
    "policy": {"tries": 3},
    "expected": {"timeout_s": 3.0},
    "stress": "quick",
}
XID = "3,1,1,-;NVRM: Xid (PCI:0000:3b:00): 48, pid=1, An uncorrectable double bit error (DBE) has been detected\n"


class Farm:
    """A cluster, and a keeper that is asked often."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.folder, self.said = cluster, Folder(cluster.folder / "mind"), [""]
        write_json(self.folder.root / "mind.json", SETTINGS)
        self.nodes = SlurmNodes()
        self.keeper = Keeper(self.folder, self.nodes, self.said.append)

    def until(self, what: Callable[[dict[str, Record]], object], timeout: float = 60) -> dict[str, Record]:
        deadline = time.monotonic() + timeout
        while not what(records := self.keeper.tick(time.time())):
            assert time.monotonic() < deadline, ("\n".join(self.said), {n: r.state for n, r in records.items()})
            time.sleep(0.2)
        return records

    def reports(self, node: str, count: int) -> None:
        """So many more of a node."""
        for _ in range(count):
            before = self.folder.report("checks", node).get("id")
            self.until(lambda _, b=before: self.folder.report("checks", node).get("id") != b)

    def host(self, node: str, path: str) -> Path:
        """A file in place of a node's own."""
        file = self.cluster.folder / "hosts" / node / path
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def view(self, node: str):
        return next(n for n in self.nodes.nodes() if n.name == node)


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    cluster = Cluster(tmp_path_factory.mktemp("farm"), health_s=2)
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(cluster.conf)
    made = Farm(cluster)
    assert made.nodes.move("inference1", "buffer")
    made.until(lambda r: len(r) == 4)
    yield made
    cluster.stop()
    if before is None:
        os.environ.pop("SLURM_CONF", None)


@pytest.fixture(autouse=True)
def clients(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(farm.cluster.conf))


def test_a_bad_node_goes_is_replaced_and_comes_back(farm: Farm, record_property: Callable[[str, object], None]) -> None:
    began = time.time()
    farm.host("training0", "dev/kmsg").write_text(XID)
    farm.until(lambda r: r["training0"].state == State.REBOOTING)
    taken = farm.until(lambda r: r["inference1"].state == State.IN_SERVICE)
    assert taken["inference1"].home == "training,urgent"
    assert "uncorrectable double bit" in farm.view("training0").reason
    ran = farm.cluster.ask("srun", "--partition=training", "--nodes=2", "--time=1", "printenv", "SLURMD_NODENAME")
    assert set(ran.split()) == {"training1", "inference1"}

    record = farm.until(lambda r: r["training0"].state == State.BUFFER, timeout=120)["training0"]
    states = [e for e in record.history if e.kind == Kind.STATE]
    wanted = [State.DRAINING, State.REBOOTING, State.CHECKING, State.STRESSING, State.BUFFER]
    assert [e.name for e in states[1:]] == wanted
    kinds = {e.kind: e for e in record.history}
    assert kinds[Kind.ALERT].name == "GPU_DBE_ERROR" and kinds[Kind.REPAIR].seconds > 1
    assert kinds[Kind.STRESS].ok and kinds[Kind.STRESS].seconds > 0.1
    farm.until(lambda _: farm.view("training0").usable)
    assert farm.view("training0").partitions == ("buffer",)
    for e in states[1:]:
        record_property(e.name, round(e.time - began, 2))
    print({e.name: round(e.time - began, 2) for e in states[1:]})


def test_a_node_that_an_admin_drained_is_left_alone(farm: Farm) -> None:
    farm.cluster.ask("scontrol", "update", "nodename=training1", "state=drain", "reason=fan, by Bo")
    kmsg = farm.host("training1", "dev/kmsg")
    kmsg.write_text(XID)
    farm.until(lambda r: r["training1"].state == State.ADMIN)
    farm.reports("training1", 2)
    node = farm.view("training1")
    assert node.reason == "fan, by Bo" and node.state == NodeState.DRAINED
    assert not farm.nodes.resume("training1") and not farm.nodes.reboot("training1", "x")
    kmsg.unlink()
    farm.reports("training1", 1)
    assert main(["mind", "reserve", "training1", "--minutes", "5"]) == 0
    assert "Nodes=training1" in farm.cluster.ask("scontrol", "show", "reservation", "stepvideo")
    assert main(["mind", "reserve", "--release"]) == 0
    farm.cluster.ask("scontrol", "update", "nodename=training1", "state=resume")
    farm.until(lambda r: r["training1"].state == State.IN_SERVICE)


def test_a_check_that_hangs_drains_nobody(farm: Farm) -> None:
    meminfo = farm.host("training1", "proc/meminfo")
    os.mkfifo(meminfo)  # whoever opens it waits

    def unsure(_: object) -> bool:
        return any(r["unsure"] for r in farm.folder.report("checks", "training1")["results"])

    records = farm.until(unsure)
    assert records["training1"].state == State.IN_SERVICE and farm.view("training1").usable
    meminfo.unlink()
    farm.until(lambda _: not unsure(_))


def test_a_check_that_fails_everywhere_opens_the_breaker(farm: Farm) -> None:
    rest = ["training1", "inference0", "inference1"]
    for node in rest:
        farm.host(node, "dev/kmsg").write_text(XID)
    farm.until(lambda _: farm.folder.breaker().open)
    for node in rest:
        farm.reports(node, 1)
    records = farm.folder.book.all()
    serving = [n for n in rest if records[n].state in (State.IN_SERVICE, State.BUFFER)]
    assert len(serving) == 2, {n: r.state for n, r in records.items()}  # one more of two is allowed
    assert all(farm.view(n).usable for n in serving)
    assert "look at the check" in farm.folder.breaker().open and any("close-breaker" in s for s in farm.said)


def test_the_command_keeps_nodes_and_tells_what_a_person_must_do(
    farm: Farm, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(farm.folder.root)
    assert main(["mind", "watch", "--folder", folder, "--rounds", "2", "--every", "0.1"]) == 0
    assert main(["mind", "status", "--folder", folder, "--check"]) == 1
    said = capsys.readouterr().out
    assert "mind admit --close-breaker" in said and "inference0" in said
    assert main(["mind", "admit", "--folder", folder, "--close-breaker"]) == 0 and not farm.folder.breaker().open
