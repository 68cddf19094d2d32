"""Producers beside the stages that train on streamed samples: jobs of their own, started, restarted, ended with them.

A producer is a job as any other (`python -m stepvideo.job STAGE_DIR/producers/NAME`), so that it runs wherever stages
run; on Slurm as `producer.STAGE`, which `cluster.slurm.stages` sends to its partition. Their number follows the rates
between `feed.producers` and `feed.most`; `producers/events.jsonl` says when and why.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.artifact import Store
from stepvideo.data.feed import Feed
from stepvideo.data.feed_rates import Rates, producers_wanted
from stepvideo.errors import StepVideoError
from stepvideo.fingerprint import fingerprint
from stepvideo.pipes.errors import PipeError
from stepvideo.sink import JsonlSink
from stepvideo.stage import StageSpec, kind
from stepvideo.training.producer_spec import KIND, feed_config, is_streamed, meeting_place, producer_spec
from tasks.launch import Handle, Launcher, Local, log_paths
from tasks.ledger import Ledger
from tasks.stages import Outcome, Silent

POLL_S = 0.25
STOP_S = 10.0  # for a producer to end by itself
FAILURES = 3  # of one producer, one after the other, before training is told that nothing will come
HEALTHY_S = 30.0  # a producer that lived so long had not failed to start


def producers(configs: Iterable[Mapping[str, Any]], launcher: Launcher, code: Path | None) -> list[Producers]:
    """The listener that keeps producers, if any of the stages of these configs trains on streamed samples.

    Args:
        code: the snapshot that jobs run.
    """
    if not any(is_streamed(config) for config in configs):
        return []
    return [Producers(Local(code) if launcher.name == "debug" else launcher, fingerprint(kind(KIND).run.split(":")[0]))]


class Producers(Silent):
    """Listens to stages, and has a crew beside each that wants one."""

    def __init__(self, launcher: Launcher, code: str) -> None:
        self._launcher, self._code = launcher, code
        self._crews: dict[str, Crew] = {}

    def started(self, spec: StageSpec, ledger: Ledger, attached: bool) -> None:
        """Called before the stage's job is written: it learns where the keys are, also those of others' producers."""
        if not is_streamed(spec.config):
            return
        if self._launcher.name == "slurm" and not spec.config["runtime"]["feed"]["keys"]:
            spec.config["runtime"]["feed"]["keys"] = str(_keys(meeting_place(spec)))
        if feed_config(spec).most:
            self._crews[spec.key] = crew = Crew(spec, self._launcher, self._code)
            crew.start()

    def ended(self, spec: StageSpec, outcome: Outcome | None, error: BaseException | None) -> None:
        if crew := self._crews.pop(spec.key, None):
            crew.end()


def _keys(folder: Path) -> Path:
    """The keys of the pipes between nodes that meet in `folder`, made if there are none."""
    from stepvideo.pipes import keys

    path = folder / "keys"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        keys.create(path)
    except PipeError:
        if not path.exists():  # else an earlier driver made them, or that of another job a moment ago
            raise
    return path


class Crew(threading.Thread):
    """The producers of one stage; a thread watches them."""

    def __init__(self, spec: StageSpec, launcher: Launcher, code: str) -> None:
        super().__init__(name=f"producers-{spec.stage}", daemon=True)
        self._spec, self._launcher, self._code = spec, launcher, code
        self._cfg = feed_config(spec)
        self._home = Store(spec.store).dir(spec.stage, spec.key) / "producers"
        self._feed = Feed(meeting_place(spec), self._cfg.lease_s)
        self._feed.fail("")  # what was said of an earlier driver's
        self._sink = JsonlSink(self._home / "events.jsonl")
        self._jobs: dict[int, Handle] = {}
        self._since: dict[int, float] = {}
        self._failures: dict[int, int] = {}
        self._over = threading.Event()

    def run(self) -> None:
        try:
            self._keep()
        except Exception as e:  # its stage would wait for what nobody makes
            self._sink.event("failed", error=f"{type(e).__name__}: {e}")
            self._feed.fail(f"producers cannot be started: {e}")
        finally:
            with ThreadPoolExecutor(max(1, len(self._jobs))) as pool:
                list(pool.map(lambda job: job.stop(STOP_S), self._jobs.values()))
            self._sink.close()

    def end(self) -> None:
        """The stage has ended, and so do its producers."""
        self._over.set()
        self.join()

    def _adopt(self) -> None:
        """Those that live of a driver that died, however many it had: left alone nobody would end them."""
        for directory in self._home.glob("p[0-9]*"):
            attempts = Ledger(directory).attempts
            if attempts and (job := self._launcher.attach(directory, attempts[-1])):
                number = int(directory.name[1:])
                self._jobs[number], self._since[number] = job, time.monotonic()

    def _keep(self) -> None:
        self._adopt()
        wanted, rates = max(self._cfg.producers, min(self._cfg.most, max(self._jobs, default=0))), Rates()
        while True:
            for number in range(1, wanted + 1):
                self._see_to(number)
            for number in [n for n in self._jobs if n > wanted]:
                self._jobs.pop(number).stop(STOP_S)
            if self._over.wait(POLL_S) or self._feed.gone:
                self._over.wait()
                return
            if told := rates.update(self._feed.wishes(), self._feed.producers()):
                wanted = producers_wanted(told, wanted, self._cfg.producers, self._cfg.most)
                self._sink.event("rates", **asdict(told), wanted=wanted)

    def _see_to(self, number: int) -> None:
        """It runs, or is started (again)."""
        job = self._jobs.get(number)
        code = job.poll() if job else None
        if job and code is None:
            return
        directory = self._home / f"p{number}"
        if job:
            lived = time.monotonic() - self._since[number]
            self._failures[number] = self._failures.get(number, 0) + 1 if code and lived < HEALTHY_S else 0
            self._sink.event("ended", producer=number, exit=code, seconds=round(lived, 1))
            self._judge(number, directory)
        self._jobs[number] = self._start(number, directory, Ledger(directory))
        self._since[number] = time.monotonic()

    def _start(self, number: int, directory: Path, ledger: Ledger) -> Handle:
        for left in ("manifest.json", "error.json"):  # of an earlier life
            (directory / left).unlink(missing_ok=True)
        shutil.rmtree(directory / "out", ignore_errors=True)
        producer_spec(self._spec, f"p{number}", self._code).write(directory / "spec.json")
        attempt = ledger.begin_attempt(launcher=self._launcher.name, started=time.time())
        handle = self._launcher.submit(directory, attempt, 0.0)
        ledger.update_attempt(**handle.ids)
        self._sink.event("started", producer=number, attempt=attempt, **handle.ids)
        return handle

    def _judge(self, number: int, directory: Path) -> None:
        error = directory / "error.json"
        said = storage.read_json(error) if error.exists() else {}
        if said.get("user") or self._failures[number] >= FAILURES:
            log = log_paths(directory, len(Ledger(directory).attempts))[1]
            raise StepVideoError(f"producer {number}: {said.get('message', 'it ends at once')} (log: {log})")
