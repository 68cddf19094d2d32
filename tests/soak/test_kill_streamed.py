"""Streamed training within a cascade on a real Slurm, Prefect and MLflow beside it: its pipe's producer, its pipe's
consumer and the consumer of its telemetry are killed, at a step drawn from a seed. The bytes are those from the cache.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path

import cluster_stack
import pytest
from cluster_stack import SEED, cluster, environment, servers  # noqa: F401
from mini import Mini
from slurm_cluster import missing
from slurm_stages import wait_for
from whole import Smoke

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
STEPS, STAGE = 60, "t2vi_192.s1"
PROFILE = ["graph=flows.table", "profile=smoke", f"stages.t2vi_192.steps={STEPS}"]
PLACES = "cluster.slurm.stages={producer.t2i: {partition: inference}, producer.t2vi_192.s1: {partition: inference}}"
ON = ["latents=streamed", "runtime.max_attempts=2", *cluster_stack.SETTINGS, "cluster.slurm.partition=training", PLACES]
COUNT = "SELECT step, count(*) FROM span WHERE name = 'step' GROUP BY step ORDER BY step"


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Smoke:
    """A run from the cache as far as the stage that is disturbed; and the index of a streamed one."""
    made = Smoke(tmp_path_factory.mktemp("cached"), *PROFILE[1:], "tracking=none")
    made.first = made.run(until=STAGE, timeout=1500)  # type: ignore[attr-defined]
    made.run("latents=streamed", until="latents", timeout=600)
    return made


@pytest.mark.parametrize("victim", ("producer", "consumer", "telemetry"))
def test_killed_in_a_cascade(victim, cached, cluster, servers, environment, tmp_path, capsys) -> None:  # noqa: F811
    draw = random.Random(f"{SEED} {victim}")
    mini, step = Mini(tmp_path, capsys), draw.randrange(5, STEPS - 20)
    shutil.copytree(cached.store.root, mini.store.root, ignore=shutil.ignore_patterns("t2*", "_runs", "_telemetry"))
    settings = [*PROFILE, *ON, *cluster_stack.tracked(servers)]

    def process():
        return mini.process(*settings, "--until", STAGE)

    def ready() -> Path:
        return mini.wait_for_step(STAGE, step, timeout=900)

    def strike(directory: Path, _: object) -> None:
        words = {
            "producer": ("stepvideo.job", str(directory / "producers")),
            "consumer": ("stepvideo.job", f"{directory}"),
            "telemetry": ("telemetry", "ship", str(mini.store.root)),
        }[victim]
        wait_for(lambda: _those(victim, words), timeout=60)
        os.kill(draw.choice(_those(victim, words)), signal.SIGKILL)

    at, said = cluster_stack.to_the_end(process, ready, strike, lambda: None, 0.0)
    print(f"seed {SEED}, {victim} at step {step}: {said}")
    made = cluster_stack.made(mini.store)
    for stage in ("t2i", STAGE):
        assert made[stage] == cached.first[stage]["digest"]  # type: ignore[attr-defined]
    cluster_stack.nothing_is_left(mini, cluster, servers, at)
    assert mini.cli("telemetry", "ship", str(mini.store.root))[0] == 0
    _every_step_once(mini.store.root)


def _those(victim: str, words: tuple[str, ...]) -> list[int]:
    found = cluster_stack.processes(*words)
    return [p for p in found if victim != "consumer" or p not in cluster_stack.processes("stepvideo.job", "producers")]


def _every_step_once(store: Path) -> None:
    from stepvideo.telemetry.views import open_views

    with open_views(store / "_telemetry", "t2vi") as views:
        rows = views.sql(COUNT)
    steps = [step for step, _ in rows]
    assert {count for _, count in rows} == {1}
    assert steps == list(range(steps[0], steps[0] + len(steps))) and len(steps) >= STEPS - 1
