"""From evidence to faults: kernel log, program output, exit codes, the scheduler's states, an agent's snapshot.

Pure functions. Each gives findings; `root_cause` picks the one that the others follow from.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stepvideo.mind.cluster import NodeState
from stepvideo.mind.faults import CATALOGUE, XID, Blame, Fault

CLOCK_S = 5.0  # a clock that differs by more is skewed; Slurm's munge refuses credentials at 300 s
DISK_FREE = 0.01  # share
ECC_CORRECTED = 10_000  # volatile corrected errors (AzNHC's bound)
QUOTED = 200  # characters of a line that are kept as evidence


@dataclass(frozen=True)
class Finding:
    """A fault that some evidence shows, on a node if it tells."""

    name: str
    evidence: str
    node: str = ""

    @property
    def fault(self) -> Fault:
        return CATALOGUE[self.name]


_XID = re.compile(r"NVRM: Xid \(([^)]*)\): (\d+)")
_KERNEL = [
    (re.compile(pattern, re.IGNORECASE), name)
    for pattern, name in (
        (r"nvidia-nvswitch\S*: SXid \([^)]*\): \d+, Fatal", "NVSWITCH_ERROR"),
        (r"mlx5_core .*(device's health compromised|Detected insufficient power)", "NIC_LOST"),
        (r"(mlx5_\S+|bnxt_\S+|irdma|eth\S*|ib\d+|ens\S+).*\blink (is )?down\b", "LINK_DOWN"),
        (r"(oom-kill:|Out of memory: Killed process)", "HOST_OOM"),
        (r"\[Hardware Error\].*severity: fatal|Kernel panic - not syncing: .*machine check", "MACHINE_CHECK"),
        (r"(blk_update_request|Buffer I/O|\bI/O) error|Remounting filesystem read-only", "DISK_ERROR"),
        (r"PCIe Bus Error.*severity=Uncorrected \(Fatal\)", "GPU_LOST"),
    )
]
_OUTPUT = [
    (re.compile(pattern), name)
    for pattern, name in (
        (r"CUDA out of memory|torch\.(cuda\.)?OutOfMemoryError", "CUDA_OOM"),
        (r"uncorrectable ECC error", "GPU_DBE_ERROR"),
        (r"CUDA error: (an illegal memory access|device-side assert)", "GPU_PROGRAM_ERROR"),
        (r"NVML: GPU is lost|GPU has fallen off the bus|CUDA error: device .*unavailable", "GPU_LOST"),
        (r"Watchdog caught collective operation timeout|collective operation timed? ?out", "COLLECTIVE_TIMEOUT"),
        (r"\bTimed out waiting \d+ms for (recv|send)", "COLLECTIVE_TIMEOUT"),
        (r"Connection (reset|closed|refused) by peer|Connection closed by|remote process exited", "PEER_LOST"),
        (r"Cannot allocate memory|^MemoryError|oom_kill event", "HOST_OOM"),
        (r"^Traceback \(most recent call last\)", "SOFTWARE_FAULT"),
    )
]


def from_kernel(lines: Iterable[str], node: str = "") -> list[Finding]:
    """Faults in lines of the kernel's log."""
    found = []
    for line in lines:
        if xid := _XID.search(line):
            if name := XID.get(int(xid[2])):
                found.append(Finding(name, line.strip()[:QUOTED], node))
            continue
        found += [Finding(name, line.strip()[:QUOTED], node) for pattern, name in _KERNEL if pattern.search(line)][:1]
    return found


def from_output(text: str, node: str = "") -> list[Finding]:
    """Faults that a program's output tells, one of each type, with the first line that shows it."""
    found: dict[str, Finding] = {}
    for line in text.splitlines():
        for pattern, name in _OUTPUT:
            if pattern.search(line):
                found.setdefault(name, Finding(name, line.strip()[:QUOTED], node))
                break
    return list(found.values())


