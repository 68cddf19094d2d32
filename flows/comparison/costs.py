"""What the stages cost: seconds of all attempts, times the ranks, from manifests and ledgers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flows.comparison.subjects import Aligned, Subject
from stepvideo.artifact import Artifact
from tasks.ledger import Ledger


@dataclass(frozen=True)
class Cost:
    """Of one artifact.

    Attributes:
        seconds: of the attempt that made it, from its beginning to its manifest.
        lost: seconds of the attempts before that one.
        attempts: None where no ledger lies beside the artifact (it came from elsewhere).
        device_seconds: (seconds + lost) times `runtime.nproc`; None of job arrays, whose elements nobody timed.
        cached: whether this run found it in the store; None of artifacts, which no run asked for.
    """

    seconds: float
    lost: float
    attempts: int | None
    device_seconds: float | None
    cached: bool | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def costs(compared: Sequence[Subject], rows: Aligned) -> dict[str, list[Cost | None]]:
    """Stage: what it cost each subject. Pairs of stages with several names ("a / b") are left out: they are there."""
    return {
        name: [_cost(a, s) if a else None for a, s in zip(row, compared)]
        for name, row in rows.items()
        if " / " not in name
    }


def totals(found: dict[str, list[Cost | None]], i: int) -> dict[str, float]:
    """Of subject i: seconds and device-seconds of all stages, and of those that its run did not find in the store."""
    mine = [c for row in found.values() if (c := row[i])]
    fresh = [c for c in mine if not c.cached]
    return {
        "seconds": sum(c.seconds + c.lost for c in mine),
        "device_seconds": sum(c.device_seconds or 0.0 for c in mine),
        "spent_seconds": sum(c.seconds + c.lost for c in fresh),
        "spent_device_seconds": sum(c.device_seconds or 0.0 for c in fresh),
        "cached": float(len(mine) - len(fresh)),
        "stages": float(len(mine)),
    }


def _cost(artifact: Artifact, subject: Subject) -> Cost:
    m = artifact.manifest
    seconds = m["finished"] - m["started"]
    known = (artifact.dir / "ledger.json").exists()
    attempts = Ledger(artifact.dir).attempts if known else []
    lost = sum(a["ended"] - a["started"] for a in attempts[:-1] if a.get("ended"))
    cached = None
    if subject.record:
        cached = bool(subject.record.data["stages"].get(m["stage"], {}).get("cached"))
    runtime = m["config"].get("runtime", {})
    device = None if runtime.get("array") else (seconds + lost) * int(runtime.get("nproc", 1))
    return Cost(seconds, lost, len(attempts) if known else None, device, cached)
