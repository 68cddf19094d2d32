"""The terminal: a plan, live progress with the time left, and the table at the end."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from flows.plan import Step
from flows.silence import Silence
from stepvideo.artifact import Artifact
from stepvideo.stage import StageSpec
from tasks.ledger import Ledger
from tasks.stages import Outcome

if TYPE_CHECKING:
    from stepvideo.training.predict import Prediction

STYLE = {
    "hit": "green",
    "run": "yellow",
    "pending": "yellow",
    "running": "cyan",
    "depends": "dim",
    "damaged": "red",
    "failed": "red",
}
# The metrics of a kind that say most; the first that a stage has is shown, else the first of all.
KEY_METRICS = {
    "raw": ("videos",),
    "render": ("clips",),
    "curate": ("clips",),
    "tags": ("clips",),
    "concepts": ("clusters",),
    "captions": ("captions",),
    "labels": ("approved",),
    "subsets": ("s1",),
    "text": ("clip_loss",),
    "latents": ("videos",),
    "train": ("loss",),
    "average": ("models",),
    "turbo": ("loss",),
    "dpo": ("loss",),
    "evaluate": ("heldout/all", "heldout/colour", "train/all", "train/colour"),
    "report": ("supported",),
}


def plan_table(steps: list[Step]) -> Table:
    table = Table(title="plan", title_justify="left")
    for column in ("stage", "kind", "", "why", "key"):
        table.add_column(column)
    for s in steps:
        table.add_row(s.node.name, s.node.kind, f"[{STYLE[s.state]}]{s.state.upper()}[/]", escape(s.why), s.key)
    return table


def predicted_lines(found: list[Prediction]) -> list[str]:
    """What the emulator says of the training stages of a plan."""
    if not found:
        return []
    lines = [
        f"  {p.stage:13} {p.seconds.total:8.3g} s a step, {p.seconds.mfu:5.1%} MFU, {p.memory / 1e9:5.1f} GB a rank"
        + (" - more than a device has" if p.memory > p.device else "")
        for p in found
    ]
    return [f"predicted, with constants: {found[0].basis}", *lines]


def console(stderr: bool = False) -> Console:
    """A console; tables are not squeezed when the output is a file."""
    made = Console(stderr=stderr)
    return made if made.is_terminal else Console(stderr=stderr, width=140)


def key_metric(artifact: Artifact) -> str:
    """ "name value" of the metric that says most of an artifact's kind, with its interval if the stage gave one."""
    kind, metrics = artifact.manifest.get("kind", ""), artifact.metrics
    name = next((k for k in KEY_METRICS.get(kind, ()) if k in metrics), "")
    if not name and kind == "evaluate":
        return "untestable: the oracle cannot read these videos"
    largest = max((k for k in metrics if k.startswith("psnr_")), key=lambda k: int(k[5:]), default="")
    name = name or largest or next(iter(metrics), "")
    if not name:
        return ""
    ends = [f"{metrics[end]:.4g}" for end in (f"{name}_low", f"{name}_high") if end in metrics]
    return f"{name} {metrics[name]:.4g}" + (f" ({' to '.join(ends)})" if len(ends) == 2 else "")


def result_table(results: Mapping[str, Outcome], links: Mapping[str, str]) -> Table:
    """Stage, cached or ran, time, key metric, and the MLflow link where there is one."""
    table = Table(title="cascade", title_justify="left")
    table.add_column("stage")
    table.add_column("")
    table.add_column("time", justify="right")
    table.add_column("metric")
    table.add_column("key")
    if links:
        table.add_column("MLflow run")
    for name, outcome in results.items():
        state = "[green]cached[/]" if outcome.cached else "[yellow]ran[/]"
        manifest = outcome.artifact.manifest
        seconds = manifest["finished"] - manifest["started"] if outcome.cached else outcome.seconds
        spent = f"({clock(seconds)})" if outcome.cached else clock(seconds)
        row = [name, state, spent, key_metric(outcome.artifact), manifest["key"][:8]]
        link = links.get(name, "")
        table.add_row(*row, *([f"[link={link}]{link[-32:][:8]}[/link]" if link else ""] if links else []))
    return table


def clock(seconds: float) -> str:
    """12.3 s, 4:05 or 1:02:03."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


class Screen:
    """A listener of stages: bars with the time left on a terminal, one line a stage elsewhere.

    Args:
        total: stages in all.
        here: they run on this machine.
    """

    def __init__(self, total: int, console: Console | None = None, here: bool = True) -> None:
        self.console = console or Console()
        self._total, self._count = total, 0
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}
        self._silence = Silence(self._silent, here)
        self._progress = Progress(
            TextColumn("[cyan]{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total} {task.fields[unit]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> Screen:
        self._progress.start()
        self._silence.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._silence.stop()
        self._progress.stop()

    def started(self, spec: StageSpec, ledger: Ledger, attached: bool) -> None:
        with self._lock:
            self._tasks[spec.stage] = self._progress.add_task(spec.stage, total=None, unit="")
        self._silence.heard(spec.stage)
        if attached or not self.console.is_terminal:
            self.console.print(f"{'↻ attached to' if attached else '▶'} {spec.stage} [dim]{spec.key}[/]")

    def events(self, spec: StageSpec, records: list[dict[str, Any]], offset: int) -> None:
        if records:
            self._silence.heard(spec.stage)
        last = next((r for r in reversed(records) if r["type"] == "progress"), None)
        if last and spec.stage in self._tasks:
            done, total = last["done"], last["total"]
            self._progress.update(self._tasks[spec.stage], completed=done, total=total, unit=last["unit"])
        for r in records:
            if r["type"] == "queue" and r["said"]:
                self._queued(spec.stage, r["said"])
            if r.get("name") in ("preempted", "failed"):
                self.console.print(
                    f"[yellow]! {spec.stage} {r['name']}[/] {escape(r.get('error', ''))}", highlight=False
                )

    def _silent(self, stage: str, said: str) -> None:
        self.console.print(f"  {stage} [dim]{escape(said)}[/]", highlight=False, soft_wrap=True)

    def _queued(self, stage: str, said: str) -> None:
        if self.console.is_terminal and stage in self._tasks:
            self._progress.update(self._tasks[stage], description=f"{stage} [dim]{escape(said)}[/]")
        else:
            self.console.print(f"  {stage} [dim]{escape(said)}[/]", highlight=False)

    def ended(self, spec: StageSpec, outcome: Outcome | None, error: BaseException | None) -> None:
        self._silence.ended(spec.stage)
        with self._lock:
            self._count += 1
            task = self._tasks.pop(spec.stage, None)
        if task is not None:
            self._progress.remove_task(task)
        place = f"[dim]{self._count:>2}/{self._total}[/]"
        if outcome is None:
            self.console.print(f"{place} [red]✗ {spec.stage}[/] {type(error).__name__}")
            return
        spent = "cached" if outcome.cached else clock(outcome.seconds)
        mark = "[green]=[/]" if outcome.cached else "[green]✓[/]"
        self.console.print(f"{place} {mark} {spec.stage:<20} {spent:>8}  {key_metric(outcome.artifact)}")
