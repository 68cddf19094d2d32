"""Checks of GPUs, by NVML, and of network ports, by sysfs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stepvideo.mind.checks.host import Expected, Host
from stepvideo.mind.checks.result import Result, absent, fail, of_finding, ok, warn
from stepvideo.mind.classify import from_snapshot
from stepvideo.mind.sensors.gpus import Gpus

NAMED = {
    "GPU_LOST": "gpu_bus",
    "GPU_DBE_ERROR": "gpu_ecc",
    "GPU_ECC_SINGLE_BIT": "gpu_ecc",
    "GPU_REMAP_FAILED": "gpu_rows",
    "GPU_REMAP_PENDING": "gpu_rows",
    "GPU_THROTTLED": "gpu_clocks",
    "PCIE_DEGRADED": "gpu_pcie",
}
"""Fault → the check that finds it."""


def gpus(host: Host, expected: Expected) -> Iterator[Result]:
    """Count, ECC, remapped rows, throttling, PCIe width, temperature, clocks, NVLink."""
    rows: list[dict[str, Any]] = Gpus(host.nvml).read(0.0).get("gpus", [])
    if len(rows) < expected.gpus:
        detail = f"{len(rows)} of {expected.gpus} GPUs"
        yield fail("gpu_count", detail, "GPU_LOST", "nvidia-smi; lspci | grep -i nvidia; then reboot")
    else:
        yield ok("gpu_count", str(len(rows))) if rows else absent("gpu_count", "a GPU that NVML knows")
    if not rows:
        return
    found = [of_finding(NAMED.get(f.name, "gpus"), f) for f in from_snapshot({"gpus": rows})]
    yield from found
    yield from (ok(name) for name in sorted(set(NAMED.values()) - {r.check for r in found}))
    hot = [g for g in rows if g.get("temperature", 0) > expected.celsius]
    if hot:
        detail = f"GPU {hot[0]['index']}: {hot[0]['temperature']} °C"
        yield warn("gpu_temperature", detail, "GPU_THROTTLED", "nvidia-smi -q -d TEMPERATURE; look at fans and filters")
    elif any("temperature" in g for g in rows):
        yield ok("gpu_temperature", f"{max(g.get('temperature', 0) for g in rows)} °C")
    slow = [g for g in rows if g.get("busy", 0) > 0.9 and g.get("clock", 1e9) < expected.gpu_clock_mhz]
    if slow:
        detail = f"GPU {slow[0]['index']}: {slow[0]['clock']} MHz under load"
        yield warn("gpu_clocks", detail, "GPU_THROTTLED", "nvidia-smi -q -d CLOCK,PERFORMANCE")
    yield from _nvlinks(host, expected, len(rows))


def _nvlinks(host: Host, expected: Expected, count: int) -> Iterator[Result]:
    if not expected.nvlinks:
        return
    n = host.nvml
    if n is None:
        import pynvml as n
    for i in range(count):
        handle, up = n.nvmlDeviceGetHandleByIndex(i), 0
        for link in range(expected.nvlinks):
            try:
                up += n.nvmlDeviceGetNvLinkState(handle, link) == 1
            except n.NVMLError:
                break
        if up < expected.nvlinks:
            detail = f"GPU {i}: {up} of {expected.nvlinks} links"
            yield fail("gpu_nvlink", detail, "NVLINK_DOWN", "nvidia-smi nvlink -s; look at the baseboard")
            return
    yield ok("gpu_nvlink", f"{expected.nvlinks} a GPU")


def ports(host: Host, expected: Expected) -> Iterator[Result]:
    """State and rate of each port that should be there."""
    if not expected.ports:
        yield absent("ports", "`ports` with their rates")
    for port, rate in expected.ports.items():
        name = f"port {port}"
        try:
            up, found = _infiniband(host, port) if "/" in port else _interface(host, port)
        except (OSError, ValueError):
            yield fail(name, "is not there", "NIC_LOST", f"lspci | grep -i ethernet; ip link show {port}")
            continue
        if not up:
            yield fail(name, "is down", "LINK_DOWN", f"ibstat; ip link set {port} up; reseat the cable")
        elif found < rate:
            detail = f"{found:g} of {rate:g} Gb/s"
            yield fail(name, detail, "LINK_DOWN", f"mlxlink -d {port.partition('/')[0]}; replace the cable")
        else:
            yield ok(name, f"{found:g} Gb/s")


def _infiniband(host: Host, port: str) -> tuple[bool, float]:
    device, _, number = port.partition("/")
    folder = f"/sys/class/infiniband/{device}/ports/{number}"
    return "ACTIVE" in host.text(f"{folder}/state"), float(host.text(f"{folder}/rate").split()[0])


def _interface(host: Host, port: str) -> tuple[bool, float]:
    folder = f"/sys/class/net/{port}"
    if host.text(f"{folder}/operstate").strip() == "down":
        return False, 0.0
    return True, float(host.text(f"{folder}/speed")) / 1000
