"""Where training batches come from: a function of the step alone, dealt to ranks and micro-batches.

A global batch does not depend on how many ranks share it, nor on gradient accumulation; those only deal its samples
out. So a run continues on another number of ranks with the same batches, up to the order of additions.
"""

from __future__ import annotations

from typing import Any, Protocol

Batch = dict[str, Any]  # "share": its fraction of the global batch's samples; "ids": its clips; the rest is the loss's


class Source(Protocol):
    """The batches of a run. Holds no network: it is copied to loader processes."""

    def micro_batches(self, step: int, rank: int, ranks: int, accumulate: int) -> list[Batch]:
        """What data-parallel rank `rank` of `ranks` computes in `step`, as many as every other rank, in order.

        The shares of all ranks add up to 1; a micro-batch that only keeps the ranks in step has share 0.
        """
        ...


def deal(n: int, rank: int, ranks: int, accumulate: int = 1) -> list[list[int]]:
    """Indices in a global batch of `n` samples of each of a rank's micro-batches.

    Raises:
        ValueError: fewer samples than micro-batches.
    """
    parts = ranks * accumulate
    if n < parts:
        raise ValueError(
            f"a batch of {n} samples cannot be dealt to {ranks} data-parallel ranks x {accumulate} micro-batches; "
            f"give batch_size {parts} or more, or fewer ranks"
        )
    return [list(range(rank * accumulate + j, n, parts)) for j in range(accumulate)]
