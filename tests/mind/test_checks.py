"""Health checks: what each finds on a machine made of files, and that one that hangs or dies says nothing of a node."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from stepvideo.errors import ConfigError
from stepvideo.mind.checks import devices, system
from stepvideo.mind.checks.host import Expected, Host
from stepvideo.mind.checks.result import Result, Status, fail, ok, verdict
from stepvideo.mind.checks.run import CHECKS, Check, chosen, run
from stepvideo.mind.faults import CATALOGUE
from stepvideo.mind.node import check


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., Host]:
    """machine({"proc/loadavg": text}, nvml) → a host that sees these files in place of its own."""

    def make(files: dict[str, str] | None = None, nvml: Any = None) -> Host:
        for name, text in (files or {}).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return Host("node1", tmp_path, nvml)

    return make


def only(found: Iterable[Result]) -> Result:
    (result,) = found
    return result


# ---------------------------------------------------------------------------------------------------------- the runner


def forever(host: Host, expected: Expected) -> Iterable[Result]:
    subprocess.Popen(["sleep", "600"]).wait()
    return []


def dies(host: Host, expected: Expected) -> Iterable[Result]:
    os._exit(3)


def breaks(host: Host, expected: Expected) -> Iterable[Result]:
    raise OSError("no such thing")


def test_one_that_hangs_is_killed_with_what_it_started_and_the_others_are_heard(machine) -> None:
    checks = [Check("hangs", forever, timeout_s=0.5), Check("dies", dies), Check("breaks", breaks)]
    began = time.monotonic()
    found = run([*checks, CHECKS["memory"]], machine(), Expected())
    assert time.monotonic() - began < 5
    assert [r.check for r in found] == ["hangs", "dies", "breaks", "memory"]
    assert [r.status for r in found[:3]] == [Status.UNKNOWN] * 3 and found[3].status == Status.OK
    assert (
        "no answer within 0.5 s" in found[0].detail and "died" in found[1].detail and "no such thing" in found[2].detail
    )
    assert all(r.unsure for r in found[:3])
    left = subprocess.run(["ps", "-eo", "ppid,args"], capture_output=True, text=True).stdout
    assert f"{os.getpid()} sleep 600" not in left and "1 sleep 600" not in left


def test_what_cannot_say_decides_nothing() -> None:
    unsure = Result("x", Status.UNKNOWN, unsure=True)
    absent = Result("x", Status.UNKNOWN)
    bad = fail("x", "", "DISK_FULL", "")
    assert verdict([ok("a"), absent]) is True
    assert verdict([ok("a"), unsure]) is None and verdict([]) is None
    assert verdict([unsure, bad]) is False


def test_every_check_runs_here_and_what_is_unknown_is_asked_by_name(machine, tmp_path: Path) -> None:
    found = check(chosen([]), Host("node1"), Expected(shared=str(tmp_path)))
    assert {r.check.split()[0] for r in found} >= {"disk", "memory", "limits", "clock", "load", "leftovers"}
    assert not [str(r) for r in found if r.status == Status.FAIL or r.unsure]
    with pytest.raises(ConfigError, match="no check memry; there are disks"):
        chosen(["memry"])


def test_a_health_program_starts_without_torch_and_takes_a_fraction_of_a_second() -> None:
    code = "import resource, sys; from stepvideo.mind import command, node, node_command\n"
    code += "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    code += "print(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))"
    best = min(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout) for _ in "123"
    )
    assert best < 0.4  # CPU seconds


# ---------------------------------------------------------------------------------------------------------- the checks


def test_the_kernels_log(machine) -> None:
    log = "6,1,5,-;eth0: link is down\n SUBSYSTEM=net\n4,2,9,-;Out of memory: Killed process 7 (python)\n"
    assert only(system.kernel(machine({"dev/kmsg": log}), Expected())).status == Status.OK
    xid = "3,3,10,-;NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus\n"
    hung = "3,4,11,-;INFO: task python:77 blocked for more than 120 seconds.\n"
    lost, waits = system.kernel(machine({"dev/kmsg": log + xid + hung}), Expected())
    assert (lost.status, lost.fault) == (Status.FAIL, "GPU_LOST") and "scontrol reboot" in lost.fix
    assert waits.status == Status.WARN and "1 × INFO: task" in waits.detail


def test_memory_that_is_missing(machine) -> None:
    host = machine({"proc/meminfo": "MemTotal:       1000000000 kB\nMemFree: 1 kB\n"})
    assert only(system.memory(host, Expected(memory_gb=1030))).status == Status.OK
    found = only(system.memory(host, Expected(memory_gb=2048)))
    assert found.fault == "MACHINE_CHECK" and "1024 of 2048 GB" in found.detail


def test_disks_and_mounts(machine) -> None:
    info = "1 0 8:1 / / rw - ext4 d rw\n2 1 8:2 / /data ro - ext4 d ro\n3 1 0:9 / /tmp rw - nfs s rw\n"
    host = machine({"proc/self/mountinfo": info, "data/x": ""})
    found = {r.check: r for r in system.disks(host, Expected(disks=("/data", "/", "/nowhere"), disk_free=0.0))}
    assert found["disk /data"].fault == "DISK_ERROR" and "remount" in found["disk /data"].fix
    assert found["disk /"].status == Status.OK and found["disk /nowhere"].status == Status.UNKNOWN
    disk = os.statvfs("/")
    free = min(disk.f_bavail / disk.f_blocks, disk.f_favail / disk.f_files if disk.f_files else 1.0)
    for share, status in ((0.5, Status.OK), (1.5, Status.WARN), (3.0, Status.FAIL)):
        assert only(system.disks(host, Expected(disks=("/",), disk_free=share * free))).status == status
    there, absent = system.mounts(host, Expected(mounts=("/tmp", "/models")))
    assert there.status == Status.OK and absent.status == Status.FAIL and absent.detail == "not mounted"


def test_limits_load_and_clock(machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = machine({"proc/sys/fs/file-nr": "950 0 1000\n", "proc/loadavg": "999.0 1 1 1/1 1\n"})
    assert "950 of 1000" in only(system.limits(host, Expected())).detail
    assert only(system.load(host, Expected())).fault == "SLOW_NODE"
    shared = Expected(shared=str(tmp_path))
    assert only(system.clock(host, shared)).status == Status.OK
    real = time.time
    monkeypatch.setattr(system.time, "time", lambda: real() - 60)
    skewed = only(system.clock(host, shared))
    assert skewed.fault == "CLOCK_SKEW" and skewed.detail.startswith(("59", "60"))
    assert not list(tmp_path.glob(".clock*"))


def test_processes_of_jobs_that_ended(machine) -> None:
    environment = {"SLURMD_NODENAME": "node1", "SLURM_JOB_ID": "77777", "PATH": os.environ["PATH"]}
    process = subprocess.Popen(["sleep", "60"], env=environment)
    try:
        deadline = time.monotonic() + 60
        while (found := only(system.leftovers(machine(), Expected()))).status == Status.OK:  # until it has exec'ed
            assert time.monotonic() < deadline
        assert found.status == Status.WARN and "1 of job 77777" in found.detail
    finally:
        process.kill()
        process.wait()


def test_ports(machine) -> None:
    files = {
        "sys/class/infiniband/mlx5_0/ports/1/state": "4: ACTIVE\n",
        "sys/class/infiniband/mlx5_0/ports/1/rate": "400 Gb/sec (4X NDR)\n",
        "sys/class/infiniband/mlx5_1/ports/1/state": "1: DOWN\n",
        "sys/class/infiniband/mlx5_1/ports/1/rate": "400 Gb/sec (4X NDR)\n",
        "sys/class/infiniband/mlx5_2/ports/1/state": "4: ACTIVE\n",
        "sys/class/infiniband/mlx5_2/ports/1/rate": "200 Gb/sec (2X NDR)\n",
        "sys/class/net/eth9/operstate": "up\n",
        "sys/class/net/eth9/speed": "25000\n",
    }
    rates = {**{f"mlx5_{i}/1": 400.0 for i in range(4)}, "eth9": 25.0}
    found = list(devices.ports(machine(files), Expected(ports=rates)))
    assert [r.fault for r in found] == ["", "LINK_DOWN", "LINK_DOWN", "NIC_LOST", ""]
    assert "200 of 400 Gb/s" in found[2].detail


class Nvml:
    """As pynvml answers for GPUs of these readings."""

    class NVMLError(Exception):
        value = 999

    NVML_ERROR_GPU_IS_LOST = 15
    NVML_MEMORY_ERROR_TYPE_CORRECTED, NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 0, 1

    def __init__(self, *gpus: dict[str, Any]) -> None:
        healthy = {"GetTotalEccErrors": [0, 0], "GetCurrPcieLinkWidth": 16, "GetMaxPcieLinkWidth": 16, "links": 18}
        healthy |= {"GetTemperature": 60, "GetRemappedRows": (0, 0, 0, 0), "GetCurrentClocksThrottleReasons": 0}
        self._gpus = [{**healthy, **g} for g in gpus]

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return len(self._gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetTotalEccErrors(self, handle: int, kind: int, _: Any) -> int:
        return self._gpus[handle]["GetTotalEccErrors"][kind]

    def nvmlDeviceGetNvLinkState(self, handle: int, link: int) -> int:
        return int(link < self._gpus[handle]["links"])

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            return 0  # a constant

        def call(*arguments: Any) -> Any:
            wanted = name.removeprefix("nvmlDevice")
            if not arguments or wanted not in self._gpus[arguments[0]]:
                raise self.NVMLError
            return self._gpus[arguments[0]][wanted]

        return call


def test_gpus_in_order(machine) -> None:
    found = list(devices.gpus(machine(nvml=Nvml({}, {})), Expected(gpus=2, nvlinks=18)))
    assert {r.status for r in found} == {Status.OK}
    assert {"gpu_count", "gpu_ecc", "gpu_rows", "gpu_pcie", "gpu_clocks", "gpu_nvlink"} <= {r.check for r in found}


@pytest.mark.parametrize(
    ("reading", "fault", "status"),
    [
        ({"GetTotalEccErrors": [0, 3]}, "GPU_DBE_ERROR", Status.FAIL),
        ({"GetTotalEccErrors": [99999, 0]}, "GPU_ECC_SINGLE_BIT", Status.WARN),
        ({"GetRemappedRows": (1, 1, 0, 1)}, "GPU_REMAP_FAILED", Status.FAIL),
        ({"GetCurrentClocksThrottleReasons": 0x40}, "GPU_THROTTLED", Status.WARN),
        ({"GetCurrPcieLinkWidth": 8}, "PCIE_DEGRADED", Status.WARN),
        ({"GetTemperature": 93}, "GPU_THROTTLED", Status.WARN),
        ({"links": 17}, "NVLINK_DOWN", Status.FAIL),
    ],
)
def test_a_gpu_with_a_fault(machine, reading: dict[str, Any], fault: str, status: Status) -> None:
    found = list(devices.gpus(machine(nvml=Nvml({}, reading)), Expected(gpus=2, nvlinks=18)))
    bad = [r for r in found if r.status != Status.OK]
    assert [(r.fault, r.status) for r in bad] == [(fault, status)] and "GPU 1" in bad[0].detail and bad[0].fix


def test_a_gpu_that_is_missing_and_a_machine_that_has_none(machine) -> None:
    missing = only(devices.gpus(machine(nvml=Nvml()), Expected(gpus=8)))
    assert missing.status == Status.FAIL and missing.fault == "GPU_LOST" and "0 of 8" in missing.detail
    assert only(devices.gpus(machine(nvml=Nvml()), Expected())).status == Status.UNKNOWN


def test_what_a_node_should_have() -> None:
    data = {"gpus": 8, "nodes": {"cpu*": {"gpus": 0}, "cpu7": {"mounts": ["/data"]}}}
    assert Expected.of_json(data, "gpu1").gpus == 8 and Expected.of_json(data, "cpu1").gpus == 0
    assert Expected.of_json(data, "cpu7").mounts == ("/data",)
    with pytest.raises(ConfigError, match="no such key: gpu; known: .*gpus"):
        Expected.of_json({"gpu": 8}, "x")


def test_faults_that_checks_name_are_in_the_catalogue() -> None:
    assert set(devices.NAMED) <= set(CATALOGUE)


@pytest.mark.gpu
def test_this_machines_gpus() -> None:
    found = run([CHECKS["gpus"]], Host("here"), Expected(gpus=1))
    assert {r.check for r in found} >= {"gpu_count", "gpu_ecc", "gpu_temperature"} and verdict(found) is True
