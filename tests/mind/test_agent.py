"""What agents read, write and make up, and what becomes of it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stepvideo.mind.agent import LOG_BYTES, Agent
from stepvideo.mind.inject import Injection
from stepvideo.mind.sensors.gpus import Gpus
from stepvideo.mind.sensors.kernel import KEEP_S, KernelLog
from stepvideo.mind.sensors.ports import Ports
from stepvideo.mind.sensors.processes import Processes
from stepvideo.mind.sensors.rate import Rate
from stepvideo.mind.snapshot import Snapshots


def test_an_agent_takes_less_than_a_hundredth_of_a_core(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "n1")
    for _ in range(5):
        agent.write()
    began = time.process_time()
    for _ in range(40):
        agent.write()
    assert (time.process_time() - began) / 40 < 0.01  # s, once a second
    snapshot = json.loads((tmp_path / "agents" / "n1.json").read_text())
    assert snapshot["node"] == "n1" and snapshot["seq"] == 45
    assert 0 <= snapshot["cpu"] <= 1 and 0 < snapshot["memory_free"] < 1 and snapshot["disk_free"]["/"] > 0
    assert sorted(p.name for p in (tmp_path / "agents").iterdir()) == ["n1.json", "n1.jsonl"]


def test_the_log_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "n1.jsonl").write_bytes(bytes(LOG_BYTES + 1))
    Agent(tmp_path, "n1", sensors=[]).write()
    assert (tmp_path / "agents" / "n1.jsonl").stat().st_size < 1000 and (
        tmp_path / "agents" / "n1.jsonl.1"
    ).stat().st_size == LOG_BYTES + 1


def test_a_file_system_that_is_full_or_gone_does_not_end_an_agent(tmp_path: Path) -> None:
    agent = Agent(tmp_path / "shared", "n1", sensors=[])
    (tmp_path / "shared" / "agents").rmdir()
    agent.write()
    (tmp_path / "shared" / "agents").mkdir()
    agent.write()
    assert (tmp_path / "shared" / "agents" / "n1.json").exists()


def test_rates_know_no_growth_of_counters_that_were_set_back() -> None:
    rate = Rate()
    assert [rate(t, n) for t, n in ((0, 100), (1, 300), (2, 50), (2, 60), (4, 260))] == [None, 200, None, None, 100]


def process(root: Path, pid: int, job: str, node: str, state: str = "S", cpu: int = 0, io: int = 0) -> None:
    folder = root / str(pid)
    folder.mkdir(exist_ok=True)
    (folder / "environ").write_bytes(f"A=1\0SLURM_JOB_ID={job}\0SLURMD_NODENAME={node}\0".encode())
    (folder / "stat").write_text(f"{pid} (a (b) c) {state} 1 1 1 0 -1 0 0 0 0 0 {cpu} {cpu} 0 0 20 0 1 0 0")
    (folder / "io").write_text(f"rchar: {io}\nwchar: {io}\nsyscr: 7\n")


def test_processes_belong_to_jobs_and_nodes(tmp_path: Path) -> None:
    (tmp_path / "uptime").touch()
    process(tmp_path, 10, "7", "n1")
    process(tmp_path, 11, "7", "n1", "T")
    process(tmp_path, 12, "7", "n2")
    process(tmp_path, 13, "8", "n1", "Z")
    sensor = Processes("n1", tmp_path)
    assert sensor.read(0.0) == {"jobs": {"7": {"processes": 2, "stopped": 1, "cpu": None, "io": None}}}
    process(tmp_path, 10, "7", "n1", cpu=100, io=500)
    process(tmp_path, 13, "8", "n1")  # a shell became the program
    seen = sensor.read(2.0)["jobs"]
    assert seen["7"] == {"processes": 2, "stopped": 1, "cpu": pytest.approx(1.0), "io": 500}
    assert seen["8"]["processes"] == 1


def test_ports_that_were_active_once_are_missed(tmp_path: Path) -> None:
    port = tmp_path / "mlx5_0" / "ports" / "1"
    (port / "counters").mkdir(parents=True)

    def now(state: str, words: int, downs: int) -> None:
        (port / "state").write_text(f"{state}\n")
        for name, value in (("port_xmit_data", words), ("port_rcv_data", words), ("link_downed", downs)):
            (port / "counters" / name).write_text(f"{value}\n")

    now("4: ACTIVE", 0, 3)
    ports = Ports(tmp_path)
    assert ports.read(0.0)["rdma"]["mlx5_0/1"] == {"state": "ACTIVE", "was_active": True, "downs": 0, "traffic": None}
    now("1: DOWN", 1000, 5)
    assert ports.read(2.0)["rdma"]["mlx5_0/1"] == {"state": "DOWN", "was_active": True, "downs": 2, "traffic": 4000}
    assert Ports(tmp_path / "nothing").read(0.0) == {}


class Nvml:
    """As pynvml answers, for two GPUs of which one is lost."""

    NVML_ERROR_GPU_IS_LOST = 15
    NVML_TEMPERATURE_GPU = NVML_CLOCK_SM = NVML_MEMORY_ERROR_TYPE_CORRECTED = NVML_VOLATILE_ECC = 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    nvmlEventTypeXidCriticalError = 8

    class NVMLError(Exception):
        def __init__(self, value: int) -> None:
            self.value = value

    def __init__(self) -> None:
        self.events = [79]

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlEventSetCreate(self) -> str:
        return "events"

    def nvmlDeviceRegisterEvents(self, *_: Any) -> None: ...

    def nvmlEventSetWait_v2(self, *_: Any) -> Any:
        if not self.events:
            raise self.NVMLError(10)
        return SimpleNamespace(eventData=self.events.pop())

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        if handle:
            raise self.NVMLError(self.NVML_ERROR_GPU_IS_LOST)
        return 652_000

    def nvmlDeviceGetTotalEccErrors(self, handle: int, kind: int, which: int) -> int:
        return 5 * (1 - kind)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:
        return 0x4 | 0x40

    def nvmlDeviceGetRemappedRows(self, handle: int) -> list[int]:
        return [1, 2, 1, 0]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("nvmlDevice"):
            return self._unsupported
        raise AttributeError(name)

    def _unsupported(self, *_: Any) -> None:
        raise self.NVMLError(3)


def test_gpus_tell_what_they_can(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "n1", sensors=[Gpus(Nvml())])
    snapshot = agent.read()
    assert snapshot["gpus"][0] == {
        **{"index": 0, "power": 652.0, "throttle": ["hw_thermal"], "ecc_corrected": 5, "ecc_uncorrected": 0},
        **{"remapped_rows": 3, "remap_pending": 1, "remap_failed": 0},
    }
    assert snapshot["gpus"][1]["lost"] and "power" not in snapshot["gpus"][1] and "xids" not in snapshot
    assert agent.kernel.read(0.0)["kernel"][0]["line"] == "NVRM: Xid (NVML): 79"


def test_the_kernels_log_is_kept_for_minutes_and_only_what_tells_a_fault(tmp_path: Path) -> None:
    log = KernelLog(tmp_path / "nothing")
    log.add(0.0, "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.")
    log.add(0.0, "usb 1-1: new device")
    assert [k["age_s"] for k in log.read(5.0)["kernel"]] == [5.0]
    assert log.read(KEEP_S + 1)["kernel"] == []


def test_injection_changes_what_is_said_and_only_if_asked_for(tmp_path: Path) -> None:
    made_up = tmp_path / "inject.json"
    said = {"node": "n1", "gpus": [{"index": 0, "power": 600.0}], "jobs": {"7": {"cpu": 0.9, "processes": 3}}}
    injection = Injection(made_up)
    assert injection.apply(said) == said
    made_up.write_text(
        '{"n1": {"gpu_power": 80, "job": {"cpu": 0}, "kernel": ["NVRM: Xid (x): 79"]}, "*": {"load": 3}}'
    )
    changed = injection.apply(said)
    assert changed["gpus"][0]["power"] == 80 and changed["jobs"]["7"] == {"cpu": 0, "processes": 3}
    assert changed["kernel"][0]["line"] == "NVRM: Xid (x): 79" and changed["load"] == 3
    made_up.write_text('{"n1": {"mute": true}}')
    Agent(tmp_path, "n1", sensors=[], injection=injection).write()
    assert not (tmp_path / "agents" / "n1.json").exists()
    Agent(tmp_path, "n1", sensors=[]).write()
    assert (tmp_path / "agents" / "n1.json").exists()


def test_a_sensor_that_fails_leaves_what_the_others_see(tmp_path: Path) -> None:
    class Fails:
        def read(self, now: float) -> dict[str, Any]:
            raise OSError(5, "Input/output error")

    class Sees:
        def read(self, now: float) -> dict[str, Any]:
            return {"load": 1.0}

    seen = Agent(tmp_path, "n1", sensors=[Fails(), Sees()]).read()
    assert seen["load"] == 1.0 and seen["blind"] == ["Fails: OSError(5, 'Input/output error')"]


def test_ages_are_of_the_observers_clock(tmp_path: Path) -> None:
    """A snapshot that lay there before anybody looked is no sign of an agent at work."""
    seen = Snapshots(tmp_path)
    (tmp_path / "agents").mkdir()
    assert seen.read("n1", 0.0, 0.0) == ({}, float("inf"))

    def write(seq: int, wall: float = 1e9, **more: Any) -> None:
        (tmp_path / "agents" / "n1.json").write_text(
            json.dumps({"node": "n1", "agent": "x", "seq": seq, "time": wall, **more})
        )

    write(1)
    assert seen.read("n1", 100.0, 1e9)[1] == float("inf")
    write(2)
    assert seen.read("n1", 101.0, 1e9)[1] == 0
    assert seen.read("n1", 105.0, 1e9 + 4)[1] == 4
    write(3, wall=1e9 - 3000, jobs={"7": {"processes": 2, "stopped": 1, "cpu": 0.5, "io": 10.0}}, network=5.0)
    view = seen.view("n1", "7", 106.0, 1e9)
    assert (view.processes, view.stopped, view.gauges) == (2, True, {"compute": 0.5, "traffic": 5.0, "storage": 10.0})
    assert view.findings == ()  # its clock or the observer's: nobody knows
    assert seen.view("n1", "8", 106.0, 1e9).processes == 0


@pytest.mark.parametrize(("wrong", "found"), [({"n1"}, {"n1"}), ({"n1", "n2", "n3"}, set())])
def test_a_clock_is_wrong_if_most_differ_from_it(tmp_path: Path, wrong: set[str], found: set[str]) -> None:
    seen, nodes = Snapshots(tmp_path), ("n1", "n2", "n3")
    (tmp_path / "agents").mkdir()
    for seq in (1, 2, 3):
        for node in nodes:
            said = {"node": node, "agent": "x", "seq": seq, "time": 1e9 + seq + 3000 * (node in wrong)}
            (tmp_path / "agents" / f"{node}.json").write_text(json.dumps(said))
        views = [seen.view(node, "7", float(seq), 1e9 + seq) for node in nodes]
    assert {v.name for v in views if [f.name for f in v.findings] == ["CLOCK_SKEW"]} == found


def test_the_power_of_gpus_goes_before_the_time_of_cpus(tmp_path: Path) -> None:
    seen = Snapshots(tmp_path)
    (tmp_path / "agents").mkdir()
    for seq in (1, 2):
        gpus = [{"index": i, "power": 500.0 + 100 * i} for i in range(3)]
        port = {"state": "ACTIVE", "was_active": True, "downs": 0, "traffic": 3e9}
        said = {"node": "n1", "agent": "x", "seq": seq, "time": 0.0, "gpus": gpus, "rdma": {"mlx5_0/1": port}}
        (tmp_path / "agents" / "n1.json").write_text(json.dumps(said | {"network": 10.0}))
        view = seen.view("n1", "7", float(seq), 0.0)
    assert view.gauges == {"compute": 600.0, "traffic": 3e9, "storage": None}
