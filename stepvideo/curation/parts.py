"""Work on a list of items in parts that are kept: the same for a killed attempt that goes on and for several jobs.

A job computes every n-th part and writes it into `ctx.work`, which all jobs share; what lies there already is not
computed again. Jobs are the ranks of `runtime.nproc` (processes of this machine, torchrun's, or tasks of a Slurm job on
many), of which the first waits for the others, or the elements of `runtime.array`, which wait for nobody. A job has its
parts done in processes of its own, or by the tasks of a Ray cluster (`runtime.executor`).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from stepvideo.curation.config import HealthConfig, PartsRuntime
from stepvideo.curation.pool import cores, run_chunks
from stepvideo.errors import Preempted, Shared
from stepvideo.stage import StageContext

POLL_S = 0.5  # how often rank 0 looks for what the others have finished
LOOK_SHARE = 0.05  # of the time may go into looking which parts of others are there


class Parts(Protocol):
    """Where finished parts are kept. A part that is there is complete."""

    def there(self, name: str) -> bool: ...

    def write(self, name: str, results: list[Any]) -> None: ...


def run_parts(
    ctx: StageContext,
    chunks: Sequence[list[Any]],
    names: Sequence[str],
    parts: Parts,
    work: Callable[[list[Any]], list[Any]],
    on_failure: Callable[[Any, str, str], Any],
    health: HealthConfig,
    unit: str,
) -> None:
    """Have every chunk's part in `parts`; on ranks other than 0 only those that are the rank's to do.

    Args:
        names: of the parts, one a chunk: another one whenever the result is.
        work, on_failure: as in `pool.run_chunks`; with Ray they must be importable by name on its nodes.
        unit: of the items, for progress.

    Raises:
        Preempted: a stop was asked for; finished parts stay.
        Shared: this is an element of a job array (`ctx.share`), and its parts are done.
    """
    missing = {i for i, name in enumerate(names) if not parts.there(name)}
    index, count = ctx.share or (ctx.rank, ctx.world_size)
    todo = [(i, chunks[i]) for i in sorted(missing) if i % count == index]
    total = sum(map(len, chunks))
    next_look = 0.0

    def report() -> None:
        nonlocal missing, next_look
        if count > 1 and (began := time.monotonic()) >= next_look:
            missing = {i for i in missing if not parts.there(names[i])}
            next_look = time.monotonic() + max(POLL_S, (time.monotonic() - began) / LOOK_SHARE)
        ctx.sink.progress(total - sum(len(chunks[i]) for i in missing), total, unit)

    run = _executor(ctx)
    results: Iterator[tuple[int, list[Any]]] = run(
        work,
        todo,
        on_failure=on_failure,
        workers=min(ctx.config.runtime.workers or cores(), max(len(todo), 1)),
        timeout_s=health.file_timeout_s,
        memory_mb=health.memory_limit_mb,
        stop=ctx.should_stop,
    )
    for i, found in results if todo else ():
        parts.write(names[i], found)
        missing.discard(i)
        if index == 0:
            report()
    if ctx.share:
        raise Shared(sum(not parts.there(names[i]) for i in missing))
    if ctx.rank:
        return
    while missing := {i for i in missing if not parts.there(names[i])}:  # a rank that fails ends this one, too
        if ctx.should_stop():
            raise Preempted
        report()
        time.sleep(POLL_S)


def _executor(ctx: StageContext) -> Callable[..., Any]:
    runtime: PartsRuntime = ctx.config.runtime
    if runtime.executor == "pool":
        return run_chunks
    from stepvideo.curation.ray_tasks import run_on_ray

    return functools.partial(run_on_ray, address=runtime.ray_address, place=ctx.work, told=ctx.sink.event)
