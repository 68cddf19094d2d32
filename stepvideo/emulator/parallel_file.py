"""A plan as the settings of `stepvideo.parallel` that a training stage takes."""

from __future__ import annotations

from typing import Any

from stepvideo.emulator.plan import Plan
from stepvideo.errors import ConfigError


def runtime(plan: Plan, packs: int) -> dict[str, Any]:
    """`runtime` of a stage: ranks, accumulation and `parallel`; what the plan says nothing of is left to the stage.

    Raises:
        ConfigError: pipeline stages, which our trainer does not have; packs that data ranks cannot share.
    """
    n = plan.describe()
    if n["pipeline"] > 1 or n["virtual"] > 1:
        raise ConfigError(
            f"pipeline={n['pipeline']}, virtual={n['virtual']}: our trainer has no pipeline stages; leave out --any"
        )
    own, rest = divmod(packs, n["data"])
    accumulate, odd = divmod(n["micro_batches"], max(own, 1))
    if rest or odd or not own:
        raise ConfigError(
            f"{packs} packs in {n['micro_batches']} micro-batches on each of {n['data']} data ranks cannot be dealt; "
            "set the stage's balance.packs to a multiple of the data ranks"
        )
    kinds = {0.0: "none", 1.0: "full"}
    parallel: dict[str, Any] = {
        "tensor": n["tensor"],
        "ulysses": n["context"],
        "zero": n["zero"],
        "shard": 0,
        "sequence": bool(n["sequence_parallel"]),
        "checkpointing": kinds.get(n["recompute"], "fraction"),
        "checkpoint_fraction": round(n["recompute"], 6) if n["recompute"] else 1.0,
    }
    if n["tensor"] == 1:
        parallel["async_tensor"] = False
    return {"nproc": n["tensor"] * n["context"] * n["data"], "accumulate": accumulate, "parallel": parallel}
