"""What to do about a job that Slurm refuses."""

from __future__ import annotations

import re

FIXES = {
    r"invalid partition|partition .*(not available|inactive|down)": "cluster.slurm.partition: `sinfo -s` lists them",
    r"invalid account|account.*not permitted|access.*denied": (
        "cluster.slurm.account: `sacctmgr show assoc user=$USER` lists yours"
    ),
    r"invalid qos|qos.*not permitted": "cluster.slurm.qos: `sacctmgr show qos` lists them",
    r"(qos|assoc)\w*(max|grp|min)|accounting/qos policy|job submit limit|limit.*exceeded|quota": (
        "the account's or QOS' limit: ask for less (nodes, gpus_per_node, time_min, cluster.concurrency), or wait"
    ),
    r"time limit|timelimit": "cluster.slurm.time_min: a stage that needs longer goes on in the next job",
    r"node configuration is not available|node count specification|more processors|memory spec": (
        "no nodes of that partition have it: `sinfo -o '%R %D %c %m %G'` shows what they have"
    ),
    r"invalid (feature|constraint)": "cluster.slurm.constraint: `sinfo -o '%R %f'` lists features",
    r"invalid (node|host)": "cluster.slurm.exclude, extra.nodelist: `sinfo -N` lists nodes",
    r"reservation": "cluster.slurm.extra.reservation: `scontrol show res` lists them",
    r"gres|gpu": "cluster.slurm.gpus_per_node: `sinfo -o '%R %G'` shows what nodes have",
    r"unrecognized option|invalid .*option": "cluster.slurm.extra: options of sbatch, without the dashes",
}


def fix_of(said: str) -> str:
    """What to change; empty if the message is not known."""
    return next((fix for pattern, fix in FIXES.items() if re.search(pattern, said, re.IGNORECASE)), "")
