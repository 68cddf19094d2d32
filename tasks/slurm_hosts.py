"""Names of nodes, from Slurm's short form of them."""

from __future__ import annotations

import functools
import subprocess

from tasks.slurm_queue import ANSWER_S


@functools.lru_cache(maxsize=1024)
def hostnames(short: str) -> tuple[str, ...]:
    """Such as train0, train1, spare7 of "train[0-1],spare7"; none of what is no list of nodes, as "(None)"."""
    if not short or short.startswith("("):
        return ()
    if "[" not in short:
        return tuple(short.split(","))
    command = ("scontrol", "show", "hostnames", short)
    return tuple(subprocess.run(command, capture_output=True, text=True, check=True, timeout=ANSWER_S).stdout.split())
