"""`stepvideo doctor --slurm`: whether this cluster will take the stages' jobs, and lets them recover as they can.

Every finding names its fix. `settings` and `scripts` ask Slurm's commands and submit nothing; `tasks/slurm_probe.py`
runs a job.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stepvideo.doctor import Check
from tasks.slurm_queue import ANSWER_S, ask
from tasks.slurm_refusal import fix_of
from tasks.slurm_script import preview

COMMANDS = ("sbatch", "srun", "squeue", "scancel", "sinfo", "scontrol")


def commands() -> Check:
    absent = [c for c in COMMANDS if not shutil.which(c)]
    if absent:
        fix = "run the driver on a machine with Slurm's commands, such as a login node; or cluster=local"
        return Check("slurm commands", "missing", f"not on PATH: {', '.join(absent)}", fix)
    return Check("slurm commands", "ok", shutil.which("sbatch") or "")


def settings() -> list[Check]:
    """What the controller says of itself, where it costs minutes after a fault or hides how jobs ended."""
    said = ask("scontrol", "show", "config")
    if said is None:
        fix = "look at slurmctld, or at SLURM_CONF on this machine; jobs that run go on without it"
        return [Check("slurm controller", "missing", "it does not answer", fix)]
    found = dict(re.findall(r"^(\S[^=\n]*?)\s*= (.*?)\s*$", said, re.MULTILINE))
    about = f"{found.get('ClusterName', '?')}, Slurm {found.get('SLURM_VERSION', '?')}"
    checks = [Check("slurm controller", "ok", about)]
    return checks + [_requeue(found), _silence(found), _preemption(found), _accounting(found)]


def _requeue(found: Mapping[str, str]) -> Check:
    expire = re.search(r"cred_expire=(\d+)", found.get("AuthInfo", ""))
    wait = int(expire[1]) if expire else 120
    if found.get("JobRequeue") == "0":
        return Check("slurm requeue", "ok", "JobRequeue=0; our jobs ask for --requeue themselves")
    if wait > 30:
        fix = "administrator: AuthInfo=cred_expire=30 (below 5, requeued jobs never start)"
        return Check("slurm requeue", "warn", f"a requeued job waits {wait} s (cred_expire)", fix)
    return Check("slurm requeue", "ok", f"a requeued job waits {wait} s (cred_expire)")


def _silence(found: Mapping[str, str]) -> Check:
    wait = int(re.match(r"\d*", found.get("SlurmdTimeout", ""))[0] or 0)  # type: ignore[index]
    detail = f"a node that is silent is down after {wait} s (SlurmdTimeout)"
    if wait > 120:
        return Check("slurm node failure", "warn", detail, "stepvideo mind watch sets it down within seconds")
    return Check("slurm node failure", "ok", detail)


def _preemption(found: Mapping[str, str]) -> Check:
    if not found.get("PreemptMode", "OFF").replace("GANG,", "").startswith("REQUEUE"):
        return Check("slurm preemption", "ok", f"PreemptMode={found.get('PreemptMode', 'OFF')}")
    if "preempt_send_user_signal" in found.get("SlurmctldParameters", ""):
        return Check("slurm preemption", "ok", "requeue, with a warning by signal")
    detail = "preempted jobs are warned by SIGTERM for the partition's GraceTime, not by warn_s"
    return Check("slurm preemption", "ok", detail)


def _accounting(found: Mapping[str, str]) -> Check:
    age = found.get("MinJobAge", "?")
    if ask("sacct", "-XnP", "--starttime=now-1hour", "--format=JobID") is None:
        detail = f"none: how a job ended is known for {age} (MinJobAge), then only from its files"
        return Check("slurm accounting", "warn", detail, "administrator: slurmdbd; not needed to run or to resume")
    return Check("slurm accounting", "ok", "sacct answers")


def partitions(asked: Iterable[str]) -> Check:
    """Whether those that stages name are there and take jobs."""
    said = ask("sinfo", "--noheader", "--format=%R %a %D")
    rows = [line.split() for line in (said or "").splitlines()]
    known = {name: state for name, state, _ in rows}
    absent = sorted({a for name in asked for a in name.split(",") if a and a not in known})
    down = sorted({a for name in asked for a in name.split(",") if known.get(a, "up") != "up"})
    there = ", ".join(f"{name} ({nodes} nodes)" for name, _, nodes in rows)
    if absent:
        fix = f"cluster.slurm.partition, and stages.NAME.partition: there are {there or 'none'}"
        return Check("slurm partitions", "missing", f"unknown: {', '.join(absent)}", fix)
    if down:
        return Check("slurm partitions", "warn", f"not up: {', '.join(down)}", "jobs there wait: sinfo -R says why")
    return Check("slurm partitions", "ok", there)


def scripts(stages: Iterable[tuple[str, Mapping[str, Any]]], store: Path, slurm: Mapping[str, Any]) -> list[Check]:
    """What `sbatch --test-only` says of every script that a run would submit."""
    found = []
    for names, text in preview(stages, store, slurm).items():
        name = f"sbatch of {names if len(names) < 40 else names[:37] + '…'}"
        done = subprocess.run(["sbatch", "--test-only"], input=text, capture_output=True, text=True, timeout=ANSWER_S)
        said = done.stderr.replace("sbatch: error: ", "").replace("sbatch: ", "").strip().replace("\n", "; ")
        said = said.removeprefix("allocation failure: ")
        found.append(Check(name, "missing", said, fix_of(said)) if done.returncode else Check(name, "ok", said))
    return found
