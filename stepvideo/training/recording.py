"""A training's recorder. A job that was killed or preempted, and a roll-back, begin another attempt at the run.

Spans are told where the time goes: by `StageModule`, by the loader, by checkpoints and validation.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stepvideo import storage
from stepvideo.errors import StepVideoError
from stepvideo.parallel.train import TrainParallel
from stepvideo.stage import StageContext
from stepvideo.telemetry.config import TelemetryConfig
from stepvideo.telemetry.device import CudaClock
from stepvideo.telemetry.recorder import OFF, AnyRecorder, Recorder
from stepvideo.telemetry.schema import FOLDER


@contextmanager
def recording(ctx: StageContext, parallel: TrainParallel, name: str) -> Iterator[AnyRecorder]:
    """The recorder of this rank and attempt, open as long as the context lasts. All ranks enter it together."""
    cfg: TelemetryConfig = ctx.config.runtime.telemetry
    if not cfg.enabled:
        yield OFF
        return
    home = (ctx.shared or ctx.work).parent / FOLDER
    stage = ctx.stage if name == "fit" else f"{ctx.stage}/{name}"
    run = f"{ctx.stage}/{ctx.key}" if ctx.key else str(ctx.work.parent.name)
    attempt = parallel.agree(lambda: next_attempt(home, run, stage))
    clock = CudaClock() if parallel.device.type == "cuda" else None
    recorder = Recorder(Path(cfg.folder) if cfg.folder else home, run, stage, ctx.rank, "", attempt, clock)
    recorder.count("parallel.tensor", parallel.cfg.tensor)
    recorder.count("parallel.ulysses", parallel.cfg.ulysses)
    try:
        yield recorder
    finally:
        recorder.close()


def next_attempt(home: Path, run: str, stage: str) -> int:
    """How many times this run has begun, with this one. It is known to the store, as nodes come and go."""
    path = home / "attempts" / f"{hashlib.sha256(f'{run} {stage}'.encode()).hexdigest()[:16]}.json"
    try:
        attempt = storage.read_json(path)["attempt"] + 1 if path.exists() else 1
        storage.write_json(path, {"run": run, "stage": stage, "attempt": attempt})
        return attempt
    except (StepVideoError, KeyError, TypeError) as e:  # no reason not to train
        print(f"telemetry: {e}", file=sys.stderr)
        return 1
