"""Whether nodes are set up alike: drivers, firmware, kernel, packages, settings (report §6.5, health checks).

`fingerprint` takes a node's; `minority` finds the nodes that differ from most of their kind, and in what.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepvideo.mind.checks.host import Host

SYSCTLS = (
    *("kernel/numa_balancing", "kernel/pid_max", "vm/swappiness", "vm/overcommit_memory", "vm/zone_reclaim_mode"),
    *("net/core/rmem_max", "net/core/wmem_max", "net/ipv4/tcp_rmem", "net/ipv4/tcp_wmem", "fs/file-max"),
)
PACKAGES = ("torch", "numpy", "triton", "lightning", "stepvideo", "nvidia-nccl-cu12", "nvidia-nccl-cu13")
FILES = ("/etc/os-release", "/etc/security/limits.conf", "/etc/modprobe.d/nvidia.conf", "/etc/slurm/slurm.conf")


def fingerprint(host: Host) -> dict[str, str]:
    """{key: value} of what a machine has; keys of what it has not are left out."""
    found = {
        "kernel": _first(host, "/proc/sys/kernel/osrelease") or platform.release(),
        "python": platform.python_version(),
    }
    found |= {f"sysctl {name}": value for name in SYSCTLS if (value := _first(host, f"/proc/sys/{name}"))}
    found |= {f"file {name}": digest for name in FILES if (digest := _digest(host, name))}
    packages = _packages()
    found |= {f"package {name}": packages[name] for name in PACKAGES if name in packages}
    listed = "\n".join(f"{k}=={v}" for k, v in sorted(packages.items()))
    found["packages"] = f"{len(packages)}, {hashlib.sha256(listed.encode()).hexdigest()[:12]}"
    found |= _memory(host) | _cpu(host) | _ports(host) | _gpus(host.nvml)
    return found


def _packages() -> dict[str, str]:
    """{name: version} by the names of their folders: to read what is in them would take seconds."""
    found: dict[str, str] = {}
    for folder in sys.path:
        for info in sorted(Path(folder or ".").glob("*.dist-info")):
            name, _, version = info.name.removesuffix(".dist-info").partition("-")
            found.setdefault(name.lower().replace("_", "-"), version)
    return found


def _first(host: Host, path: str) -> str:
    try:
        return " ".join(host.text(path).split())
    except OSError:
        return ""


def _digest(host: Host, path: str) -> str:
    try:
        return hashlib.sha256(host.path(path).read_bytes()).hexdigest()[:12]
    except OSError:
        return ""


def _memory(host: Host) -> dict[str, str]:
    """In GB: the kernel's share of it differs by a few MB."""
    total = next((line for line in host.text("/proc/meminfo").splitlines() if line.startswith("MemTotal")), "")
    return {"memory": f"{int(total.split()[1]) * 1024 / 1e9:.0f} GB"} if total else {}


def _cpu(host: Host) -> dict[str, str]:
    rows = [line.partition(":")[::2] for line in host.text("/proc/cpuinfo").splitlines() if ":" in line]
    names = [(k.strip(), v.strip()) for k, v in rows]
    kinds = Counter(v for k, v in names if k == "model name")
    found = {"cpu": ", ".join(f"{n} × {kind}" for kind, n in sorted(kinds.items()))} if kinds else {}
    microcode = sorted({v for k, v in names if k == "microcode"})
    return found | ({"microcode": ", ".join(microcode)} if microcode else {})


def _ports(host: Host) -> dict[str, str]:
    """Firmware of the network cards."""
    found = {}
    for device in sorted(host.path("/sys/class/infiniband").glob("*")):
        for name in ("fw_ver", "board_id", "hca_type"):
            if value := _first(host, f"/sys/class/infiniband/{device.name}/{name}"):
                found[f"port {device.name} {name}"] = value
    return found


def _gpus(nvml: Any) -> dict[str, str]:
    try:
        if nvml is None:
            import pynvml as nvml
        nvml.nvmlInit()
    except Exception:  # NVML's own error types are not there to be named
        return {}
    found = {"driver": _text(nvml.nvmlSystemGetDriverVersion()), "gpus": str(nvml.nvmlDeviceGetCount())}
    for i in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(i)
        for name, ask in (("name", nvml.nvmlDeviceGetName), ("vbios", nvml.nvmlDeviceGetVbiosVersion)):
            try:
                found[f"gpu {i} {name}"] = _text(ask(handle))
            except nvml.NVMLError:
                continue
    return found


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


# -------------------------------------------------------------------------------------------------------- comparison


@dataclass(frozen=True)
class Difference:
    """A node's value of a key, the one that most nodes have, and the share of nodes that have it. "": absent."""

    key: str
    own: str
    common: str
    share: float


def minority(
    prints: Mapping[str, Mapping[str, str]], least_share: float = 0.6
) -> tuple[dict[str, list[Difference]], list[str]]:
    """Nodes that differ from the common values; and keys of which no value is common enough to say who is wrong.

    Args:
        prints: fingerprint of each node, of one kind of machine.
        least_share: a value is common if at least that share of the nodes has it.
    """
    different: dict[str, list[Difference]] = {}
    split = []
    for key in sorted({k for p in prints.values() for k in p}):
        counts = Counter(p.get(key, "") for p in prints.values())
        (common, count), *others = counts.most_common()
        share = count / len(prints)
        if not others:
            continue
        if share < least_share:
            split.append(key)
            continue
        for node, p in prints.items():
            if (own := p.get(key, "")) != common:
                different.setdefault(node, []).append(Difference(key, own, common, share))
    return different, split
