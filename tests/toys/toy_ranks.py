"""A stage whose ranks add up numbers with gloo at every step, and a cascade of three around it: noise → fit → score.

Found by jobs through PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import dataclass

from toy_stages import rows as toy_rows

from stepvideo.config import StageConfig
from stepvideo.stage import StageContext

STAGES = {"noise": "toy-noise", "fit": "toy-ranks", "score": "toy-score"}
KINDS = "toy-ranks=toy_ranks:run,toy_ranks:RanksConfig"


@dataclass
class RanksConfig(StageConfig):
    steps: int = 8
    step_s: float = 0.0  # time a step takes


def rows(cfg):
    from dataclasses import replace

    return [replace(row, kind=STAGES[row.name]) for row in toy_rows(cfg)]


def run(ctx: StageContext) -> dict[str, float]:
    """Every rank keeps a state of its own and saves it every step; the ranks go on from the last that all have.

    As long as there is a file `work/hold`, rank 0 waits for the others in the third step's collective.
    """
    import torch
    from torch import distributed

    if ctx.world_size > 1:
        distributed.init_process_group("gloo")
    node = os.environ.get("SLURMD_NODENAME", socket.gethostname())
    kept = ctx.work / f"rank{ctx.rank}.json"
    history = json.loads(kept.read_text()) if kept.exists() else [0.0]
    last = torch.tensor(float(len(history)))
    if ctx.world_size > 1:
        distributed.all_reduce(last, distributed.ReduceOp.MIN)
    history = history[: int(last)]
    while len(history) <= ctx.config.steps:
        time.sleep(ctx.config.step_s)
        while ctx.rank and len(history) == 3 and (ctx.work / "hold").exists():
            time.sleep(0.05)
        x = torch.tensor(history[-1] + ctx.rank + 1, dtype=torch.float64)
        if ctx.world_size > 1:
            distributed.all_reduce(x)
        history.append(float(x / ctx.world_size))
        kept.with_suffix(".tmp").write_text(json.dumps(history))
        kept.with_suffix(".tmp").replace(kept)
        if ctx.rank == 0:
            ctx.sink.metrics(len(history) - 2, {"x": history[-1]})
    nodes = [node]
    if ctx.world_size > 1:
        nodes = [""] * ctx.world_size
        distributed.all_gather_object(nodes, node)
        distributed.destroy_process_group()
    if ctx.rank:
        return {}
    (ctx.out / "model.json").write_text(json.dumps({"mean": history[-1], "history": history}))
    return {"ranks": float(ctx.world_size), "nodes": float(len(set(nodes)))}
