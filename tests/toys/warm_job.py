"""`python -m stepvideo.job DIR` for a test's Slurm jobs, in a fork of the process that has imported what jobs need
(`rank_pool.py`). Slurm has the job, its place and environment, its output and exit code; but the process that works has
another parent, so that this is nothing for tests of kills.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from rank_pool import RankPool


def command(pool: RankPool) -> str:
    """For `cluster.slurm.python`."""
    return f"{sys.executable} {Path(__file__).resolve()} {pool.address}"


def run(client: int, folder: str, stage_dir: str) -> int:
    """What the fork does: with the output of the process `client`, in its folder."""
    for number in (1, 2):
        os.dup2(os.open(f"/proc/{client}/fd/{number}", os.O_WRONLY | os.O_APPEND), number)
    os.chdir(folder)
    from stepvideo import job

    return job.main(stage_dir)


def main(address: str, *arguments: str) -> int:
    import warm_job  # not __main__, which the fork's is not

    pool = RankPool.at(address)
    pid = pool.start(dict(os.environ), warm_job.run, os.getpid(), os.getcwd(), arguments[-1])
    while (code := pool.exit_code(pid)) is None:
        time.sleep(0.05)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
