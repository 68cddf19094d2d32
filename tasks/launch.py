"""Start a stage's job, wait for it, stop it: in this process, as a local process, or through submitit.

A handle's `poll` gives the exit code of `stepvideo.job` once the job has ended. Jobs of `Local` and `SubmititLocal` are
in sessions of their own and survive the driver; `Attached` waits for one that another driver started.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from stepvideo import job, storage
from stepvideo.artifact import is_held, is_running
from stepvideo.errors import EXIT_PREEMPTED, ArtifactError, ConfigError
from stepvideo.sink import read_events
from stepvideo.stage import StageSpec
from tasks.logs import log_paths
from tasks.snapshot import job_environment

FAILED = 1
TIMED_OUT = 124  # as timeout(1) has it
STARTED = ("attempt_started", "share_started")
_ENVIRON = threading.Lock()


class Handle(Protocol):
    """A job that was started. `ids` goes into the ledger; `said` is what its queue says of it, for people."""

    ids: dict[str, Any]
    said: str

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        ...

    def stop(self, grace_s: float) -> None:
        """Ask it to save and end; after `grace_s` seconds kill it. Nothing but this job is touched."""
        ...


class Launcher(Protocol):
    name: str

    def attach(self, stage_dir: Path, ids: dict[str, Any]) -> Handle | None:
        """The job that is at this stage, or waits for its turn; `ids`: its entry in the ledger."""
        ...

    def submit(self, stage_dir: Path, number: int, timeout_s: float) -> Handle: ...


def _array(stage_dir: Path) -> int:
    """How many elements a stage's job array has (`runtime.array`); 0: it is no array."""
    return int(StageSpec.read(stage_dir / "spec.json").config.get("runtime", {}).get("array", 0))


def _no_array(stage_dir: Path, name: str) -> None:
    if elements := _array(stage_dir):
        raise ConfigError(
            f"runtime.array={elements} needs a launcher with a queue, such as cluster=submitit-local; "
            f"with cluster={name} set runtime.array=0, and runtime.nproc for several processes"
        )


class _Here:
    """What launchers of this machine share: a job that lives holds its stage directory."""

    def attach(self, stage_dir: Path, ids: dict[str, Any]) -> Handle | None:
        return Attached(stage_dir, ids) if is_running(stage_dir) else None


class Debug(_Here):
    """In the driver's process and thread: `submit` returns when the stage has ended."""

    name = "debug"

    def __init__(self) -> None:
        """Keep Lightning's notices out of the driver's terminal; its warnings about us stay."""
        for logger in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric"):
            logging.getLogger(logger).addFilter(_above_info)
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")

    def submit(self, stage_dir: Path, number: int, timeout_s: float) -> Handle:
        _no_array(stage_dir, self.name)
        return _Ended(job.main(stage_dir))


def _above_info(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO


class _Ended:
    said = ""

    def __init__(self, code: int) -> None:
        self.code = code
        self.ids: dict[str, Any] = {"pid": os.getpid(), "host": socket.gethostname()}

    def poll(self) -> int | None:
        return self.code

    def stop(self, grace_s: float) -> None: ...


class Local(_Here):
    """A process of its own, in a session of its own."""

    name = "local"

    def __init__(self, code: Path | None = None, grace_s: float = 10.0) -> None:
        self._code, self._grace_s = code, grace_s

    def submit(self, stage_dir: Path, number: int, timeout_s: float) -> Handle:
        _no_array(stage_dir, self.name)
        out, err = log_paths(stage_dir, number)
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            with out.open("ab") as o, err.open("ab") as e:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "stepvideo.job", str(stage_dir)],
                    env=os.environ | job_environment(self._code),
                    stdin=subprocess.DEVNULL,
                    stdout=o,
                    stderr=e,
                    start_new_session=True,
                )
        except OSError as e:
            raise ArtifactError(f"cannot start a job in {stage_dir}: {e.strerror or e}") from e
        return _Process(process, timeout_s, self._grace_s)


class _Process:
    said = ""

    def __init__(self, process: subprocess.Popen[bytes], timeout_s: float, grace_s: float) -> None:
        self._process, self._grace_s = process, grace_s
        self._deadline = time.monotonic() + timeout_s if timeout_s else None
        self._timed_out = False
        self.ids: dict[str, Any] = {"pid": process.pid, "pgid": process.pid, "host": socket.gethostname()}

    def poll(self) -> int | None:
        if self._process.poll() is None and self._deadline and time.monotonic() > self._deadline:
            self._timed_out = True
            self.stop(self._grace_s)
        code = self._process.poll()
        return TIMED_OUT if code and self._timed_out else code

    def stop(self, grace_s: float) -> None:
        _stop_group(self._process.pid, lambda: self._process.poll() is None, grace_s)


