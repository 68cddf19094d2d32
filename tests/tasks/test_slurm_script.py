"""What a stage asks of Slurm, and the batch script that says so; no Slurm is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.compose import compose
from stepvideo.config import load
from stepvideo.errors import ConfigError
from tasks.slurm_config import SlurmConfig
from tasks.slurm_script import batch_script, preview

STAGES = {"t2vi_*": {"nodes": 4, "gpus_per_node": 8}, "t2vi_540": {"nodes": 32}, "curate": {"partition": "inference"}}


def script(stage: str, runtime: dict, **slurm) -> str:
    return batch_script(
        stage, {"runtime": runtime}, Path("/store") / stage / "k", 2, f"{stage}-1", SlurmConfig(**slurm)
    )


def test_later_patterns_win_and_a_stages_own_options_over_all() -> None:
    config = SlurmConfig(partition="training", stages=STAGES)
    assert config.resources("t2i").nodes == 1
    assert config.resources("t2vi_192").nodes == 4 and config.resources("t2vi_540").nodes == 32
    own = config.resources("t2vi_540", {"nodes": 2, "exclude": "bad1"})
    assert (own.nodes, own.gpus_per_node, own.exclude, own.partition) == (2, 8, "bad1", "training")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"nodes": 0}, "nodes is 0; give 1 or more"),
        ({"poll_s": 0}, "poll_s is 0"),
        ({"stages": {"t2i": {"partion": "x"}}}, "partion"),
        ({"stages": {"t2i": 4}}, "stages.t2i is 4; give options of a job"),
        ({"stages": {"t2i": {"nodes": -1}}}, "nodes is -1"),
    ],
)
def test_bad_options_are_named(given: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(SlurmConfig, given, "cluster.slurm")


def test_the_script_runs_the_line_that_runs_a_stage_by_hand() -> None:
    text = script("t2i", {}, account="video", qos="high", constraint="ib", setup=["module load cuda"], time_min=90)
    for line in ("account=video", "qos=high", "constraint=ib", "time=90", "requeue", "job-name=t2i-1"):
        assert f"#SBATCH --{line}\n" in text
    assert "#SBATCH --output=/store/t2i/k/logs/attempt-2.out\n" in text
    assert text.index("module load cuda") < text.index("export PYTHONPATH=") < text.index("srun ")
    assert (
        text.splitlines()[-1].endswith(" -P -m stepvideo.job /store/t2i/k") or "-m stepvideo.job /store/t2i/k\n" in text
    )


def test_arrays_and_ranks() -> None:
    array = script("tags", {"array": 64}, array_parallelism=16)
    assert "#SBATCH --array=0-63%16\n" in array and "/store/tags/k $SLURM_ARRAY_TASK_ID/64" in array
    ranks = script("t2vi", {"nproc": 256}, nodes=32)
    assert (
        "#SBATCH --nodes=32\n" in ranks and "#SBATCH --ntasks-per-node=8\n" in ranks and "RANK=$SLURM_PROCID" in ranks
    )
    with pytest.raises(ConfigError, match="runtime.nproc=250 ranks, which 32 nodes cannot share evenly"):
        script("t2vi", {"nproc": 250}, nodes=32)


def test_the_plan_shows_each_script_once() -> None:
    cluster = compose(["profile=smoke", "cluster=h800", "cluster.slurm.account=video"])["cluster"]
    shown = preview([(n, {}) for n in ("t2i", "curate", "evaluate.turbo", "sft.1")], Path("/store"), cluster["slurm"])
    assert list(shown) == ["t2i, sft.1", "curate", "evaluate.turbo"]
    assert "--gpus-per-node=8" in shown["t2i, sft.1"] and "--gpus-per-node" not in shown["curate"]
    assert all("--account=video" in text for text in shown.values())


def test_a_heterogeneous_job_has_components_that_end_with_the_stage() -> None:
    command = "{python} -m producer --stage {stage_dir}"
    producers = {"partition": "inference", "nodes": 2, "tasks_per_node": 4, "command": command}
    text = script("t2vi", {"nproc": 16}, nodes=2, partition="training", stages={"t2vi": {"het": [producers]}})
    first, second = text.split("#SBATCH hetjob\n")
    assert "--partition=training" in first and "--ntasks-per-node=8" in first and "--requeue" in first
    for option in ("partition=inference", "nodes=2", "ntasks-per-node=4", "job-name=t2vi-1", "time=60"):
        assert f"#SBATCH --{option}\n" in second
    lines = second.splitlines()
    beside = next(i for i, line in enumerate(lines) if "--het-group=1" in line)
    stage = next(i for i, line in enumerate(lines) if "--het-group=0" in line)
    assert beside < stage and lines[beside].endswith("--stage /store/t2vi/k; sleep 1; done) &")
    assert "--output=/store/t2vi/k/logs/attempt-2.het1.out" in lines[beside]


@pytest.mark.parametrize(
    ("component", "said"),
    [
        ({"partition": "inference"}, "het.0.*has no command"),
        ({"command": "x", "gpus": 1}, "gpus"),
        ({"command": "x", "nodes": 0}, "nodes is 0"),
    ],
)
def test_bad_components_are_named(component: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(SlurmConfig, {"het": [component]}, "cluster.slurm")


def test_an_array_is_no_heterogeneous_job() -> None:
    with pytest.raises(ConfigError, match="runtime.array=4 and `het`"):
        script("tags", {"array": 4}, het=[{"command": "x"}])
