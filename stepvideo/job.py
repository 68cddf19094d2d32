"""Run one stage: `python -m stepvideo.job STAGE_DIR`, or element I of a job array of N at it: `… STAGE_DIR I/N`.

The only thing that crosses a process boundary. It reads `spec.json`, needs neither Prefect nor Hydra nor MLflow, and
can be run by hand. A stage of several ranks (`runtime.nproc`) starts them itself, in its own process group, unless it
already is one of them (torchrun and srun set RANK); rank 0 owns the directory. Elements of an array wait for nobody:
each does its share of the parts, and the one that then finds none missing makes the artifact.

Exit codes: 0 complete, or an element's share is; 75 preempted, state saved, run again; 1 failed (`error.json` says
why); 3 another job holds it. The last event in `events.jsonl` (finished, preempted, failed) says the same to whoever
did not start the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from stepvideo import __version__, artifact, storage
from stepvideo.errors import EXIT_PREEMPTED, Preempted, Shared, StageFailed, StepVideoError
from stepvideo.fingerprint import fingerprint
from stepvideo.parallel.launch import handle_signals, is_rank, run_ranks
from stepvideo.sink import JsonlSink, NullSink, read_events
from stepvideo.stage import RunFn, StageContext, StageSpec, kind, resolve

EXIT_BUSY = 3
EXIT_SHARED = 4  # not seen outside: the parts of other elements are missing
HEARTBEAT_S = 2.0
PARTS = "_parts"  # in the store, see `StageContext.shared`
EXPECT_CODE = "STEPVIDEO_ANY_CODE"  # set to run a spec with other code than it was planned with


def main(stage_dir: str | Path, share: tuple[int, int] | None = None) -> int:
    """Run the stage in `stage_dir` to a complete artifact; returns the exit code (see the module docstring).

    Args:
        share: (i, n), to be element i of a job array of n.
    """
    directory = Path(stage_dir).absolute()
    spec = StageSpec.read(directory / "spec.json")
    if share:
        return _element(spec, directory, share)
    nproc = int(spec.config.get("runtime", {}).get("nproc", 1))
    if nproc > 1 and not is_rank():
        return _ranks(directory, nproc)
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if rank:
        if artifact.Store(spec.store).find(spec.stage, spec.key):
            return 0  # as the first does, which nobody would meet: Slurm requeued a job that was ending
        return _guarded(spec, directory, rank, world_size)
    code = _locked(spec, directory, world_size)
    if code == EXIT_BUSY:
        print(f"{directory} is being run by another job", file=sys.stderr)
    return code


def _locked(spec: StageSpec, directory: Path, world_size: int = 1) -> int:
    """Run rank 0 as the owner of the directory, unless another job is that or the artifact is there."""
    with artifact.lock(directory) as mine:
        if not mine:
            return EXIT_BUSY
        if artifact.Store(spec.store).find(spec.stage, spec.key):
            return 0
        with _Heartbeat(directory):
            return _guarded(spec, directory, 0, world_size)


def _element(spec: StageSpec, directory: Path, share: tuple[int, int]) -> int:
    """Do a share, and make the artifact if no part is missing then; several that find so wait for the first."""
    home = directory / "array" / str(share[0])
    with artifact.lock(home) as mine:
        if not mine:
            print(f"{home} is being run by another job", file=sys.stderr)
            return EXIT_BUSY
        with _Heartbeat(home):
            if artifact.Store(spec.store).find(spec.stage, spec.key, verify=False):
                return 0
            code = _guarded(spec, directory, 0, 1, share)
            if code:
                return 0 if code == EXIT_SHARED else code
            while (code := _locked(spec, directory)) == EXIT_BUSY:
                time.sleep(HEARTBEAT_S)
            return code


def _ranks(directory: Path, nproc: int) -> int:
    """Run `nproc` ranks of this job; the worst exit code wins."""
    (directory / "error.json").unlink(missing_ok=True)
    codes = run_ranks(["-m", "stepvideo.job", str(directory)], nproc)
    if EXIT_BUSY in codes:
        return EXIT_BUSY
    return 1 if any(c not in (0, EXIT_PREEMPTED) for c in codes) else max(codes)


def _guarded(spec: StageSpec, directory: Path, rank: int, world_size: int, share: tuple[int, int] | None = None) -> int:
    """Run and turn outcomes into exit codes; failures leave `error.json` for the driver."""
    sink: JsonlSink | NullSink = NullSink()
    try:
        if rank == 0:
            if world_size == 1 and not share:
                (directory / "error.json").unlink(missing_ok=True)
            sink = JsonlSink(directory / "events.jsonl")
        _run(spec, directory, rank, world_size, sink, share)
        return 0
    except Shared as done:
        sink.event("share_done", element=share, missing=done.missing)
        return EXIT_SHARED if done.missing else 0
    except Preempted:
        sink.event("preempted")
        return EXIT_PREEMPTED
    except _Superseded:
        return EXIT_BUSY
    except Exception as e:
        traceback.print_exc()
        with contextlib.suppress(OSError, ValueError):  # a full disk: stderr has the reason already
            sink.event("failed", error=f"{type(e).__name__}: {e}")
        if not (directory / "error.json").exists():  # the other ranks only fail because the first one did
            error = {"type": type(e).__name__, "message": str(e), "traceback": traceback.format_exc()}
            error |= {"user": isinstance(e, StepVideoError), "rank": rank}
            try:
                storage.write_json(directory / "error.json", error)
            except StepVideoError as full:
                print(full, file=sys.stderr)
        return 1
    finally:
        if isinstance(sink, JsonlSink):
            with contextlib.suppress(OSError):
                sink.close()


def _run(
    spec: StageSpec,
    directory: Path,
    rank: int,
    world_size: int,
    sink: JsonlSink | NullSink,
    share: tuple[int, int] | None,
) -> None:
    run_fn: RunFn = resolve(kind(spec.kind).run)
    config = spec.typed_config()
    found = fingerprint(kind(spec.kind).run.split(":")[0])
    if found != spec.fingerprint and not os.environ.get(EXPECT_CODE):
        raise StageFailed(
            f"{spec.stage}: the code here ({found}) is not the code it was planned with ({spec.fingerprint}); "
            f"plan again, or set {EXPECT_CODE}=1 to run it anyway"
        )
    inputs = {role: _input(spec, role) for role in spec.inputs}
    tmp, work = directory / "out.tmp", directory / "work"
    try:
        work.mkdir(exist_ok=True)
        if rank == 0 and not share:
            shutil.rmtree(tmp, ignore_errors=True)
            tmp.mkdir(parents=True)
    except OSError as e:
        raise StageFailed(f"{spec.stage}: cannot create {tmp}: {e.strerror}") from e
    if rank == 0:
        about = {"element": share} if share else {"world_size": world_size}
        sink.event("share_started" if share else "attempt_started", pid=os.getpid(), host=socket.gethostname(), **about)
    _set_threads(config.runtime.threads, world_size)
    stop = threading.Event()
    started = time.time()
    ctx = StageContext(config, inputs, tmp, work, sink, rank, world_size, stop, Path(spec.store) / PARTS, share)
    ctx.stage, ctx.key = spec.stage, spec.key
    with handle_signals(lambda *_: stop.set()):  # training saves at the next step boundary (notes/mlops §5.5)
        metrics = run_fn(ctx)
    if share:
        raise StageFailed(f"{spec.stage}: a stage of kind {spec.kind} has no parts to share out; set runtime.array=0")
    if rank == 0:
        _check_newest(directory)
        _finish(spec, directory, metrics, started, ctx.expected)
        sink.event("finished", seconds=time.time() - started, metrics=metrics)


def _input(spec: StageSpec, role: str) -> Path:
    ref = spec.inputs[role]
    path = Path(spec.store) / ref.stage / ref.key / "out"
    if not path.is_dir():
        raise StageFailed(f"{spec.stage}: its input {role} ({ref.stage}/{ref.key}) is not in {spec.store}")
    return path


class _Superseded(Exception):
    """A later attempt has begun."""


def _check_newest(directory: Path) -> None:
    """A job whose node was cut off may live on after Slurm has started it again elsewhere: then it leaves no result."""
    starts = [e for e in read_events(directory / "events.jsonl")[0] if e.get("name") == "attempt_started"]
    if (starts[-1]["pid"], starts[-1]["host"]) != (os.getpid(), socket.gethostname()):
        raise _Superseded


def _finish(
    spec: StageSpec, directory: Path, metrics: dict[str, float], started: float, expected: dict[str, str]
) -> None:
    """Rename `out.tmp` to `out` and write the manifest last: a half-written artifact can never be a hit."""
    tmp, out = directory / "out.tmp", directory / "out"
    files = storage.checksums(tmp)
    if not files:
        raise StageFailed(f"{spec.stage} ended without writing anything")
    if changed := sorted(name for name, sha256 in expected.items() if files.get(name, {}).get("sha256") != sha256):
        raise StageFailed(f"{spec.stage}: the source of {changed[0]} changed while the stage ran; start the run again")
    if out.exists():
        shutil.rmtree(out)
    os.replace(tmp, out)
    manifest = {
        "schema": artifact.SCHEMA,
        "stage": spec.stage,
        "kind": spec.kind,
        "key": spec.key,
        "digest": artifact.content_digest(files),
        "files": files,
        "config": spec.config,
        "inputs": {role: vars(ref) for role, ref in spec.inputs.items()},
        "fingerprint": spec.fingerprint,
        "lineage": spec.lineage,
        "metrics": {k: float(v) for k, v in metrics.items()},
        "environment": _environment(),
        "started": started,
        "finished": time.time(),
    }
    storage.write_json(directory / "manifest.json", manifest)
    shutil.rmtree(directory / "work", ignore_errors=True)


def _environment() -> dict[str, Any]:
    environment = {
        "stepvideo": __version__,
        "python": platform.python_version(),
        "host": socket.gethostname(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }
    if torch := sys.modules.get("torch"):
        environment |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
    return environment


def _set_threads(threads: int, world_size: int) -> None:
    """Bit-equal results need an equal number of threads, so it is set here and recorded in the manifest."""
    count = threads or max(1, (os.cpu_count() or 1) // world_size)
    os.environ["OMP_NUM_THREADS"] = str(count)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(count)


class _Heartbeat:
    """A thread that rewrites `heartbeat.json` while the job lives, and removes it when the job ends by itself."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "heartbeat.json"
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> None:
        self._write()
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._done.wait(HEARTBEAT_S):
            self._write()

    def _write(self) -> None:
        beat = {"pid": os.getpid(), "host": socket.gethostname(), "time": time.time()}
        tmp = self._path.with_suffix(".tmp")
        try:
            tmp.write_text(json.dumps(beat))
            os.replace(tmp, self._path)
        except OSError:
            pass  # a full disk must not kill the job from a side thread; the next write that matters will say so


if __name__ == "__main__":
    given = re.fullmatch(r"(\d+)/(\d+)", sys.argv[2]) if len(sys.argv) == 3 else None
    if len(sys.argv) != 2 and not (given and int(given[1]) < int(given[2])):
        sys.exit("usage: python -m stepvideo.job STAGE_DIR [I/N]")
    try:
        sys.exit(main(sys.argv[1], (int(given[1]), int(given[2])) if given else None))
    except StepVideoError as e:
        sys.exit(f"{type(e).__name__}: {e}")
