"""The consumer's rounds: ship segments, feed databases, merge parts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.telemetry import sinks
from stepvideo.telemetry.compaction import KEPT_S, compact, sweep
from stepvideo.telemetry.ship import Hook, Journal, alone, no_hook, ship_alone

EVERY_S = 5.0


def consume(
    folder: Path,
    databases: Sequence[sinks.Sink] = (),
    wait: Callable[[], bool] = lambda: True,
    hook: Hook = no_hook,
) -> int | None:
    """Rounds until `wait`, called between them, says that it was the last; records shipped, None if another process
    is the consumer of `folder`.

    A database or a disk that fails is told on stderr, and tried again in the next round.

    Raises:
        StepVideoError: of the last round.
    """
    with alone(folder) as mine:
        if not mine:
            return None
        before, told = _records(folder), ""
        while True:
            failed: StepVideoError | None = None
            try:
                _round(folder, databases, hook)
            except (StepVideoError, OSError) as e:
                failed = e if isinstance(e, StepVideoError) else ArtifactError(f"cannot ship {folder}: {e}")
                if str(failed) != told:
                    print(f"telemetry: {failed}", file=sys.stderr, flush=True)
                told = str(failed)
            if wait():
                if failed is not None:
                    raise failed
                return _records(folder) - before


def _records(folder: Path) -> int:
    return sum(Journal.read(folder).records.values())


def _round(folder: Path, databases: Sequence[sinks.Sink], hook: Hook) -> None:
    sweep(folder, hook, KEPT_S)
    ship_alone(folder, hook)
    for database in databases:
        sinks.feed(folder, database, hook)
    compact(folder, hook, until=sinks.until(folder))
