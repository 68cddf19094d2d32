"""The batch script of a stage, written by submitit, whose pickles, requeueing and view of a job's state are not used.

The line that it runs is the one that runs the stage by hand: `python -m stepvideo.job STAGE_DIR`.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stepvideo.config import load
from stepvideo.errors import ConfigError
from tasks.launch import log_paths
from tasks.slurm_config import SlurmConfig
from tasks.snapshot import job_environment


def batch_script(
    stage: str,
    config: Mapping[str, Any],
    stage_dir: Path,
    number: int,
    name: str,
    slurm: SlurmConfig,
    code: Path | None = None,
) -> str:
    """What sbatch is given for attempt `number` of a stage with that config.

    Args:
        name: of the job.
        code: the snapshot that it runs.

    Raises:
        ConfigError: ranks that cannot be spread evenly over the nodes.
    """
    from submitit.slurm.slurm import _make_sbatch_string as write

    runtime = config.get("runtime", {})
    asked = slurm.resources(stage, runtime.get("slurm"))
    elements, ranks = int(runtime.get("array", 0)), int(runtime.get("nproc", 1))
    out, err = log_paths(stage_dir, number)
    if elements:
        out, err = (p.with_suffix(f".%a{p.suffix}") for p in (out, err))
    given: dict[str, Any] = {
        **{k: getattr(asked, k) or None for k in ("partition", "account", "qos", "constraint", "exclude")},
        **{k: getattr(asked, k) or None for k in ("gpus_per_node", "cpus_per_task")},
        "mem": f"{round(asked.mem_gb * 1024)}M" if asked.mem_gb else None,
        "job_name": name,
        "wckey": None,
        "time": asked.time_min,
        "nodes": asked.nodes,
        "ntasks_per_node": _tasks(stage, ranks, asked.nodes),
        "signal_delay_s": asked.warn_s,
        "map_count": elements or None,
        "array_parallelism": asked.array_parallelism,
        "setup": [*asked.setup, *(f"export {k}={shlex.quote(v)}" for k, v in job_environment(code).items())],
        "additional_parameters": {"output": out, "error": err, "requeue": True, **asked.extra},
    }
    run = f"{asked.python or shlex.quote(sys.executable)} -P -m stepvideo.job {shlex.quote(str(stage_dir))}"
    if elements:
        run += f" $SLURM_ARRAY_TASK_ID/{elements}"
    if asked.nodes > 1:
        run = f"bash -c {shlex.quote(f'{_RANK} exec {run}')}"
    command = " ".join(["srun --unbuffered", *map(shlex.quote, asked.srun_args), run])
    return write(command, stage_dir / "logs", use_srun=False, **given)


# The task that srun started as the rank that it is; nodes are addressed by number, as their names may not resolve.
_RANK = (
    "export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS "
    "LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE "
    "MASTER_ADDR=$SLURM_LAUNCH_NODE_IPADDR MASTER_PORT=$((20000 + (SLURM_JOB_ID + ${SLURM_RESTART_COUNT:-0}) % 20000));"
)


def _tasks(stage: str, ranks: int, nodes: int) -> int:
    if nodes == 1:
        return 1  # which starts its ranks itself
    if ranks % nodes:
        raise ConfigError(f"{stage} has runtime.nproc={ranks} ranks, which {nodes} nodes cannot share evenly")
    return ranks // nodes


def preview(stages: Iterable[tuple[str, Mapping[str, Any]]], store: Path, slurm: Mapping[str, Any]) -> dict[str, str]:
    """{names of stages: the batch script that they have in common}, with KEY and STAGE where they differ.

    Args:
        stages: names and configs.
        slurm: `cluster.slurm`.
    """
    typed, found = load(SlurmConfig, slurm, "cluster.slurm"), {}
    for name, config in stages:
        text = batch_script(name, config, store / "STAGE" / "KEY", 1, "STAGE-UUID", typed, store / "_code" / "DIGEST")
        found.setdefault(text, []).append(name)
    return {", ".join(names): text for text, names in found.items()}
