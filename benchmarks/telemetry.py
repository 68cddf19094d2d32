"""What telemetry costs: an event and a span in the hot path, a step of a training, and how fast records are shipped.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/telemetry.py [--json] [--check] [--pairs N] [--block N]

Calls are timed in loops of a thousand while the recorder's thread is at work, the loop's own time not taken off, unless
said; the lowest of many loops counts, as others only ever make it longer (the median is told beside it).

The step: one training, in which short blocks of steps are recorded and not recorded, the order within each pair of
neighbouring blocks drawn at random. The ratio of a pair is as free as can be of what else the machine does; told are
the medians of the ratios of wall time and of processor time of the thread that trains, each with a 95 % interval by the
sign test. The recorder's own thread works for recorded blocks at any time: its processor time is added to both as a
share of the step, as if training stood still meanwhile. Not recorded means that nothing is but the calls to an object
that does nothing. All that a step calls is timed by itself, too, the least of many times. `--check` wants the median of
the wall time, that of the processor time and what is measured by itself below the bar: run it on a quiet machine, and
with more `--pairs` while the interval is wider than the bar.

Views are measured by `telemetry_views.py`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "toys"))

from toy_flow import CONFIG, ToyFlow, flow_context  # noqa: E402 # pyright: ignore

from stepvideo.models.config import DiTConfig  # noqa: E402
from stepvideo.models.dit import DiT  # noqa: E402
from stepvideo.telemetry.frames import encode  # noqa: E402
from stepvideo.telemetry.recorder import OFF, Recorder  # noqa: E402
from stepvideo.telemetry.segments import FOLDER, SegmentWriter  # noqa: E402
from stepvideo.telemetry.ship import ship  # noqa: E402
from stepvideo.training.fit import fit  # noqa: E402
from stepvideo.training.monitor.consumed import Consumption  # noqa: E402
from stepvideo.training.monitor.cost import DiTCost, of_each  # noqa: E402

EVENT_NS, SPAN_NS, OVERHEAD, RATE = 200, 600, 0.005, 100_000  # the bars
WIDE: dict[str, Any] = {**vars(CONFIG), "attention_head_dim": 64, "num_layers": 8}
LOOP, LOOPS = 1000, 400
WARM = 10  # steps


def hot_path() -> dict[str, float]:
    """Nanoseconds a call."""
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder), "run", "stage", flush_s=0.2)
        calls: dict[str, Callable[[], None]] = {}
        count, span, off = recorder.count, recorder.span, OFF

        def events() -> None:
            for _ in range(LOOP):
                count("tokens", 1.0)

        def spans() -> None:
            for _ in range(LOOP):
                with span("forward"):
                    pass

        def attributes() -> None:
            for _ in range(LOOP):
                recorder.count("tokens", 1.0)

        def disabled() -> None:
            for _ in range(LOOP):
                with off.span("forward"):
                    pass

        def nothing() -> None:
            for _ in range(LOOP):
                pass

        calls = {"event": attributes, "event_bound": events, "span": spans, "disabled_span": disabled, "loop": nothing}
        found: dict[str, list[float]] = {name: [] for name in calls}
        for i in range(LOOPS):
            recorder.step(i)
            for name, call in calls.items():
                start = time.perf_counter_ns()
                call()
                found[name].append((time.perf_counter_ns() - start) / LOOP)
        recorder.close()
    least = {f"{name}_ns": min(times) for name, times in found.items()}
    medians = {f"{name}_median_ns": statistics.median(found[name]) for name in ("event", "span")}
    net = {f"{name}_net_ns": least[f"{name}_ns"] - least["loop_ns"] for name in ("event", "span")}
    return least | medians | net


class Turns(Callback):
    """Has one block of steps of each pair recorded, which is drawn at random, and notes the time of every block."""

    def __init__(self, pairs: int, block: int) -> None:
        draw = random.Random(0)
        self.order = [on for _ in range(pairs) for on in draw.sample((True, False), 2)]
        self.block = block
        self.cpu: list[float] = []
        self.wall: list[float] = []
        self.left = WARM
        self.since: tuple[float, float] | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.recorder: Recorder = pl_module.recorder
        self.thread = time.pthread_getcpuclockid(self.recorder._thread.ident or 0)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.left -= 1
        if self.left:
            return
        now = time.thread_time(), time.perf_counter()
        if self.since is not None:
            self.cpu.append((now[0] - self.since[0]) / self.block)
            self.wall.append((now[1] - self.since[1]) / self.block)
        else:
            self.recorder.flush()
            self.writing = time.clock_gettime(self.thread)
        if len(self.cpu) == len(self.order):
            self.recorder.flush(60.0)
            self.writing = time.clock_gettime(self.thread) - self.writing
            trainer.should_stop = True
            return
        recorder = self.recorder if self.order[len(self.cpu)] else OFF
        speed = next(c for c in trainer.callbacks if hasattr(c, "consumption"))
        pl_module.recorder = trainer.train_dataloader.recorder = speed.consumption.recorder = recorder
        self.left, self.since = self.block, (time.thread_time(), time.perf_counter())

    def ratios(self, times: list[float]) -> list[float]:
        """Of each pair, recorded over not recorded, less one."""
        pairs = zip(self.order[::2], times[::2], times[1::2], strict=True)
        return [(a / b if first else b / a) - 1 for first, a, b in pairs]


def calls_of_a_step() -> float:
    """Seconds that all a step tells the recorder takes in the thread that trains, over telling one that is off."""
    module = ToyFlow(1)
    micro = module.source.micro_batches(0, 0, 1, 1)
    costs = of_each(DiTCost(CONFIG), micro)
    alone = SimpleNamespace(rank=0, world_size=1, data_size=1)
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for recorder in (Recorder(Path(folder), "run", "stage"), OFF):
            consumption = Consumption(recorder, alone, {})  # type: ignore[arg-type]
            least = math.inf
            for n in range(LOOPS * 5):
                start = time.perf_counter()
                recorder.step(n)
                recorder.record("data_wait", start, start)
                for name in ("to_device", "forward", "backward", "grad_reduce", "grad_sync", "optimizer"):
                    with recorder.device_span(name):
                        pass
                consumption.add(micro, costs)
                recorder.count("predicted_step_s", 1.0)
                least = min(least, time.perf_counter() - start)
            found.append(least)
            recorder.close()
    return found[0] - found[1]


def overhead(pairs: int, block: int) -> dict[str, float]:
    """Of a step of a DiT with recording, over one without."""
    turns, module = Turns(pairs, block), ToyFlow(10**6)
    module.net = DiT(DiTConfig(**WIDE))
    module.net.init_weights(torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        ctx = flow_context(Path(folder))
        ctx.config.runtime.checkpoint_every, ctx.config.runtime.log_every = 10**9, 10**9
        fit(module, ctx, cost=DiTCost(module.net.cfg), callbacks=[turns])
    step = statistics.median(turns.cpu)
    writing = turns.writing / (pairs * block) / step  # of the recorder's thread, a recorded step
    calls = calls_of_a_step()
    found = {"pairs": float(pairs), "block": float(block), "step_ms": 1e3 * step, "writing": writing}
    found |= {"calls_us": 1e6 * calls, "by_itself": writing + calls / step}
    for name, times in (("wall", turns.wall), ("cpu", turns.cpu)):
        ratios = [ratio + writing for ratio in turns.ratios(times)]
        low, high = sign_interval(ratios)
        found |= {f"{name}_overhead": statistics.median(ratios), f"{name}_low": low, f"{name}_high": high}
    return found


def sign_interval(values: list[float], z: float = 1.96) -> tuple[float, float]:
    """About 95 % of the time the median of what was drawn from lies in it, whatever the distribution."""
    ordered, n = sorted(values), len(values)
    out = max(0, math.floor(n / 2 - z * math.sqrt(n) / 2))
    return ordered[out], ordered[n - 1 - out]


def ingest(ranks: int = 8, seconds: int = 120) -> dict[str, float]:
    """Records a second from segments to Parquet: those of a node whose ranks flush every second, in frames as small."""
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(ranks):
            who = {"run": "run", "stage": "t2vi_540", "rank": rank, "node": "n0", "attempt": 1}
            writer = SegmentWriter(Path(folder) / FOLDER, f"r{rank}", who)
            for n in range(seconds):
                at = 1_790_000_000_000_000_000 + n * 10**9
                names = ("data_wait", "forward", "backward", "grad_sync", "optimizer", "step")
                writer.append(encode("span", [(n, name, "step", at + i, 10**8 + i, "cuda") for i in range(60)
                                              for name in names]))  # fmt: skip
                writer.append(encode("counter", [(n, "tokens", at + i, 8640.0) for i in range(240)]))
                writer.append(encode("sample", [(n, f"clip-{rank}-{n}-{i}", "raw/web", 17, 544, 992, 8640, "video", at)
                                                for i in range(120)]))  # fmt: skip
            writer.close()
        cpu, start = time.process_time(), time.perf_counter()
        records = ship(Path(folder)) or 0
        took = time.perf_counter() - start
        return {
            "records": records,
            "records_per_s": records / took,
            "cpu_us_a_record": 1e6 * (time.process_time() - cpu) / records,
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pairs", type=int, default=1000, metavar="N", help="of blocks (1000)")
    parser.add_argument("--block", type=int, default=1, metavar="N", help="steps of a block (1)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    hot, shipped, step = hot_path(), ingest(), overhead(args.pairs, args.block)
    held = {
        "event": hot["event_ns"] <= EVENT_NS,
        "span": hot["span_ns"] <= SPAN_NS,
        "ingest": shipped["records_per_s"] >= RATE,
        "overhead": all(step[name] <= OVERHEAD for name in ("wall_overhead", "cpu_overhead", "by_itself")),
    }
    if args.json:
        print(json.dumps({"hot_path": hot, "ingest": shipped, "step": step, "held": held}))
    else:
        print(f"event (counter)           {hot['event_ns']:6.0f} ns   without the loop {hot['event_net_ns']:.0f}, "
              f"median {hot['event_median_ns']:.0f}   (bar {EVENT_NS})")  # fmt: skip
        print(f"span                      {hot['span_ns']:6.0f} ns   without the loop {hot['span_net_ns']:.0f}, "
              f"median {hot['span_median_ns']:.0f}   (bar {SPAN_NS})")  # fmt: skip
        print(f"span, disabled            {hot['disabled_span_ns']:6.0f} ns")
        print(f"shipped                   {shipped['records_per_s']:,.0f} records/s, "
              f"{shipped['cpu_us_a_record']:.2f} µs of processor time each   (bar {RATE:,})")  # fmt: skip
        for name in ("wall", "cpu"):
            low, high = step[f"{name}_low"], step[f"{name}_high"]
            print(f"overhead of a step, {name:4s}  {step[f'{name}_overhead']:+8.3%}   [{low:+.3%}, {high:+.3%}]")
        print(
            f"  {args.pairs} pairs of blocks of {args.block} steps of {step['step_ms']:.1f} ms   (bar {OVERHEAD:.1%})"
        )
        print(f"by itself                 {step['by_itself']:+8.3%}   calls {step['calls_us']:.0f} µs a step, "
              f"the recorder's thread {step['writing']:.3%}")  # fmt: skip
    return int(args.check and not all(held.values()))


if __name__ == "__main__":
    sys.exit(main())
