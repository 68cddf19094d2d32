"""The search for parallelism as a Prefect flow: a task a stage, plans as a table in the UI, a file as the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows.compose import compose
from flows.search import Asked, run


def _name() -> str:
    return f"search {flow_run.parameters['write']}".strip()


@task(name="search", task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def part(name: str, call: Callable[[], None]) -> None:
    call()


@flow(name="search_parallelism", flow_run_name=_name, retries=0, validate_parameters=False)
def search_parallelism(
    overrides: list[str] | None = None,
    stages: list[str] | None = None,
    gpu: str = "",
    gpus: int = 0,
    hardware: str = "",
    calibration: str = "",
    memory_gb: float = 0.0,
    any: bool = False,
    top: int = 5,
    write: str = "",
    trials: int = 0,
    seed: int = 0,
    objectives: list[str] | None = None,
) -> dict[str, Any]:
    """The fastest plan of each training stage; the parameters are JSON, those of `stepvideo emulate search`.

    Args:
        overrides: Settings of the cascade whose stages are planned, "key=value", such as profile=30b.
        stages: Which training stages; empty: all.
        gpu: A name of stepvideo/emulator/hardware.yaml; empty: the one of the settings.
        gpus: How many; 0: as the settings have it.
        hardware: A file of hardware instead of ours.
        calibration: A file that `stepvideo emulate` wrote on the machine.
        memory_gb: Memory of a GPU; 0: that of its kind.
        any: Plans too that our trainer cannot run.
        top: How many plans of each stage are shown.
        write: Name under conf/parallel to write the plans to; empty: nothing is written.
        trials: Of Optuna instead of all plans; 0: all.
        seed: Of the trials.
        objectives: What is to be best, such as mfu.

    Returns:
        What `flows.search.run` does.
    """
    asked = Asked(
        list(overrides or []),
        list(stages or []),
        gpu,
        gpus,
        hardware,
        calibration,
        memory_gb,
        any,
        top,
        write,
        trials,
        seed,
        list(objectives or ["mfu"]),
    )
    found = run(asked, compose(asked.overrides), _step)
    for name, plans in found["stages"].items():
        key = "plans-" + "".join(c if c.isalnum() else "-" for c in name).lower()
        create_table_artifact(table=plans["choices"], key=key, description=f"Fastest plans of {name}")
    text = "\n\n".join(found["text"])
    create_markdown_artifact(markdown=f"```\n{text}\n```", key="search-parallelism", description=asked.command)
    return found


def _step(name: str, call: Callable[[], Any]) -> Any:
    """A Prefect task; what it returns comes back past Prefect, which need not store it."""
    kept: list[Any] = []
    part(name, lambda: kept.append(call()))
    return kept[0]
