"""Catalogue of faults: what each type does to a job, whom it blames, what mends it (report §6.5, Table 4).

`row` is the line of Table 4 that a fault counts as. The table's own names stand for themselves; the finer ones follow
NVIDIA's Xid catalogue and what node health checks of public clusters tell apart. `classify.py` finds them in evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Category(StrEnum):
    """Of Table 4."""

    GPU = "GPU"
    NETWORK = "Network"
    HOST = "Host"
    SOFTWARE = "Software"
    HARDWARE = "Hardware"


class Blame(StrEnum):
    """Who is kept from the next attempt: the node is excluded, or nobody is."""

    NODE = "node"
    JOB = "job"


class Repair(StrEnum):
    """The first thing to try; `escalation` says what comes after."""

    NONE = "none"  # it passes by itself
    RESTART_JOB = "restart job"
    REBOOT = "reboot"  # which ends above 60 % of node failures (report §6.5)
    INSPECT = "inspect hardware"
    REPLACE = "reseat or replace"
    USER_CODE = "fix code or settings"


@dataclass(frozen=True)
class Fault:
    """A type of fault.

    Attributes:
        fatal: a job that has it cannot go on (Table 4: all rows but NON_FATAL).
        symptom: it follows from another fault, which is to be looked for first, perhaps on another node.
        row: what it counts as in Table 4; empty: not counted there.
    """

    name: str
    category: Category
    fatal: bool
    blame: Blame
    repair: Repair
    row: str
    about: str
    source: str
    symptom: bool = False


_REPORT, _XID, _HEALTH, _TORCH, _LINUX = (
    "report, Table 4",
    "NVIDIA, Xid errors",
    "node health checks (gpud, AzNHC, NHC)",
    "PyTorch",
    "Linux",
)
_G, _N, _H, _S, _W = Category.GPU, Category.NETWORK, Category.HOST, Category.SOFTWARE, Category.HARDWARE
_NODE, _JOB = Blame.NODE, Blame.JOB
_ROWS: list[tuple[str, Category, bool, Blame, Repair, str, str, str]] = [
    ("GPU_DBE_ERROR", _G, True, _NODE, Repair.REBOOT, "GPU_DBE_ERROR", "uncorrectable ECC error", _REPORT),
    ("GPU_LOCKED", _G, True, _NODE, Repair.REBOOT, "GPU_LOCKED", "the GPU or its firmware does not answer", _REPORT),
    ("LINK_DOWN", _N, True, _NODE, Repair.REBOOT, "LINK_DOWN", "a port of the network is down", _REPORT),
    ("NODE_SHUTDOWN", _H, True, _NODE, Repair.REBOOT, "NODE_SHUTDOWN", "the node is off or does not answer", _REPORT),
    ("SOFTWARE_FAULT", _S, True, _JOB, Repair.USER_CODE, "SOFTWARE_FAULT", "the program failed", _REPORT),
    ("CUDA_OOM", _S, True, _JOB, Repair.USER_CODE, "CUDA_OOM", "GPU memory is too small for it", _REPORT),
    ("NON_FATAL", _W, False, _NODE, Repair.INSPECT, "NON_FATAL", "slower, not stopped", _REPORT),
    # GPU
    ("GPU_LOST", _G, True, _NODE, Repair.REBOOT, "GPU_LOCKED", "fell off the bus", _XID),
    ("GPU_ECC_CONTAINED", _G, True, _NODE, Repair.REBOOT, "GPU_DBE_ERROR", "ended the programs that it hit", _XID),
    ("GPU_ECC_UNCONTAINED", _G, True, _NODE, Repair.REBOOT, "GPU_DBE_ERROR", "memory error beyond one program", _XID),
    ("GPU_REMAP_FAILED", _G, True, _NODE, Repair.REPLACE, "GPU_DBE_ERROR", "no spare row is left", _XID),
    ("GPU_REMAP_PENDING", _W, False, _NODE, Repair.REBOOT, "NON_FATAL", "a row is replaced at the next reset", _XID),
    ("GPU_ECC_SINGLE_BIT", _W, False, _NODE, Repair.INSPECT, "NON_FATAL", "many corrected errors", _XID),
    ("GPU_PROGRAM_ERROR", _S, True, _JOB, Repair.USER_CODE, "SOFTWARE_FAULT", "illegal access by a kernel", _XID),
    ("NVLINK_DOWN", _G, True, _NODE, Repair.INSPECT, "LINK_DOWN", "a link between GPUs failed", _XID),
    ("NVSWITCH_ERROR", _G, True, _NODE, Repair.REBOOT, "LINK_DOWN", "a switch between GPUs failed", _XID),
    ("GPU_THROTTLED", _W, False, _NODE, Repair.INSPECT, "NON_FATAL", "slowed by heat or by its power", _HEALTH),
    ("PCIE_DEGRADED", _W, False, _NODE, Repair.REPLACE, "NON_FATAL", "fewer lanes than it should have", _HEALTH),
    # network
    ("NIC_LOST", _N, True, _NODE, Repair.REBOOT, "LINK_DOWN", "a network card disappeared", _HEALTH),
    ("LINK_FLAPPING", _W, False, _NODE, Repair.REPLACE, "NON_FATAL", "a port goes down and up", _HEALTH),
    # host
    ("MACHINE_CHECK", _H, True, _NODE, Repair.INSPECT, "NODE_SHUTDOWN", "the CPU reports a hardware error", _LINUX),
    ("DISK_ERROR", _H, True, _NODE, Repair.REPLACE, "NODE_SHUTDOWN", "a disk fails or is read-only", _LINUX),
    ("DISK_FULL", _H, True, _NODE, Repair.INSPECT, "SOFTWARE_FAULT", "no space on the node's disk", _HEALTH),
    ("CLOCK_SKEW", _W, False, _NODE, Repair.INSPECT, "NON_FATAL", "its clock differs", _HEALTH),
    ("SLOW_NODE", _W, False, _NODE, Repair.INSPECT, "NON_FATAL", "its ranks are slower than the others", _REPORT),
    # software
    ("HOST_OOM", _S, True, _JOB, Repair.USER_CODE, "SOFTWARE_FAULT", "killed for want of host memory", _LINUX),
    ("PROCESS_KILLED", _S, True, _JOB, Repair.RESTART_JOB, "SOFTWARE_FAULT", "killed from outside", _LINUX),
    ("HANG", _S, True, _JOB, Repair.RESTART_JOB, "SOFTWARE_FAULT", "every signal of work ceased", _REPORT),
]
_SYMPTOMS = [
    ("COLLECTIVE_TIMEOUT", _S, True, _JOB, Repair.RESTART_JOB, "SOFTWARE_FAULT", "a rank did not come", _TORCH),
    ("PEER_LOST", _S, True, _JOB, Repair.RESTART_JOB, "SOFTWARE_FAULT", "another rank went away", _TORCH),
    ("GPU_CLEANUP", _G, True, _JOB, Repair.NONE, "", "the driver ended a program's work", _XID),
]

CATALOGUE: dict[str, Fault] = {row[0]: Fault(*row) for row in _ROWS}
CATALOGUE |= {row[0]: Fault(*row, symptom=True) for row in _SYMPTOMS}

XID: dict[int, str] = {
    **dict.fromkeys((13, 31, 43, 68, 69), "GPU_PROGRAM_ERROR"),
    45: "GPU_CLEANUP",
    **dict.fromkeys((48, 140), "GPU_DBE_ERROR"),
    **dict.fromkeys((61, 62, 109, 119, 120), "GPU_LOCKED"),
    63: "GPU_REMAP_PENDING",
    64: "GPU_REMAP_FAILED",
    74: "NVLINK_DOWN",
    79: "GPU_LOST",
    92: "GPU_ECC_SINGLE_BIT",
    94: "GPU_ECC_CONTAINED",
    95: "GPU_ECC_UNCONTAINED",
}
"""Number in the kernel's log → fault; other numbers say nothing for sure, and are left to people."""

TABLE_4: dict[str, int] = {
    **{"GPU_DBE_ERROR": 3, "GPU_LOCKED": 1, "LINK_DOWN": 1, "NODE_SHUTDOWN": 2},
    **{"SOFTWARE_FAULT": 11, "CUDA_OOM": 7, "NON_FATAL": 4},
}
"""Row → count in the report's month; 25 of 29 are fatal."""


def fault(name: str) -> Fault:
    """Raises KeyError: no such type."""
    return CATALOGUE[name]


def escalation(repair: Repair) -> Repair:
    """What to try when `repair` did not help; the last one is its own."""
    order = [Repair.NONE, Repair.RESTART_JOB, Repair.REBOOT, Repair.INSPECT, Repair.REPLACE]
    return repair if repair not in order else order[min(order.index(repair) + 1, len(order) - 1)]
