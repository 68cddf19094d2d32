"""StepMind measured on a real Slurm of four nodes: how soon each fault is seen, acted on, and got over.

    python benchmarks/mind.py [--json] [--check] [--repeat 3] [--write]

Every round starts a cluster and agents, puts all faults of `tests/toys/mind_scene.py` into jobs at once, and waits for
their ends. Beside it: what an agent costs, and a decision about a job on 4 and on 512 nodes. `--write` keeps the result
in `stepvideo/mind/latencies.json`, from which the simulated month takes its latencies. `--check` exits 1 when a bar of
issue 7 is missed, of the worst case and not of the median.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from model_speed import machine

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "toys"), str(ROOT)]

from stepvideo.mind.agent import Agent  # noqa: E402
from stepvideo.mind.decide import Action, Mind  # noqa: E402
from stepvideo.mind.signals import NodeView, Observation  # noqa: E402

KEPT = ROOT / "stepvideo" / "mind" / "latencies.json"
BARS = {  # s; detection to requeue, until it runs again after a node is down and after a requeue, detection
    "requeue_s": {"crash": 2.0, "hang": 2.0, "slow": 2.0, "dead": 2.0},
    "running_s": {"dead": 8.0, "hang": 13.0, "slow": 13.0},
    "detect_s": {"hang": 30.0},
}
AGENT = 0.01  # of a core


def scenes(repeat: int) -> dict[str, dict[str, list[float]]]:
    """{fault: {latency: its values}}; jobs that needed no restart had none, or this raises."""
    import mind_scene
    from slurm_cluster import Cluster

    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as tmp:
            cluster = Cluster(Path(tmp) / "slurm")
            os.environ |= mind_scene.environment(cluster)
            try:
                with mind_scene.Scene(cluster, Path(tmp) / "store") as scene:
                    drivers, at = scene.run()
                for what, driver in drivers.items():
                    if what in mind_scene.RESTARTED:
                        driver.outcome()
                        for name, value in mind_scene.latencies(driver, at[what]).items():
                            found.setdefault(what, {}).setdefault(name, []).append(value)
                    elif driver.starts() != 1:
                        raise AssertionError(f"{what} was restarted, and should not have been")
            finally:
                cluster.stop()
    return found


def agent_cost(snapshots: int = 100) -> float:
    """CPU seconds of a snapshot, all sensors that this machine has."""
    with tempfile.TemporaryDirectory() as tmp:
        agent = Agent(Path(tmp), "here")
        agent.write()
        began = time.process_time()
        for _ in range(snapshots):
            agent.write()
        return (time.process_time() - began) / snapshots


def decision_cost(nodes: int, observations: int = 300) -> float:
    """CPU seconds of an observation of a healthy job, its making not counted."""
    gauges = {"compute": 600.0, "traffic": 4e9, "storage": 0.0}
    views = {str(i): NodeView(str(i), 0.5, processes=8, gauges=gauges) for i in range(nodes)}
    mind = Mind()
    seen = [Observation(float(t), float(t), t, 0, views) for t in range(observations)]
    began = time.process_time()
    assert all(mind.observe(o).action == Action.WAIT for o in seen)
    return (time.process_time() - began) / observations


def missed(found: dict[str, Any]) -> list[str]:
    """Bars that the worst case misses."""
    latencies = found["latencies"]
    said = [
        f"{fault}: {name} {latencies[fault][name]['worst']:.2f}, allowed {most:g}"
        for name, bars in BARS.items()
        for fault, most in bars.items()
        if latencies[fault][name]["worst"] > most
    ]
    if found["agent"] > AGENT:
        said.append(f"agent: {found['agent']:.2%} of a core at one snapshot a second, allowed {AGENT:.0%}")
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="rounds on the cluster, 40 s each")
    parser.add_argument("--write", action="store_true", help=f"keep the result in {KEPT.relative_to(ROOT)}")
    args = parser.parse_args()
    values = scenes(args.repeat)
    found = {
        "latencies": {
            fault: {n: {"median": statistics.median(v), "worst": max(v), "n": len(v)} for n, v in each.items()}
            for fault, each in values.items()
        },
        "agent": agent_cost(),
        "decision_s": {str(n): decision_cost(n) for n in (4, 512)},
        "machine": machine(),
        "command": f"python benchmarks/mind.py --write --repeat {args.repeat}",
    }
    if args.write:
        KEPT.write_text(json.dumps(found, indent=1) + "\n")
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        for fault, each in found["latencies"].items():
            row = "  ".join(f"{n} {v['median']:6.2f} (worst {v['worst']:.2f})" for n, v in each.items())
            print(f"{fault:6} {row}  n {each['detect_s']['n']}")
        print(f"agent  {found['agent']:.3%} of a core")
        print("decision " + ", ".join(f"{1e6 * s:.0f} µs on {n} nodes" for n, s in found["decision_s"].items()))
    said = missed(found)
    print(*(f"missed: {line}" for line in said), sep="\n", end="\n" if said else "", file=sys.stderr)
    return 1 if args.check and said else 0


if __name__ == "__main__":
    sys.exit(main())
