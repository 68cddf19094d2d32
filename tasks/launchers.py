"""Which launcher a cluster's config means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepvideo.config import load
from stepvideo.errors import ConfigError
from tasks.launch import Debug, Launcher, Local, SubmititLocal
from tasks.slurm_config import SlurmConfig


def launcher(
    name: str, code: Path | None = None, grace_s: float = 10.0, slurm: Mapping[str, Any] | None = None
) -> Launcher:
    """The launcher of a `cluster.launcher` setting.

    Args:
        code: the snapshot that jobs run.
        grace_s: from the request to stop until SIGKILL when a job runs out of time.
        slurm: `cluster.slurm`.
    """
    if name == "slurm":
        from tasks.slurm import Slurm

        return Slurm(load(SlurmConfig, slurm, "cluster.slurm"), code)
    if name == "debug":
        return Debug()
    if name == "local":
        return Local(code, grace_s)
    if name == "submitit-local":
        return SubmititLocal(code)
    raise ConfigError(f"no launcher {name!r}; there are debug, local, submitit-local and slurm")
