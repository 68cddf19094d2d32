"""Composition: every mistake is an error that names the key and the fix; threads agree."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows.compose import ROOT, compose
from flows.graph import build
from stepvideo.errors import ConfigError

BASE = ["graph=toy_stages", "profile=bare"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("stages.fit.lrr=1", "unknown key stages.fit.lrr; did you mean lr?"),
        ("stages.fit.runtime.thread=2", "did you mean threads?"),
        ("stages.fti.lr=1", "did you mean fit?"),
        ("stages.fit.lr=abc", "stages.fit.lr=abc"),
        ("stages.fit=3", "set its fields"),
        ("only.fit.lrr=1", "did you mean lr?"),
        ("only.fti.lr=1", "did you mean fit?"),
        ("only.fit.lr=-1", "lr is -1.0; give more than 0"),
        ("stages.fit.lr=0", "lr is 0.0; give more than 0"),
        ("store='s3://bucket/x'", "store=s3://bucket/x: give a folder"),
        ("profile=nope", "available: 30b, 4b, bare, curate, micro, smoke"),
        ("profile=3", "cannot read profile=3"),
        ("stages.fit.lr=[1", "cannot read 'stages.fit.lr=[1'"),
        ("cluster=nope", "available: debug"),
        ("cluster.launcher=pbs", "give one of debug"),
        ("cluster={launcher: debug, concurrency: 2}", "one process: give 1"),
        ("weights.vae=borrowed", "give one of train, shipped, tune, or a model's folder"),
        ("seed", "written key=value"),
        ("sft_runs=0", "give 1 or more"),
        ("graph=no_such_module", "graph=no_such_module"),
    ],
)
def test_a_mistake_names_the_key_and_the_fix(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as e:
        build(compose([*BASE, override]))
    assert said in str(e.value)


def test_settings_reach_the_nodes_in_order() -> None:
    cfg = compose([*BASE, "seed=3", "runtime.threads=1", "stages.fit.seed=4", "stages.fit.lr=0.2", "only.fit.lr=0.5"])
    nodes = {n.name: n for n in build(cfg)}
    assert nodes["noise"].config["seed"] == 3 and nodes["fit"].config["seed"] == 4
    assert nodes["fit"].config["lr"] == 0.5
    assert all(n.config["runtime"]["threads"] == 1 for n in nodes.values())


def test_the_result_is_plain_and_absolute() -> None:
    cfg = compose([*BASE, "raw=clips", "store=s"])
    assert cfg["raw"] == str(Path("clips").absolute()) and cfg["store"] == str(Path("s").absolute())
    assert cfg["work"] == str(ROOT / "runs")
    assert cfg["tracking"]["mlflow_uri"] == f"sqlite:///{ROOT}/runs/mlflow.db"
    assert type(cfg["stages"]["fit"]) is dict


def test_eight_threads_composing_at_once_agree() -> None:
    def one(i: int) -> float:
        return compose([*BASE, f"stages.fit.lr={i + 1}"])["stages"]["fit"]["lr"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(16))) == [i + 1.0 for i in range(16)]


def _known(group: str) -> list[str]:
    return sorted(p.stem for p in (ROOT / "conf" / group).glob("*.yaml"))


# Profiles and clusters have no keys in common: each of one with one of the other.
@pytest.mark.parametrize(
    ("profile", "cluster"),
    [*((p, "slurm") for p in _known("profile")), *(("smoke", c) for c in _known("cluster") if c != "slurm")],
)
def test_every_profile_and_cluster_composes(profile: str, cluster: str) -> None:
    cfg = compose([f"profile={profile}", f"cluster={cluster}", "tracking=local"])
    assert cfg["name"] == profile
    assert cfg["cluster"]["launcher"] == {"h800": "slurm"}.get(cluster, cluster)


def test_raw_may_be_a_url() -> None:
    assert compose([*BASE, "raw='s3://bucket/a b'"])["raw"] == "s3://bucket/a b"
