"""What a stage asks of Slurm (torch-free)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any

from stepvideo.config import load


@dataclass
class Resources:
    """A job's options of sbatch; what is empty or 0 is left to the cluster's defaults."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    nodes: int = 1  # more than one: a task for each of the stage's `runtime.nproc` ranks, spread evenly
    gpus_per_node: int = 0
    cpus_per_task: int = 0
    mem_gb: float = 0.0  # a node
    constraint: str = ""
    exclude: str = ""  # nodes
    time_min: int = 60  # the job's limit; a stage that needs longer goes on in the next job
    warn_s: int = 90  # before the limit the stage is told to save its state
    array_parallelism: int = 256  # elements of a job array that run at a time
    setup: list[str] = field(default_factory=list)  # shell lines before the stage: modules, containers
    python: str = ""  # what runs the stage there; empty: the driver's interpreter
    srun_args: list[str] = field(default_factory=list)  # such as --container-image=…
    extra: dict[str, str] = field(default_factory=dict)  # any other option of sbatch: {reservation: "may"}

    def __post_init__(self) -> None:
        for name in ("nodes", "time_min", "array_parallelism"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more")
        for name in ("gpus_per_node", "cpus_per_task", "mem_gb", "warn_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give 0 or more")


@dataclass
class SlurmConfig(Resources):
    """`cluster.slurm`: resources of all stages, and what differs by the stage's name, as `{"t2vi_*": {nodes: 4}}`."""

    poll_s: float = 10.0  # between two looks at the queue, for all stages together
    stages: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.poll_s <= 0:
            raise ValueError(f"poll_s is {self.poll_s}; give more than 0 seconds")
        for pattern in self.stages:
            self._of(pattern)

    def resources(self, stage: str, own: Mapping[str, Any] | None = None) -> Resources:
        """Of one stage: later patterns win, and over them `own`, the `runtime.slurm` of its config.

        Raises:
            ConfigError: an unknown option or a value of the wrong type.
        """
        given = {f.name: getattr(self, f.name) for f in fields(Resources)}
        for pattern, changes in self.stages.items():
            if fnmatchcase(stage, pattern):
                given |= changes
        return load(Resources, given | dict(own or {}), f"the Slurm options of {stage}")

    def _of(self, pattern: str) -> None:
        changes = self.stages[pattern]
        if not isinstance(changes, Mapping):
            raise ValueError(f"stages.{pattern} is {changes!r}; give options of a job, as {{nodes: 4}}")
        load(Resources, changes, f"cluster.slurm.stages.{pattern}")
