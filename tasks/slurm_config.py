"""What a stage asks of Slurm (torch-free)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any

from stepvideo.config import load


@dataclass
class Place:
    """Nodes, as sbatch is asked for them; what is empty or 0 is left to the cluster's defaults."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    nodes: int = 1
    gpus_per_node: int = 0
    cpus_per_task: int = 0
    mem_gb: float = 0.0  # a node
    constraint: str = ""
    exclude: str = ""  # nodes
    extra: dict[str, str] = field(default_factory=dict)  # any other option of sbatch: {reservation: "may"}

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise ValueError(f"nodes is {self.nodes}; give 1 or more")
        for name in ("gpus_per_node", "cpus_per_task", "mem_gb"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give 0 or more")

    def options(self) -> dict[str, Any]:
        """As sbatch has them, those that are given; without `extra`."""
        plain = ("partition", "account", "qos", "constraint", "exclude", "gpus_per_node", "cpus_per_task")
        found = {"nodes": self.nodes, **{name: getattr(self, name) for name in plain}}
        found["mem"] = f"{round(self.mem_gb * 1024)}M" if self.mem_gb else ""
        return {name: value for name, value in found.items() if value}


@dataclass
class Component(Place):
    """What else a heterogeneous job has beside the stage: nodes of another sort, and the program that runs on them.

    It runs as long as the stage does, and is started again when it ends before.
    """

    command: str = ""  # a line of shell with {stage_dir}, {store} and {python}
    tasks_per_node: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.command:
            raise ValueError("a component of `het` has no command; give the line that it runs")
        if self.tasks_per_node < 1:
            raise ValueError(f"tasks_per_node is {self.tasks_per_node}; give 1 or more")


@dataclass
class Resources(Place):
    """A job's options. More than one node: a task for each of the stage's `runtime.nproc` ranks, spread evenly."""

    time_min: int = 60  # the job's limit; a stage that needs longer goes on in the next job
    warn_s: int = 90  # before the limit the stage is told to save its state
    array_parallelism: int = 256  # elements of a job array that run at a time
    setup: list[str] = field(default_factory=list)  # shell lines before the stage: modules, containers
    python: str = ""  # what runs the stage there; empty: the driver's interpreter
    srun_args: list[str] = field(default_factory=list)  # such as --container-image=…
    het: list[Any] = field(default_factory=list)  # components of a heterogeneous job: options of `Component`

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("time_min", "array_parallelism"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more")
        if self.warn_s < 0:
            raise ValueError(f"warn_s is {self.warn_s}; give 0 or more")
        self.components()

    def components(self) -> list[Component]:
        return [load(Component, c, f"het.{i}") for i, c in enumerate(self.het)]


@dataclass
class SlurmConfig(Resources):
    """`cluster.slurm`: resources of all stages, and what differs by the stage's name, as `{"t2vi_*": {nodes: 4}}`."""

    poll_s: float = 4.0  # between two looks at the queue, for all stages together
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
