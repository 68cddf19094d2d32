"""Run one stage: `python -m stepvideo.job STAGE_DIR`.

The only thing that crosses a process boundary. It reads `spec.json`, needs neither Prefect nor Hydra nor MLflow, and
can be run by hand. A stage of several ranks (`runtime.nproc`) starts them itself, in its own process group, unless it
already is one of them (torchrun and srun set RANK); rank 0 owns the directory.

Exit codes: 0 complete; 75 preempted, state saved, run again; 1 failed (`error.json` says why); 3 another job holds it.
The last event in `events.jsonl` (finished, preempted, failed) says the same to whoever did not start the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from stepvideo import __version__, artifact, storage
from stepvideo.errors import EXIT_PREEMPTED, Preempted, StageFailed, StepVideoError
from stepvideo.fingerprint import fingerprint
from stepvideo.parallel.launch import handle_signals, is_rank, run_ranks
from stepvideo.sink import JsonlSink, NullSink
from stepvideo.stage import RunFn, StageContext, StageSpec, kind, resolve

EXIT_BUSY = 3
HEARTBEAT_S = 2.0
EXPECT_CODE = "STEPVIDEO_ANY_CODE"  # set to run a spec with other code than it was planned with


def main(stage_dir: str | Path) -> int:
    """Run the stage in `stage_dir` to a complete artifact; returns the exit code (see the module docstring)."""
    directory = Path(stage_dir).absolute()
    spec = StageSpec.read(directory / "spec.json")
    nproc = int(spec.config.get("runtime", {}).get("nproc", 1))
    if nproc > 1 and not is_rank():
        return _ranks(directory, nproc)
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if rank:
        return _guarded(spec, directory, rank, world_size)
    with artifact.lock(directory) as mine:
        if not mine:
            print(f"{directory} is being run by another job", file=sys.stderr)
            return EXIT_BUSY
        if artifact.Store(spec.store).find(spec.stage, spec.key):
            return 0
        with _Heartbeat(directory):
            return _guarded(spec, directory, rank, world_size)


def _ranks(directory: Path, nproc: int) -> int:
    """Run `nproc` ranks of this job; the worst exit code wins."""
    (directory / "error.json").unlink(missing_ok=True)
    codes = run_ranks(["-m", "stepvideo.job", str(directory)], nproc)
    if EXIT_BUSY in codes:
        return EXIT_BUSY
    return 1 if any(c not in (0, EXIT_PREEMPTED) for c in codes) else max(codes)


def _guarded(spec: StageSpec, directory: Path, rank: int, world_size: int) -> int:
    """Run and turn outcomes into exit codes; failures leave `error.json` for the driver."""
    sink: JsonlSink | NullSink = NullSink()
    try:
        if rank == 0:
            if world_size == 1:
                (directory / "error.json").unlink(missing_ok=True)
            sink = JsonlSink(directory / "events.jsonl")
        _run(spec, directory, rank, world_size, sink)
        return 0
    except Preempted:
        sink.event("preempted")
        return EXIT_PREEMPTED
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


def _run(spec: StageSpec, directory: Path, rank: int, world_size: int, sink: JsonlSink | NullSink) -> None:
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
        if rank == 0:
            shutil.rmtree(tmp, ignore_errors=True)
            tmp.mkdir(parents=True)
    except OSError as e:
        raise StageFailed(f"{spec.stage}: cannot create {tmp}: {e.strerror}") from e
    if rank == 0:
        sink.event("attempt_started", pid=os.getpid(), host=socket.gethostname(), world_size=world_size)
    _set_threads(config.runtime.threads, world_size)
    stop = threading.Event()
    started = time.time()
    ctx = StageContext(config, inputs, tmp, work, sink, rank, world_size, stop)
    with handle_signals(lambda *_: stop.set()):  # training saves at the next step boundary (notes/mlops §5.5)
        metrics = run_fn(ctx)
    if rank == 0:
        _finish(spec, directory, metrics, started)
        sink.event("finished", seconds=time.time() - started, metrics=metrics)


def _input(spec: StageSpec, role: str) -> Path:
    ref = spec.inputs[role]
    path = Path(spec.store) / ref.stage / ref.key / "out"
    if not path.is_dir():
        raise StageFailed(f"{spec.stage}: its input {role} ({ref.stage}/{ref.key}) is not in {spec.store}")
    return path


def _finish(spec: StageSpec, directory: Path, metrics: dict[str, float], started: float) -> None:
    """Rename `out.tmp` to `out` and write the manifest last: a half-written artifact can never be a hit."""
    tmp, out = directory / "out.tmp", directory / "out"
    files = storage.checksums(tmp)
    if not files:
        raise StageFailed(f"{spec.stage} ended without writing anything")
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
    if len(sys.argv) != 2:
        sys.exit("usage: python -m stepvideo.job STAGE_DIR")
    try:
        sys.exit(main(sys.argv[1]))
    except StepVideoError as e:
        sys.exit(f"{type(e).__name__}: {e}")
