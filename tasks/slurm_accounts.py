"""What Slurm's accounting remembers of a job: each of its incarnations, how it ended, and the time that it had.

Only where there is a slurmdbd; `stepvideo.mind` accounts without it, from what the jobs themselves leave.
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.slurm_queue import ask, moment


@dataclass(frozen=True)
class Incarnation:
    """One run of a job, between two requeueings."""

    state: str  # REQUEUED, PREEMPTED, NODE_FAIL, COMPLETED, …
    start: float  # seconds since the epoch; 0: it has not started
    end: float  # 0: it runs
    nodes: str

    @property
    def seconds(self) -> float:
        """On its nodes."""
        return max(0.0, self.end - self.start) if self.start and self.end else 0.0


def incarnations(name: str) -> list[Incarnation]:
    """Of the job, or the elements of the array, of that name; in order. Empty where there is no accounting.

    How often it was restarted is their number less one.
    """
    columns = "State,Start,End,NodeList"
    said = ask("sacct", "-DXnP", f"--name={name}", "--starttime=now-30days", f"--format={columns}")
    rows = (line.split("|") for line in (said or "").splitlines())
    found = [Incarnation(s.partition(" ")[0], moment(start), moment(end), nodes) for s, start, end, nodes in rows]
    return sorted(found, key=lambda i: i.start or float("inf"))
