"""`stepvideo team start | stop | status`: a team's servers on this machine, each after those that it needs."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence

from rich.markup import escape
from rich.table import Table

from flows import screen
from stepvideo.artifact import lock
from stepvideo.errors import ConfigError, StepVideoError
from tasks.team import databases, processes
from tasks.team.layout import ENV, Stack, find_stack, folder_of, open_stack
from tasks.team.parts import NAMES, all_parts, need
from tasks.team.postgresql import write_pgpass


def start_command(folder: str | None, port: int | None, store: str | None, only: Sequence[str] = ()) -> int:
    """Have every service run, or those of `only`; what runs already stays. Says where each is and what to do next."""
    chosen(only)
    need(only or NAMES)
    stack = open_stack(folder, port)
    parts = all_parts(stack, store)
    console = screen.console()
    began = time.monotonic()
    with _alone(stack):
        write_pgpass(stack)
        for part in parts:
            if only and part.name not in only:
                continue
            if part.name in ("mlflow", "prefect") and (old := databases.behind(stack)):
                raise ConfigError(
                    f"{', '.join(old)}: tables of an older version than the one installed, or half-migrated; "
                    "stepvideo team upgrade dumps and migrates them"
                )
            at = time.monotonic()
            with console.status(f"{part.name} …"):
                new = processes.start(stack, part)
            took = f"started in {time.monotonic() - at:.1f} s" if new else "runs"
            console.print(f"{part.name:<11} {took:<18} {part.place:<24} {part.about}", markup=False, highlight=False)
        if "s3_secret_key" in stack.secrets:
            stack.write_env()
    env = stack.folder / ENV
    console.print(f"all answer after {time.monotonic() - began:.0f} s", markup=False)
    console.print(f"next: source {env} && stepvideo run profile=smoke tracking=team | stepvideo doctor", soft_wrap=True)
    return 0


def stop_command(folder: str | None, only: Sequence[str] = ()) -> int:
    """End what `start` has started, the last first. What it holds stays and is there after the next start."""
    chosen(only)
    stack = _existing(folder)
    console = screen.console()
    with _alone(stack):
        parts = {p.name: p for p in all_parts(stack)}
        for name in reversed(NAMES):
            if only and name not in only:
                continue
            done = processes.stop(stack, parts[name])
            console.print(f"{name:<11} {'stopped' if done else 'did not run'}", markup=False, highlight=False)
    console.print(f"next: stepvideo team start | its data stay in {stack.folder}", markup=False, soft_wrap=True)
    return 0


def upgrade_command(folder: str | None) -> int:
    """Databases of an older MLflow or Prefect to the installed versions: dumped, then migrated, their servers ended."""
    stack = _existing(folder)
    need(("postgresql", "mlflow"))
    parts = {p.name: p for p in all_parts(stack)}
    console = screen.console()
    with _alone(stack):
        processes.start(stack, parts["postgresql"])
        todo = databases.behind(stack)
        for name in ("worker", "prefect", "mlflow") if todo else ():
            processes.stop(stack, parts[name])
        for name in todo:
            console.print(f"{name}: dumped to {databases.backup(stack, name)}", markup=False, soft_wrap=True)
            databases.upgrade(stack, name)
            console.print(f"{name}: upgraded", markup=False)
    print("next: stepvideo team start" if todo else "all databases are as the installed versions want them")
    return 0


def status_command(folder: str | None, as_json: bool) -> int:
    """Each service: whether it runs and answers; exit code 1 unless all do."""
    stack = _existing(folder)
    rows = []
    for part in all_parts(stack):
        pid = processes.pid_of(stack, part.name)
        state = "stopped" if pid is None else "answers" if part.answers() else "does not answer"
        rows.append(
            {"part": part.name, "state": state, "pid": pid, "place": part.place, "log": str(stack.log(part.name))}
        )
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        table = Table(show_header=False)
        for row in rows:
            style = "green" if row["state"] == "answers" else "red"
            table.add_row(row["part"], f"[{style}]{row['state']}[/]", str(row["pid"] or ""), escape(row["place"]))
        screen.console().print(table)
    wrong = [r["part"] for r in rows if r["state"] != "answers"]
    if not as_json:
        print("next: stepvideo team start" if wrong else f"next: source {stack.folder / ENV}")
    return 1 if wrong else 0


def chosen(only: Sequence[str]) -> None:
    """Raises ConfigError for a service that does not exist."""
    from flows.compose import near

    for name in only:
        if name not in NAMES:
            raise ConfigError(f"there is no service {name!r}{near(name, NAMES)}")


def _existing(folder: str | None) -> Stack:
    stack = find_stack(folder)
    if stack is None:
        raise ConfigError(f"there is no team stack in {folder_of(folder)}; stepvideo team start makes one")
    return stack


@contextlib.contextmanager
def _alone(stack: Stack) -> Iterator[None]:
    """One start or stop at a time."""
    with lock(stack.folder) as mine:
        if not mine:
            raise StepVideoError(f"another `stepvideo team` is at {stack.folder}; wait for it")
        yield
