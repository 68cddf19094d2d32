"""A mini-cascade on a real Slurm, with Prefect and MLflow servers of its own; each of those that it needs is killed, at
a moment drawn from a seed. A service starts the driver again; the digests are those of an undisturbed run.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cluster_stack
import pytest
from cluster_stack import SEED, Server, cluster, environment, servers  # noqa: F401
from mini import Mini
from slurm_cluster import Cluster, missing
from slurm_stages import wait_for

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
VICTIMS = ("rank", "node", "slurmd", "slurmctld", "driver", "prefect", "mlflow", "requeue", "preemption")
FIT = ["graph=toy_ranks", "stages.fit.steps=60", "stages.fit.runtime={nproc: 2, threads: 1}"]
ON = [*cluster_stack.SETTINGS, "register=true", "runtime.max_attempts=2"]
ON += ["cluster.slurm.stages={fit: {nodes: 2, partition: training}}"]


@pytest.mark.parametrize("victim", VICTIMS)
def test_killed_in_turn(victim, cluster, servers, environment, tmp_path, capsys) -> None:  # noqa: F811
    draw = random.Random(f"{SEED} {victim}")
    mini = Mini(tmp_path, capsys)
    settings = [*FIT, *ON, *cluster_stack.tracked(servers), "stages.fit.step_s=0.2"]
    here = mini.run(f"store={tmp_path / 'here'}", *FIT, "cluster=local")
    step = draw.randrange(3, 40)
    strike, mend = _blow(victim, cluster, servers, draw)

    def ready() -> Path:
        return mini.wait_for_step("fit", step, timeout=300)

    at, said = cluster_stack.to_the_end(lambda: mini.process(*settings), ready, strike, mend, draw.uniform(1, 4))
    print(f"seed {SEED}, {victim} at step {step}: {said}")
    assert cluster_stack.made(mini.store) == {name: row["digest"] for name, row in here.items()}
    cluster_stack.nothing_is_left(mini, cluster, servers, at)
    assert cluster_stack.candidate(servers)["path"].startswith(str(mini.store.root / "score"))


def _blow(
    victim: str,
    there: Cluster,
    others: dict[str, Server],
    draw: random.Random,  # noqa: F811
) -> tuple[Callable[[Path, Any], Any], Callable[[], Any]]:
    """(what strikes, given the stage directory and the driver; what mends, after a while)."""

    def job() -> str:
        rows = (row.split("|") for row in there.queue("%j|%A|%T"))
        return next(i for name, i, state in rows if name.startswith("fit-") and state == "RUNNING")

    def rank(directory: Path, _: Any) -> None:
        os.kill(draw.choice(cluster_stack.processes("stepvideo.job", str(directory))), signal.SIGKILL)

    def nothing() -> None: ...

    node = draw.choice(["training0", "training1"])
    down = lambda: wait_for(lambda: "down" in there.state(node), timeout=60)  # noqa: E731
    daemon = there.folder / f"{node}.pid"
    urgent = ["--partition=urgent", f"--nodelist={node}", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"]
    blows: dict[str, tuple[Callable[[Path, Any], Any], Callable[[], Any]]] = {
        "rank": (rank, nothing),
        "node": (lambda *_: there.kill(node), lambda: (down(), there.revive(node))),
        "slurmd": (lambda *_: os.kill(int(daemon.read_text()), signal.SIGKILL), lambda: there.revive(node)),
        "slurmctld": (lambda *_: there.kill("controller"), lambda: there.revive("controller")),
        "driver": (lambda _, process: process.kill(), nothing),
        "requeue": (lambda *_: there.ask("scontrol", "requeue", job()), nothing),
        "preemption": (lambda *_: there.ask("sbatch", *urgent), nothing),
    }
    if victim in others:
        return (lambda *_: others[victim].kill()), others[victim].start
    return blows[victim]
