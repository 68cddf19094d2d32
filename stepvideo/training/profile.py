"""Runs a training stage again for a few steps, in a folder of its own, and says where their time went."""

from __future__ import annotations

import copy
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from stepvideo import artifact, storage
from stepvideo.errors import StepVideoError
from stepvideo.sink import NullSink
from stepvideo.stage import StageContext, StageSpec, kind, resolve
from stepvideo.training.monitor.profiling import WARM, Profile, Profiled

SHOWN = 15  # operators in the table
SLOW_DATA = 0.1  # share of a step's time above which the loader is what to look at


def run(stage_dir: Path, steps: int, out: Path) -> Profile:
    """Profile the stage of `stage_dir/spec.json`; rank 0 writes profile.txt, profile.json and trace.json into `out`.

    Raises:
        StepVideoError: an input of the stage is not in the store, or its training has too few steps.
    """
    spec = StageSpec.read(stage_dir / "spec.json")
    spec.config = for_profile(spec.config, steps)
    inputs = {role: artifact.Store(spec.store).dir(ref.stage, ref.key) / "out" for role, ref in spec.inputs.items()}
    if missing := [str(path) for path in inputs.values() if not path.is_dir()]:
        raise StepVideoError(f"{spec.stage}: its input {missing[0]} is not there; run the stages before it first")
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    config = spec.typed_config()
    need = WARM + 3 * steps
    too_few = StepVideoError(f"{spec.stage} trains for less than {need} steps, which --steps {steps} takes; give fewer")
    if getattr(config, "steps", need) < need:
        raise too_few
    torch.set_num_threads(config.runtime.threads or max(1, (os.cpu_count() or 1) // ranks))
    with tempfile.TemporaryDirectory(prefix="stepvideo-profile-") as scratch:
        work = Path(scratch)
        (work / "out").mkdir()
        (work / "work").mkdir()
        ctx = StageContext(config, inputs, work / "out", work / "work", NullSink(), rank, ranks)
        try:
            resolve(kind(spec.kind).run)(ctx)
        except Profiled as done:
            found = done.found
        else:
            raise too_few
    if rank == 0:
        out.mkdir(parents=True, exist_ok=True)
        found.trace.export_chrome_trace(str(out / "trace.json"))
        storage.write_atomic(out / "profile.txt", report(found, spec.stage, steps, out) + "\n")
        storage.write_json(out / "profile.json", as_json(found, spec.stage, steps))
    return found


def for_profile(config: dict, steps: int) -> dict:
    """The stage's config with nothing but the training itself: no checkpoints, no validation, no samples."""
    config = copy.deepcopy(config)
    runtime = config.setdefault("runtime", {})
    runtime |= {"checkpoint_every": 10**9, "log_every": 10**9}
    runtime["monitor"] = {**runtime.get("monitor", {}), "profile_steps": steps}
    if "samples" in config:
        config["samples"] |= {"every": 0}
    return config


def as_json(found: Profile, stage: str, steps: int) -> dict:
    operators = [asdict(o) for o in found.operators]
    peak = {"tflops": found.peak[0], "origin": found.peak[1]}
    head = {"stage": stage, "steps": steps, "device": found.device, "peak": peak}
    return head | {"rates": found.rates, "phases_s": found.phases, "operators": operators}


def report(found: Profile, stage: str, steps: int, out: Path) -> str:
    """What is printed, and kept as profile.txt."""
    rates = found.rates
    peak, origin = found.peak
    mfu = f"{100 * rates['mfu']:.1f} % of {peak:.4g} TFLOP/s ({origin})" if "mfu" in rates else f"n/a ({origin})"
    lines = [
        f"{stage}: {steps} steps after {WARM} to warm up, on {found.device}",
        f"  step          {1e3 * rates['step_s']:.1f} ms",
        f"  samples/s     {rates['samples_per_s']:.4g}",
        f"  tokens/s      {rates['tokens_per_s']:.4g}" if "tokens_per_s" in rates else "  tokens/s      n/a",
        f"  TFLOP/s       {rates['tflops']:.4g} a device" if "tflops" in rates else "  TFLOP/s       n/a",
        f"  MFU           {mfu}",
        f"  memory peak   {rates['memory_gb']:.2f} GB",
        "",
        "  phase             ms   share",
    ]
    whole = sum(found.phases.values()) or 1
    lines += [f"  {p:<12} {1e3 * s:>8.1f} {100 * s / whole:>6.1f}%" for p, s in found.phases.items()]
    lines += ["", "  operator                                        ms   share  calls"]
    lines += [
        f"  {o.name[:42]:<42} {1e3 * o.seconds:>8.2f} {100 * o.share:>6.1f}% {o.calls:>6.0f}"
        for o in found.operators[:SHOWN]
    ]
    return "\n".join([*lines, "", *(f"next: {line}" for line in advice(found, stage, out))])


def advice(found: Profile, stage: str, out: Path) -> list[str]:
    """What to do with it."""
    said = [f"open {out / 'trace.json'} in https://ui.perfetto.dev"]
    if found.phases["data wait"] > SLOW_DATA * sum(found.phases.values()):
        setting = f"stages.{stage.partition('.')[0]}.runtime.workers=4"
        said.insert(0, f"the step waits for data: stepvideo run {setting} (more loader processes)")
    return said


if __name__ == "__main__":
    try:
        run(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    except StepVideoError as e:
        sys.exit(f"error: {e}")
