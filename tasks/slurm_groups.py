"""Exchanges among groups of Slurm's nodes, as tests for `stepvideo.mind.bisect`: a job a group, a round at once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from stepvideo.mind.bisect import Group

QUEUE_S = 20  # a node that is not there for us by then fails its group


@dataclass(frozen=True)
class SlurmGroups:
    """`groups` → bus bandwidth of each one's all-reduce in GB/s; None: it failed, or did not end in time.

    Nodes must take jobs of this user: in `partition`, or in a reservation for maintenance.
    """

    partition: str = ""
    reservation: str = ""
    seconds: float = 1.0  # of each pattern
    timeout_s: float = 120.0
    cuda: bool = False

    def __call__(self, groups: Sequence[Group]) -> list[float | None]:
        with ThreadPoolExecutor(len(groups)) as pool:
            return list(pool.map(self._bandwidth, groups))

    def _bandwidth(self, group: Group) -> float | None:
        from torch.distributed import TCPStore

        store = TCPStore("0.0.0.0", 0, is_master=True, wait_for_workers=False)
        where = {"partition": self.partition, "reservation": self.reservation, "nodelist": ",".join(group)}
        command = ["srun", f"--nodes={len(group)}", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
        command += [f"--immediate={QUEUE_S}"]
        command += [f"--{k}={v}" for k, v in where.items() if v] + [f"--time={1 + self.timeout_s // 60:.0f}"]
        command += ["--gpus-per-node=1"] * self.cuda
        rank = [sys.executable, "-m", "stepvideo.mind.stress.group", "--store", str(store.port)]
        rank += ["--seconds", str(self.seconds), "--timeout", str(self.timeout_s)] + ["--cuda"] * self.cuda
        try:
            limit = QUEUE_S + self.timeout_s + 30
            done = subprocess.run([*command, *rank], capture_output=True, text=True, timeout=limit)
            return json.loads(done.stdout.splitlines()[-1])["tp"] if done.returncode == 0 else None
        except (subprocess.TimeoutExpired, ValueError, IndexError, KeyError):
            return None
