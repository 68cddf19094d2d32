"""What watching a training costs: steps that are watched against steps of the same training that are not.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/monitor_overhead.py [--json] [--check]

Watched and unwatched steps take turns, so that the ratio of their medians holds on a shared machine; times are the
processor's. Each watched step is of one of two sorts: of those between measurements of norms, which must cost nothing
(`--check` exits 1 when they take more than 1 + MARGIN times as long), and of those that measure them. The guard judges
every step; its time is measured by itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "toys"))

from toy_flow import CONFIG, ToyFlow, flow_context  # noqa: E402 # pyright: ignore

from stepvideo.models.config import DiTConfig  # noqa: E402
from stepvideo.models.dit import DiT  # noqa: E402
from stepvideo.training import fit as core  # noqa: E402
from stepvideo.training.monitor.cost import DiTCost  # noqa: E402
from stepvideo.training.monitor.guard import Guard  # noqa: E402
from stepvideo.training.monitor.watch import watchers  # noqa: E402
from stepvideo.training.monitor_config import GuardConfig, MonitorConfig  # noqa: E402

MARGIN = 0.02
STEPS, NORMS_EVERY = 400, 8
WIDE: dict[str, Any] = {**vars(CONFIG), "attention_head_dim": 64, "num_layers": 6}


class TakeTurns(Callback):
    """Lets others watch every second step, and notes the processor time of all."""

    def __init__(self, others: list[Callback]) -> None:
        self.others = others
        self.seconds: dict[str, list[float]] = {"unwatched": [], "watched": [], "norms": []}

    def setup(self, *args: Any, **kwargs: Any) -> None:
        for other in self.others:
            other.setup(*args, **kwargs)

    def on_train_start(self, *args: Any) -> None:
        for other in self.others:
            other.on_train_start(*args)

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.watched = module.done % 2 == 1
        self.start = time.process_time()
        for other in self.others if self.watched else []:
            other.on_train_batch_start(trainer, module, batch, batch_idx)

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        for other in self.others if self.watched else []:
            other.on_train_batch_end(trainer, module, outputs, batch, batch_idx)
        sort = "norms" if module.done % NORMS_EVERY == 0 else "watched" if self.watched else "unwatched"
        self.seconds[sort].append(time.process_time() - self.start)


def measure() -> dict[str, float]:
    turns: list[TakeTurns] = []

    def take_turns(*args: Any) -> list[Callback]:
        turns.append(TakeTurns(watchers(*args)))
        return [turns[0]]

    core.watchers = take_turns  # type: ignore[assignment]
    module = ToyFlow(STEPS)
    module.net = DiT(DiTConfig(**WIDE))
    module.net.init_weights(torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        ctx = flow_context(Path(folder), monitor=MonitorConfig(norms_every=NORMS_EVERY))
        ctx.config.runtime.checkpoint_every, ctx.config.runtime.log_every = 10**9, 10
        core.fit(module, ctx, cost=DiTCost(module.net.cfg))
    found = {sort: statistics.median(times) for sort, times in turns[0].seconds.items()}
    guard = Guard(GuardConfig())
    judged = time.process_time()
    for step in range(1000):
        guard.judge(step, 0.5 + 0.01 * (step % 7), 1.0 + 0.1 * (step % 5))
    return {
        "unwatched_ms": 1e3 * found["unwatched"],
        "watched_ratio": found["watched"] / found["unwatched"],
        "norms_ratio": found["norms"] / found["unwatched"],
        "guard_ms": time.process_time() - judged,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = measure()
    if args.json:
        print(json.dumps(found))
    else:
        print(f"step without anybody watching        {found['unwatched_ms']:.2f} ms")
        print(f"watched, between norms               x {found['watched_ratio']:.4f}")
        print(f"watched, with norms (every k-th)     x {found['norms_ratio']:.4f}")
        print(f"the guard's judgement of a step      {found['guard_ms']:.3f} ms")
    return int(args.check and found["watched_ratio"] > 1 + MARGIN)


if __name__ == "__main__":
    sys.exit(main())
