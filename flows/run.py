"""`stepvideo run` and `stepvideo plan`."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import screen
from flows.compose import compose, graph_module
from flows.forecast import forecast
from flows.graph import Node, build
from flows.plan import DEPENDS, HIT, plan, plan_rows
from flows.prepared import NoBoard, Prepared, run_prepared, summary
from stepvideo.artifact import Store
from stepvideo.errors import ConfigError

if TYPE_CHECKING:
    from stepvideo.training.predict import Prediction

NEXT = 'make ui | stepvideo status | stepvideo generate "一个红色的圆向右移动" --out red.mp4'


def plan_command(overrides: list[str], until: str | None, as_json: bool) -> int:
    """Print what a run would do; nothing is written."""
    from tasks.slurm_script import preview

    cfg = compose(overrides)
    nodes = build(cfg, until)
    steps = plan(nodes, Store(cfg["store"]))
    predicted, disk = predict(cfg), forecast(cfg, nodes)
    if as_json:
        rows, needs = plan_rows(steps), {n.stage: n for n in disk.needs}
        for row in rows:
            if row["stage"] in predicted:
                row |= {"predicted": predicted[row["stage"]].row()}
            if row["stage"] in needs:
                row |= {"disk": vars(needs[row["stage"]])}
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return 0
    console = screen.console()
    console.print(screen.plan_table(steps))
    to_run = [p for name, p in predicted.items() if name in {s.node.name for s in steps if s.state != HIT}]
    for line in screen.predicted_lines(to_run):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(disk.line(), markup=False, highlight=False, soft_wrap=True)
    if disk.problem:
        console.print(f"it cannot run: it {disk.problem}; `stepvideo gc` frees some", style="yellow", markup=False)
    hits, waits = (sum(s.state == state for s in steps) for state in (HIT, DEPENDS))
    if cfg["cluster"]["launcher"] == "slurm":
        todo = ((s.node.name, s.node.config) for s in steps if s.state != HIT)
        for names, text in preview(todo, Path(cfg["store"]), cfg["cluster"]["slurm"]).items():
            console.print(f"sbatch of {names}:\n{text}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{hits} of {len(steps)} stages are there, {len(steps) - hits - waits} run, {waits} depend on them")
    settings = " ".join(overrides)
    more = f"stepvideo emulate step {settings} | stepvideo emulate fits {settings}"
    console.print(f"next: stepvideo run {settings} | where time and memory go: {more}", markup=False)
    return 0


def planned(overrides: list[str]) -> list[Node]:
    """The stages of a cascade, in their order."""
    return build(compose(overrides))


def predict(cfg: dict[str, Any]) -> dict[str, Prediction]:
    """{stage: seconds of a step and memory} of the stages that train the DiT.

    Raises:
        ConfigError: ranks that do not divide as asked, or an unknown GPU.
    """
    from stepvideo.emulator.machine import target
    from stepvideo.training.predict import predictions

    try:
        return {p.stage: p for p in predictions(build(cfg), target(cfg["cluster"]["gpu"]))}
    except ValueError as e:
        raise ConfigError(str(e)) from e


def planned_for(overrides: list[str]) -> tuple[list[Node], str]:
    """The stages of a cascade, and the GPU that they are to run on, if the config names one."""
    cfg = compose(overrides)
    return build(cfg), cfg["cluster"]["gpu"]


def trained_configs(overrides: list[str]) -> dict[str, dict[str, Any]]:
    """{stage: config} of the DiT's training stages of a cascade, in their order."""
    return {node.name: node.config for node in planned(overrides) if node.kind == "train"}


def run_command(overrides: list[str], until: str | None, as_json: bool) -> int:
    """Run a cascade; its table, its page and what to do next at the end."""
    started = time.monotonic()
    console = screen.console(stderr=as_json)
    prepared = Prepared.make(overrides, until, console)
    if prepared.cfg["tracking"]["prefect"]:
        _in_prefect(prepared)
    else:
        prepared.results = run_prepared(prepared, NoBoard())
    if as_json:
        print(json.dumps(summary(prepared.results), indent=1, ensure_ascii=False))
        return 0
    console.print(screen.result_table(prepared.results, prepared.links))
    console.print(f"{screen.clock(time.monotonic() - started)}; the same command again takes everything from the store")
    for note in prepared.notes:
        console.print(note, soft_wrap=True, markup=False)
    console.print(f"next: {_next(prepared)}", soft_wrap=True, markup=False)
    return 0


def _next(prepared: Prepared) -> str:
    """A graph of its own may say what to do with what it made."""
    hint = getattr(graph_module(prepared.cfg["graph"]), "next_command", None)
    return hint({name: o.artifact.out for name, o in prepared.results.items()}) if hint else NEXT


def _in_flow(cascade: Any, prepared: Prepared) -> None:
    """Raises what ended the cascade; a Prefect server that was lost on the way is a note."""
    from flows.parameters import groups

    try:
        cascade(prepared.overrides, prepared.until, **groups(prepared.overrides), return_state=True).result()
    except BaseException as e:
        if prepared.error:
            raise prepared.error from None
        if not prepared.results or not isinstance(e, Exception):
            raise
        prepared.notes.append(f"Prefect was not reached: {e}")
    if prepared.error:
        raise prepared.error


def _in_prefect(prepared: Prepared) -> None:
    from tasks.prefect_server import temporary_server

    # Tracebacks of stages are in their logs and the flow's state; the message is for the terminal.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    work = Path(prepared.cfg["work"])
    with temporary_server(work / "logs" / "prefect-server.log") as wait_until_up:
        if prepared.cfg["tracking"]["mlflow"]:
            import mlflow  # noqa: F401 - while the server starts

        from flows.cascade import PREPARED, cascade
        from tasks.reap import flow_closed

        wait_until_up()
        token = PREPARED.set(prepared)
        try:
            _in_flow(cascade, prepared)
        finally:
            PREPARED.reset(token)
            flow_closed(Store(prepared.cfg["store"]), prepared.record_id)
