"""Bring one stage to a complete artifact: a verified hit, a live job to wait for, or a new job.

The same call again continues where the last one stopped, whoever made it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stepvideo import storage
from stepvideo.artifact import Artifact, Store
from stepvideo.errors import EXIT_PREEMPTED, ArtifactError, StageFailed
from stepvideo.job import EXIT_BUSY
from stepvideo.sink import read_events
from stepvideo.stage import StageSpec
from tasks.launch import TIMED_OUT, Handle, Launcher
from tasks.ledger import Ledger
from tasks.logs import newest_errors

POLL_S = 0.1
FOLLOW_S = 0.5
BACK_OFF_S = (0.2, 1.0, 5.0, 15.0)  # between resubmissions after preemptions


class Cancelled(KeyboardInterrupt):
    """The cascade is being stopped, by another hand than Ctrl-C; not an error of the stage."""


class Listener(Protocol):
    """Who wants to know how a stage goes: the terminal, MLflow, Prefect. Called from one thread at a time a stage."""

    def started(self, spec: StageSpec, ledger: Ledger, attached: bool) -> None: ...

    def events(self, spec: StageSpec, records: list[dict[str, Any]], offset: int) -> None:
        """New records of `events.jsonl`, and {"type": "queue", "said": …} when a queue says something new of its job.

        `offset` is where the next ones of the file begin.
        """
        ...

    def ended(self, spec: StageSpec, outcome: Outcome | None, error: BaseException | None) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """How a stage came to its artifact."""

    artifact: Artifact
    cached: bool
    seconds: float = 0.0  # this driver's waiting
    attempts: int = 0  # in all, those of former drivers included


class Silent:
    """A listener that does nothing."""

    def started(self, spec: StageSpec, ledger: Ledger, attached: bool) -> None: ...

    def events(self, spec: StageSpec, records: list[dict[str, Any]], offset: int) -> None: ...

    def ended(self, spec: StageSpec, outcome: Outcome | None, error: BaseException | None) -> None: ...


def run_stage(
    spec: StageSpec,
    launcher: Launcher,
    listener: Listener | None = None,
    *,
    grace_s: float = 30.0,
    cancel: threading.Event | None = None,
    lineage: Callable[[Ledger], dict[str, Any]] | None = None,
) -> Outcome:
    """See the module docstring. A preempted job is submitted again, a failed one up to `runtime.max_attempts` in all.

    Args:
        cancel: when it is set, the job is stopped and `Cancelled` raised.
        lineage: what to add to `spec.lineage`, asked before every submission (tracking ids are known only then).

    Raises:
        StageFailed: names the stage, the reason, the log and the line that runs it by hand.
        BaseException: KeyboardInterrupt and other cancellations, after the job was stopped.
    """
    store, listener = Store(spec.store), listener or Silent()
    hit = store.find(spec.stage, spec.key)
    if hit:
        _settle(launcher, hit.dir)
        outcome = Outcome(hit, cached=True)
        listener.ended(spec, outcome, None)
        return outcome
    directory = store.dir(spec.stage, spec.key)
    store.set_aside_damaged(spec.stage, spec.key)
    ledger = Ledger(directory)
    run = _Run(spec, store, directory, ledger, launcher, listener, grace_s, cancel or threading.Event(), lineage)
    started = time.monotonic()
    try:
        artifact = run.to_the_end()
    except BaseException as e:
        listener.ended(spec, None, e)
        raise
    outcome = Outcome(artifact, False, time.monotonic() - started, len(ledger.attempts))
    listener.ended(spec, outcome, None)
    return outcome


def _settle(launcher: Launcher, directory: Path) -> None:
    """Let go of a job whose driver did not live to see its artifact."""
    with contextlib.suppress(ArtifactError):
        if left := launcher.attach(directory, {}):
            left.poll()


@dataclass
class _Run:
    spec: StageSpec
    store: Store
    directory: Path
    ledger: Ledger
    launcher: Launcher
    listener: Listener
    grace_s: float
    cancel: threading.Event
    lineage: Callable[[Ledger], dict[str, Any]] | None
    handle: Handle | None = None
    offset: int = 0  # in events.jsonl, of what the listener has not seen

    def to_the_end(self) -> Artifact:
        runtime = self.spec.config.get("runtime", {})
        failures = preemptions = 0
        announced = False
        self.offset = int(self.ledger.tracking.get("offset", 0))
        while True:
            if self.cancel.is_set():
                raise Cancelled(f"stage {self.spec.stage} was cancelled")
            live = self.launcher.attach(self.directory, self.ledger.attempts[-1] if self.ledger.attempts else {})
            if not announced:
                self.listener.started(self.spec, self.ledger, live is not None)
                announced = True
            code = self._once(live, float(runtime.get("timeout_s", 0.0)))
            artifact = self.store.find(self.spec.stage, self.spec.key) if code == 0 else None
            if artifact:
                return artifact
            if code == EXIT_BUSY:
                time.sleep(POLL_S)
            elif code == EXIT_PREEMPTED:
                time.sleep(BACK_OFF_S[min(preemptions, len(BACK_OFF_S) - 1)])
                preemptions += 1
            else:
                failures += 1
                error = self._error()
                if failures >= int(runtime.get("max_attempts", 1)) or error.get("user"):
                    raise StageFailed(self._explain(code, error, failures))

    def _once(self, handle: Handle | None, timeout_s: float) -> int:
        """One job from submission, or from the moment of attaching, to its exit code."""
        self.handle = handle
        with _Follower(self):
            if not handle:
                if self.lineage:
                    self.spec.lineage |= self.lineage(self.ledger)
                self.spec.write(self.directory / "spec.json")
                here = {"driver": os.getpid(), "host": socket.gethostname()}
                number = self.ledger.begin_attempt(launcher=self.launcher.name, started=time.time(), **here)
                handle = self.launcher.submit(self.directory, number, timeout_s)
                self.ledger.update_attempt(**handle.ids)
            self.handle = handle
            code = self._wait(handle)
        self.ledger.update_attempt(ended=time.time(), exit=code)
        return code

    def _wait(self, handle: Handle) -> int:
        try:
            while (code := handle.poll()) is None:
                if self.cancel.wait(POLL_S):
                    raise Cancelled(f"stage {self.spec.stage} was cancelled")
            return code
        except BaseException:  # the flow is cancelled, and so is its job
            handle.stop(self.grace_s)
            raise

    def _error(self) -> dict[str, Any]:
        path = self.directory / "error.json"
        return storage.read_json(path) if path.exists() else {}

    def _explain(self, code: int, error: dict[str, Any], failures: int) -> str:
        what = f"{error['type']}: {error['message']}" if error else _in_words(code)
        err = newest_errors(self.directory, len(self.ledger.attempts))
        times = f" after {failures} attempts" if failures > 1 else ""
        where = f"\n  log: {err}" if err else ""
        return (
            f"stage {self.spec.stage} failed{times}: {what}{where}"
            f"\n  run it by hand: python -m stepvideo.job {self.directory}"
        )


def _in_words(code: int) -> str:
    if code == TIMED_OUT:
        return "it ran longer than runtime.timeout_s"
    if code < 0:
        name = signal.Signals(-code).name
        return f"the job was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
    return f"the job ended with exit code {code}"


class _Follower:
    """A thread that gives new records of `events.jsonl` to the listener; the rest comes when the job has ended."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._said = ""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name=f"follow-{run.spec.stage}")

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._read()

    def _follow(self) -> None:
        while not self._done.wait(FOLLOW_S):
            self._read()

    def _read(self) -> None:
        run = self._run
        records, run.offset = read_events(run.directory / "events.jsonl", run.offset)
        if run.handle and run.handle.said != self._said:
            self._said = run.handle.said
            records.append({"type": "queue", "said": self._said, "time": time.time()})
        if records:
            run.listener.events(run.spec, records, run.offset)
