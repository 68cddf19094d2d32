"""Work on a list of items in parts that are kept: the same for a killed attempt that goes on and for several ranks.

A rank computes every world-size-th part in a pool of its own and writes it into `ctx.work`, which all ranks share; what
lies there already is not computed again. Ranks are the jobs of `runtime.nproc`: processes of this machine, torchrun's,
or tasks of a Slurm job on many.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from stepvideo.curation.config import HealthConfig
from stepvideo.curation.pool import cores, run_chunks
from stepvideo.errors import Preempted
from stepvideo.stage import StageContext

POLL_S = 0.5  # how often rank 0 looks for what the others have finished


class Parts(Protocol):
    """Where finished parts are kept. A part that is there is complete."""

    def there(self, name: str) -> bool: ...

    def write(self, name: str, results: list[Any]) -> None: ...

    def read(self, name: str) -> Any: ...


def run_parts(
    ctx: StageContext,
    chunks: Sequence[list[Any]],
    names: Sequence[str],
    parts: Parts,
    work: Callable[[list[Any]], list[Any]],
    on_failure: Callable[[Any, str, str], Any],
    health: HealthConfig,
    unit: str,
) -> list[Any]:
    """What `parts.read` gives for every chunk, in order; on ranks other than 0 nothing.

    Args:
        names: of the parts, one a chunk: another one whenever the result is.
        work, on_failure: as in `pool.run_chunks`.
        unit: of the items, for progress.

    Raises:
        Preempted: a stop was asked for; finished parts stay.
    """
    missing = {i for i, name in enumerate(names) if not parts.there(name)}
    todo = [(i, chunks[i]) for i in sorted(missing) if i % ctx.world_size == ctx.rank]
    total = sum(map(len, chunks))

    def report() -> None:
        ctx.sink.progress(total - sum(len(chunks[i]) for i in missing), total, unit)

    results = run_chunks(
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
        if ctx.rank == 0:
            report()
    if ctx.rank:
        return []
    while missing := {i for i in missing if not parts.there(names[i])}:  # a rank that fails ends this one, too
        if ctx.should_stop():
            raise Preempted
        report()
        time.sleep(POLL_S)
    return [parts.read(name) for name in names]
