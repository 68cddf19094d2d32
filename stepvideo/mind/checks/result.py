"""What a check says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from stepvideo.mind.classify import Finding
from stepvideo.mind.faults import Blame, Repair


class Status(StrEnum):
    OK = "ok"
    WARN = "warn"  # to be looked at; the node goes on
    FAIL = "fail"  # a fault that ends jobs
    UNKNOWN = "unknown"  # `detail` says why; nothing follows from it


@dataclass(frozen=True)
class Result:
    """fault: its name in the catalogue; fix: a command to look at it or to mend it.

    unsure: the check should have said something and could not (time out, died); without it an unknown result only says
    that what it looks at is not there.
    """

    check: str
    status: Status
    detail: str = ""
    fault: str = ""
    fix: str = ""
    unsure: bool = False
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.check}: {self.detail}" + (f"; try: {self.fix}" if self.fix else "")


def ok(check: str, detail: str = "") -> Result:
    return Result(check, Status.OK, detail)


def warn(check: str, detail: str, fault: str = "", fix: str = "") -> Result:
    return Result(check, Status.WARN, detail, fault, fix)


def fail(check: str, detail: str, fault: str, fix: str) -> Result:
    return Result(check, Status.FAIL, detail, fault, fix)


def absent(check: str, needs: str) -> Result:
    return Result(check, Status.UNKNOWN, f"not here: {needs}")


def of_finding(check: str, found: Finding) -> Result:
    """A fault that blames the node fails if it is fatal, else it warns; a job's own fault warns."""
    node = found.fault.blame == Blame.NODE and found.fault.fatal
    row = Result(check, Status.FAIL if node else Status.WARN, found.evidence, found.name)
    return replace(row, fix=FIX.get(found.fault.repair, ""))


FIX = {
    Repair.REBOOT: "scontrol reboot ASAP $NODE",
    Repair.INSPECT: "nvidia-bug-report.sh; look at the hardware",
    Repair.REPLACE: "reseat or replace it, then: stepvideo mind admit $NODE --replaced CATEGORY",
}


def verdict(results: Sequence[Result]) -> bool | None:
    """True: in order; False: a fault; None: the checks cannot say."""
    if any(r.status == Status.FAIL for r in results):
        return False
    return None if not results or any(r.unsure for r in results) else True