def _stop_group(pgid: int, alive: Any, grace_s: float) -> None:
    """SIGTERM to a process group, SIGKILL once the grace is over."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(pgid, signal.SIGKILL)  # also what is left of the group after its leader


class SubmititLocal(_Here):
    """submitit's local executor. Its own requeue and its own view of a job's state are not used."""

    name = "submitit-local"
    cluster = "local"

    def __init__(self, code: Path | None = None) -> None:
        self._code = code

    def submit(self, stage_dir: Path, number: int, timeout_s: float) -> Handle:
        import submitit

        executor = submitit.AutoExecutor(folder=stage_dir / "logs" / "submitit", cluster=self.cluster)
        executor.update_parameters(timeout_min=max(1, int(timeout_s / 60)) if timeout_s else 60 * 24 * 365)
        elements = _array(stage_dir)
        shares = [(i, elements) for i in range(elements)] or [None]
        (stage_dir / "error.json").unlink(missing_ok=True)  # elements leave it to whoever starts them
        with _environ(job_environment(self._code)):
            submitted = executor.map_array(job.main, [str(stage_dir)] * len(shares), shares)
        return _Submitted(submitted, stage_dir, number, array=elements > 0)


class _Submitted:
    """A job, or the elements of a job array as one: it ends when all have ended."""

    said = ""

    def __init__(self, jobs: Sequence[Any], stage_dir: Path, number: int, array: bool) -> None:
        self._jobs, self._dir, self._number, self._array = jobs, stage_dir, number, array
        self._since = time.time()
        self._unlinked = set(range(len(jobs)))
        self.ids: dict[str, Any] = {"job_id": " ".join(j.job_id for j in jobs), "host": socket.gethostname()}

    def poll(self) -> int | None:
        self._link_logs()
        if not all(j.done() for j in self._jobs):
            return None
        if is_running(self._dir):  # submitit's controller died, the job did not
            return None
        self._link_logs()
        if (self._dir / "manifest.json").exists():
            return 0
        codes = {self._code(j) for j in self._jobs}
        failed = codes - {0, EXIT_PREEMPTED, job.EXIT_BUSY}
        return max(failed or codes - {0} or {FAILED})

    def stop(self, grace_s: float) -> None:
        for each in self._jobs:  # the id is the controller's process; submitit's own SIGINT is lost on background jobs
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(each.job_id), signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while is_running(self._dir) and time.monotonic() < deadline:
            time.sleep(0.05)
        for directory in (self._dir, *self._dir.glob("array/*")):
            Attached(directory).kill()

    def _code(self, submitted: Any) -> int:
        if submitted.paths.result_pickle.exists():  # asked for a result that is not there, submitit waits 15 s
            with contextlib.suppress(Exception):  # the job raised, which `main` does not: a broken environment
                return int(submitted.result())
        return FAILED if len(self._jobs) > 1 else outcome(self._dir, self._since)

    def _link_logs(self) -> None:
        """submitit names its logs by job id; give them the names that `stepvideo logs` looks for."""
        for element in sorted(self._unlinked):
            named = element if self._array else None
            links, paths = log_paths(self._dir, self._number, named), self._jobs[element].paths
            for link, target in zip(links, (paths.stdout, paths.stderr), strict=True):
                if not target.exists():
                    return
                with contextlib.suppress(FileExistsError):
                    link.symlink_to(os.path.relpath(target, link.parent))
            self._unlinked.discard(element)


@contextlib.contextmanager
def _environ(extra: dict[str, str]) -> Any:
    """submitit passes the driver's own environment on, so it is changed for as long as the submission takes."""
    with _ENVIRON:
        before = {k: os.environ.get(k) for k in extra}
        os.environ.update(extra)
        try:
            yield
        finally:
            for k, v in before.items():
                if v is None:
                    os.environ.pop(k, None)
                else:
                    os.environ[k] = v


class Attached:
    """A live job that another driver started."""

    said = ""

    def __init__(self, stage_dir: Path, ids: dict[str, Any] | None = None) -> None:
        self._dir = stage_dir
        self._since = _last_start(stage_dir)
        self.ids = ids or {}

    def poll(self) -> int | None:
        return None if is_running(self._dir) else outcome(self._dir, self._since)

    def stop(self, grace_s: float) -> None:
        """Stop it if it is on this host and in the process group that the ledger names."""
        with contextlib.suppress(ArtifactError, ProcessLookupError):
            beat = storage.read_json(self._dir / "heartbeat.json")
            group = os.getpgid(beat["pid"]) if beat["host"] == socket.gethostname() else None
            if group and group == self.ids.get("pgid") and is_held(self._dir):
                _stop_group(group, lambda: is_held(self._dir), grace_s)

    def kill(self) -> None:
        """SIGKILL to the job's own process, if it is on this host."""
        with contextlib.suppress(ArtifactError, ProcessLookupError):
            beat = storage.read_json(self._dir / "heartbeat.json")
            if beat["host"] == socket.gethostname() and beat["pid"] != os.getpid() and is_held(self._dir):
                os.kill(beat["pid"], signal.SIGKILL)


def _last_start(stage_dir: Path) -> float:
    starts = [e["time"] for e in read_events(stage_dir / "events.jsonl")[0] if e.get("name") in STARTED]
    return starts[-1] if starts else 0.0


def outcome(stage_dir: Path, since: float) -> int:
    """The exit code that a job which started at `since` must have had, from what it left in its directory."""
    if (stage_dir / "manifest.json").exists():
        return 0
    last = [e for e in read_events(stage_dir / "events.jsonl")[0] if e.get("type") == "event" and e["time"] >= since]
    return EXIT_PREEMPTED if last and last[-1]["name"] == "preempted" else FAILED