def from_exit(code: int = 0, state: str = "", node: str = "") -> list[Finding]:
    """A fault behind the end of a job; none where it ended well, was preempted, cancelled or out of time.

    Args:
        code: as a shell has it: 128 + n, or -n, if signal n ended it.
        state: Slurm's: FAILED, NODE_FAIL, OUT_OF_MEMORY, …
    """
    if state in ("NODE_FAIL", "BOOT_FAIL"):
        return [Finding("NODE_SHUTDOWN", f"Slurm: {state}", node)]
    if state == "OUT_OF_MEMORY":
        return [Finding("HOST_OOM", f"Slurm: {state}", node)]
    if state in ("COMPLETED", "PREEMPTED", "CANCELLED", "TIMEOUT", "DEADLINE", "REVOKED") or code in (0, 75):
        return []
    number = -code if code < 0 else code - 128
    if number in (signal.SIGKILL, signal.SIGTERM):
        return [Finding("PROCESS_KILLED", f"ended by {signal.Signals(number).name}", node)]
    if number in (signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE):
        return [Finding("SOFTWARE_FAULT", f"ended by {signal.Signals(number).name}", node)]
    return [Finding("SOFTWARE_FAULT", f"exit code {code}", node)]


def from_state(node: str, state: NodeState) -> list[Finding]:
    return [Finding("NODE_SHUTDOWN", "the scheduler has it down", node)] if state == NodeState.DOWN else []


def from_snapshot(snapshot: Mapping[str, Any]) -> list[Finding]:
    """Faults in what an agent saw (`stepvideo.mind.agent`): kernel lines, GPUs, ports, disk, clock."""
    node = str(snapshot.get("node", ""))
    found = from_kernel([k["line"] for k in snapshot.get("kernel", ())], node)

    def add(name: str, evidence: str) -> None:
        found.append(Finding(name, evidence, node))

    for gpu in snapshot.get("gpus", ()):
        which = f"GPU {gpu.get('index', '?')}"
        if gpu.get("lost"):
            add("GPU_LOST", f"{which}: {gpu['lost']}")
        if gpu.get("ecc_uncorrected"):
            add("GPU_DBE_ERROR", f"{which}: {gpu['ecc_uncorrected']} uncorrected errors since it was reset")
        if gpu.get("ecc_corrected", 0) > ECC_CORRECTED:
            add("GPU_ECC_SINGLE_BIT", f"{which}: {gpu['ecc_corrected']} corrected errors since it was reset")
        if gpu.get("remap_failed"):
            add("GPU_REMAP_FAILED", f"{which}: no spare row")
        elif gpu.get("remap_pending"):
            add("GPU_REMAP_PENDING", f"{which}: waits for a reset")
        if bad := [t for t in gpu.get("throttle", ()) if t in ("hw_thermal", "sw_thermal", "power_brake", "hw")]:
            add("GPU_THROTTLED", f"{which}: {', '.join(bad)}, {gpu.get('temperature', '?')} °C")
        if gpu.get("pcie_width", 16) < gpu.get("pcie_width_max", 0):
            add("PCIE_DEGRADED", f"{which}: {gpu['pcie_width']} of {gpu['pcie_width_max']} lanes")
    for port, seen in snapshot.get("rdma", {}).items():
        if seen.get("was_active") and seen.get("state") != "ACTIVE":
            add("LINK_DOWN", f"{port} is {seen.get('state')}")
        elif seen.get("downs", 0) >= 2:
            add("LINK_FLAPPING", f"{port} went down {seen['downs']} times within an hour")
    for path, free in snapshot.get("disk_free", {}).items():
        if free < DISK_FREE:
            add("DISK_FULL", f"{path}: {free:.0%} free")
    if abs(skew := snapshot.get("clock_s", 0.0)) > CLOCK_S:
        add("CLOCK_SKEW", f"its clock is {skew:+.0f} s from the observer's")
    return found


def root_cause(findings: Iterable[Finding]) -> Finding | None:
    """The one that the others follow from: causes before symptoms, fatal ones first, hardware before software."""

    def order(f: Finding) -> tuple[bool, bool, bool, bool]:
        fault = f.fault
        return fault.symptom, not fault.fatal, fault.blame == Blame.JOB, f.name == "SOFTWARE_FAULT"

    return min(findings, key=order, default=None)
