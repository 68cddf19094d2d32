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
from tasks.logs import log_paths
from tasks.slurm_config import Resources, SlurmConfig
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
        ConfigError: ranks that cannot be spread evenly over the nodes, or an array that is a heterogeneous job.
    """
    runtime = config.get("runtime", {})
    asked = slurm.resources(stage, runtime.get("slurm"))
    elements, ranks = int(runtime.get("array", 0)), int(runtime.get("nproc", 1))
    if elements and asked.het:
        raise ConfigError(f"{stage} has runtime.array={elements} and `het`; Slurm has no arrays of heterogeneous jobs")
    run = f"{_python(asked)} -P -m stepvideo.job {shlex.quote(str(stage_dir))}"
    if elements:
        run += f" $SLURM_ARRAY_TASK_ID/{elements}"
    before = []
    if asked.nodes > 1:
        before = [f"rm -f {shlex.quote(str(stage_dir / 'error.json'))}"]  # of an incarnation that lost a node
        run = f"bash -c {shlex.quote(_RANK.format(run=run))}"
    logs = log_paths(stage_dir, number, "%a" if elements else None)
    text = script(asked, name, run, logs, _tasks(stage, ranks, asked.nodes), elements, before, code)
    return _with_components(text, asked, name, stage_dir, number) if asked.het else text


def script(
    asked: Resources,
    name: str,
    run: str,
    logs: tuple[Path, Path],
    tasks: int = 1,
    elements: int = 0,
    before: Iterable[str] = (),
    code: Path | None = None,
) -> str:
    """The batch script of a job, or an array of `elements`, that runs a line of shell as `tasks` tasks a node.

    Args:
        before: lines of shell that are run on the first node.
    """
    from submitit.slurm.slurm import _make_sbatch_string as write

    out, err = logs
    environment = (f"export {k}={shlex.quote(v)}" for k, v in job_environment(code).items())
    given: dict[str, Any] = {
        **asked.options(),
        "job_name": name,
        "wckey": None,
        "time": asked.time_min,
        "ntasks_per_node": tasks,
        "signal_delay_s": asked.warn_s,
        "map_count": elements or None,
        "array_parallelism": asked.array_parallelism,
        "setup": [*asked.setup, *environment, *before],
        "additional_parameters": {"output": out, "error": err, "requeue": True, **asked.extra},
    }
    command = " ".join(["srun --unbuffered", *map(shlex.quote, asked.srun_args), run])
    return write(command, out.parent, use_srun=False, **given)


def _python(asked: Resources) -> str:
    return asked.python or shlex.quote(sys.executable)


# The task that srun started as the rank that it is; nodes are addressed by number, as their names may not resolve. Code
# 3: an incarnation that Slurm has given up still holds the stage, so it is tried again. When a rank fails, the others
# would wait for it in a collective, and are ended after a while; those that save are not.
_RANK = """\
export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_STEP_NUM_TASKS
export LOCAL_WORLD_SIZE=$((SLURM_STEP_NUM_TASKS / SLURM_STEP_NUM_NODES)) MASTER_ADDR=$SLURM_LAUNCH_NODE_IPADDR
export MASTER_PORT=$((20000 + (SLURM_JOB_ID + ${{SLURM_RESTART_COUNT:-0}}) % 12000))
for s in TERM USR1 USR2; do trap "kill -$s \\$job" $s; done
code=3
while [ $code = 3 ]; do
  {run} & job=$!
  while kill -0 $job 2>/dev/null; do wait $job; done
  wait $job; code=$?
  [ $code != 3 ] || sleep 2
done
case $code in 0|75) ;; *) sleep 10; scancel --signal=KILL $SLURM_JOB_ID.$SLURM_STEP_ID ;; esac
exit $code"""


def _with_components(text: str, asked: Resources, name: str, stage_dir: Path, number: int) -> str:
    """The script of a heterogeneous job: the stage's options and those of the others, the stage in group 0."""
    head, body = text.split("\n\n# setup", 1)
    places = {"stage_dir": stage_dir, "store": stage_dir.parent.parent, "python": _python(asked)}
    others = []
    for group, component in enumerate(asked.components(), 1):
        options = {**component.options(), "ntasks_per_node": component.tasks_per_node, "job_name": name}
        options |= {"time": asked.time_min, **component.extra}
        flags = [f"#SBATCH --{k.replace('_', '-')}={v}" for k, v in options.items()]
        head = "\n".join([head, "#SBATCH hetjob", *flags])
        out, err = log_paths(stage_dir, number, f"het{group}")
        step = f"srun --unbuffered --het-group={group} --output={shlex.quote(str(out))} --error={shlex.quote(str(err))}"
        others.append(f"(while :; do {step} {component.command.format(**places)}; sleep 1; done) &")
    body = body.replace("\nsrun --unbuffered ", "\n" + "\n".join(others) + "\nsrun --unbuffered --het-group=0 ", 1)
    return f"{head}\n\n# setup{body}"


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
