"""Watches running Slurm jobs of stages, and does what StepMind decides: in the driver, or by `stepvideo mind watch`.

It finds jobs by the `slurm.json` of their stage directories, nodes by their agents' snapshots, and leaves what it did
in `mind.jsonl` of the stage. One watch at a time acts on a stage: it holds the lock `watch/` there. A job that somebody
cancelled, holds or suspends is not running, and is left alone.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from stepvideo import artifact, storage
from stepvideo.config import load
from stepvideo.errors import ArtifactError, ConfigError
from stepvideo.mind.classify import Finding
from stepvideo.mind.cluster import Node, NodeManager, NodeState, Unanswered
from stepvideo.mind.decide import Action, Decision, Mind, Policy
from stepvideo.mind.signals import NodeView, Observation
from stepvideo.mind.snapshot import Snapshots
from stepvideo.sink import read_events
from stepvideo.telemetry.schema import FOLDER as TELEMETRY
from tasks.mind_acts import folder_of, slurm, take_out, write
from tasks.mind_telemetry import Telemetry
from tasks.slurm_hosts import hostnames
from tasks.slurm_queue import RECORD, Job, squeue

ASK_EVERY_S = 2.0  # between two questions to Slurm
ENDED = {"finished", "failed", "preempted", "share_done"}  # last words of an attempt


@dataclass
class _Case:
    """A submission that is followed."""

    dir: Path
    name: str
    mind: Mind
    held: contextlib.ExitStack
    incarnation: tuple[str, float] | None = None  # of the job: its id, when it started
    offset: int = 0  # in events.jsonl
    step: int = 0
    checkpoints: int = 0
    last_word: str = ""
    working: bool = False  # the attempt has logged progress, not only its start
    acted: list[Action] = field(default_factory=list)
    nodes: tuple[str, ...] = ()

    @property
    def run(self) -> str:
        """Its name in telemetry."""
        return f"{self.dir.parent.name}/{self.dir.name}"

    def read(self) -> None:
        records, self.offset = read_events(self.dir / "events.jsonl", self.offset)
        for r in records:
            if r.get("type") == "progress":
                self.step, self.working = max(self.step, int(r["done"])), True
            elif r.get("type") == "event":
                self.last_word = r["name"]
                self.working = self.working and self.last_word != "attempt_started"
                self.checkpoints += r["name"] == "checkpoint"

    def begin(self, job: Job) -> None:
        self.incarnation, self.acted, self.nodes = (job.id, job.starts), [], hostnames(job.nodes)
        self.last_word, self.working = "", False
        self.mind.begin()


class Watch:
    """`look` is one round; `run` goes on until it is stopped."""

    def __init__(
        self,
        store: Path,
        manager: NodeManager,
        folder: Path,
        queue: Callable[[], dict[str, list[Job]] | None] = squeue,
        said: Callable[[str], None] = print,
    ) -> None:
        """folder: StepMind's; said: is told what was done, and what a person should look at."""
        self._store, self._manager, self._folder, self._policy = store, manager, folder, policy(folder)
        self._snapshots, self._queue, self._said = Snapshots(folder), queue, said
        self._telemetry = Telemetry(store / TELEMETRY, said)
        self._cases: dict[Path, _Case] = {}
        self._asked = float("-inf")
        self._trouble: dict[str, str] = {}  # what was said last of each job
        self._jobs: dict[str, list[Job]] = {}
        self._nodes: dict[str, Node] = {}

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            started = time.monotonic()
            with self._told("watch"):
                self.look(started, time.time())
            stop.wait(max(self._policy.every_s - (time.monotonic() - started), 0.05))
        for path in list(self._cases):
            self._leave(path)

    def look(self, now: float, wall: float) -> list[Decision]:
        """Look once, decide and act; gives what was acted on."""
        self._find()
        if not self._cases:
            return []
        if now >= self._asked + ASK_EVERY_S:
            self._ask(now)
        acted = []
        for case in self._cases.values():
            jobs = self._jobs.get(case.name, [])
            if len(jobs) == 1:  # elements of an array stand still when they please
                with self._told(case.name):
                    acted += self._follow(case, jobs[0], now, wall)
        return acted

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Trouble is said, once, and the next look may go better; whatever it is, the other jobs are watched on."""
        try:
            yield
            self._trouble.pop(what, None)
        except Exception as e:
            text = f"stepmind: {what}: {type(e).__name__}: {e}"
            if self._trouble.get(what) != text:
                self._trouble[what] = text
                self._said(text)

    def _find(self) -> None:
        records = {path.parent: path for path in self._store.glob(f"*/*/{RECORD}")}
        for directory in [d for d in self._cases if d not in records]:
            self._leave(directory)
        for directory, path in records.items():
            with contextlib.suppress(ArtifactError, KeyError):  # it has just ended
                name = storage.read_json(path)["name"]
                if directory in self._cases and self._cases[directory].name != name:
                    self._cases[directory].name, self._cases[directory].incarnation = name, None
                if directory not in self._cases:
                    held = contextlib.ExitStack()
                    if held.enter_context(artifact.lock(directory / "watch")):
                        self._cases[directory] = _Case(directory, name, Mind(self._policy), held)
                    else:
                        held.close()

    def _leave(self, directory: Path) -> None:
        case = self._cases.pop(directory)
        self._telemetry.leave(case.run)
        case.held.close()

    def _ask(self, now: float) -> bool:
        """False: Slurm says nothing, and what it said last stays."""
        self._asked = now
        try:
            jobs, nodes = self._queue(), self._manager.nodes()
        except Unanswered:
            return False
        if jobs is None:
            return False
        self._jobs, self._nodes = jobs, {n.name: n for n in nodes}
        return True

    # -------------------------------------------------------------------------------------------------- one job

    def _follow(self, case: _Case, job: Job, now: float, wall: float) -> list[Decision]:
        if job.state == "RUNNING" and case.incarnation != (job.id, job.starts):
            case.begin(job)
            self._telemetry.follow(case.run, job.starts)
        case.read()
        if job.state != "RUNNING" or case.last_word in ENDED:
            return []
        slow = self._telemetry.findings(case.run)
        views = {n: self._view(n, job.id, now, wall, (slow[n],) if n in slow else ()) for n in case.nodes}
        seen = Observation(now, case.offset, case.step, case.checkpoints, views, case.working)
        decision = case.mind.observe(seen)
        if decision.action == Action.WAIT or decision.action in case.acted:
            return []
        if not self._ask(now) or [(j.state, j.starts) for j in self._jobs.get(case.name, ())] != [
            ("RUNNING", job.starts)
        ]:
            return []  # it was ended or cancelled since, or nobody knows
        self._act(case, job, decision)
        case.acted.append(decision.action)
        return [decision]

    def _view(self, node: str, job: str, now: float, wall: float, slow: tuple[Finding, ...]) -> NodeView:
        view = self._snapshots.view(node, job, now, wall)
        known = self._nodes.get(node)
        suspect = self._policy.agent_s < view.age_s < float("inf")
        return NodeView(
            **{f: getattr(view, f) for f in ("name", "age_s", "processes", "stopped", "gauges")},
            findings=view.findings + slow,
            state=known.state if known else NodeState.UNKNOWN,
            reachable=self._manager.reachable(node) if suspect else None,
        )

    def _act(self, case: _Case, job: Job, decision: Decision) -> None:
        """Raises Unanswered, OSError, ArtifactError: not done, to be tried again at the next look."""
        started, done = time.monotonic(), []
        try:
            if decision.action != Action.ASK:
                done = take_out(self._manager, decision, self._folder)
        except ConfigError as e:  # not allowed, or no such node: a person must help; the job can leave it all the same
            done.append(f"in vain: {e}")
        if decision.action == Action.RESTART and self._manager.requeue(job.id, decision.nodes):
            done.append("requeue")
        self._said(write(case.dir, job, decision, done, started))


_WATCHES: dict[Path, threading.Thread] = {}
_STARTING = threading.Lock()


def policy(folder: Path) -> Policy:
    """As `restarts.json` in StepMind's folder says; what it leaves out is as `Policy` has it."""
    path = folder / "restarts.json"
    return load(Policy, storage.read_json(path) if path.exists() else {}, str(path))


def watch(store: Path) -> None:
    """Watch all jobs of a store, in a thread of this process, if agents are at work and it is not done already."""
    with _STARTING:
        if store in _WATCHES or not (folder := folder_of(store)):
            return
        looking = Watch(store, slurm(), folder, said=partial(print, file=sys.stderr))
        _WATCHES[store] = threading.Thread(target=looking.run, args=(threading.Event(),), daemon=True, name="stepmind")
        _WATCHES[store].start()
