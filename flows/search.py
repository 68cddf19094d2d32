"""Plans for the training stages of a cascade, and the file that runs take them from."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from flows.compose import ROOT, compose, near
from flows.graph import Node, build
from stepvideo.config import digest, load
from stepvideo.data.config import LatentsConfig
from stepvideo.emulator import search_command as shown
from stepvideo.emulator.calibration import Calibration, read
from stepvideo.emulator.hardware import Cluster, catalogue, find
from stepvideo.emulator.machine import Target, target
from stepvideo.emulator.parallel_file import runtime
from stepvideo.emulator.search import Found, remedies, search
from stepvideo.emulator.space import Job, Space
from stepvideo.errors import ConfigError
from stepvideo.models.config import VAEConfig
from stepvideo.storage import write_atomic
from stepvideo.training.config import TrainConfig
from stepvideo.training.fits import fits, settings, worst
from stepvideo.training.stage_jobs import StageJobs, stage_jobs

CONF = ROOT / "conf"


@dataclass(frozen=True)
class Asked:
    """What a search was asked, as plain values: a Prefect flow's parameters."""

    overrides: list[str] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    gpu: str = ""
    gpus: int = 0
    hardware: str = ""
    calibration: str = ""
    memory_gb: float = 0.0
    any: bool = False
    top: int = 5
    write: str = ""
    trials: int = 0
    seed: int = 0
    objectives: list[str] = field(default_factory=lambda: ["mfu"])

    @property
    def command(self) -> str:
        """The line that asks this again."""
        words = ["stepvideo", "emulate", "search", *self.overrides, *(f"--stage={s}" for s in self.stages)]
        for name in ("gpu", "gpus", "hardware", "calibration", "memory_gb"):
            words += [f"--{name.replace('_', '-')}={getattr(self, name)}"] if getattr(self, name) else []
        return shlex.join(words + (["--any"] if self.any else []))


@dataclass(frozen=True)
class Result:
    """Of one stage: the plans asked for, and the best of any kind, with pipeline stages."""

    node: Node
    latents: LatentsConfig
    vae: VAEConfig
    machine: Target
    cluster: Cluster
    jobs: StageJobs
    found: Found
    of_any: Found

    @property
    def stage(self) -> str:
        return self.node.name


def run(
    asked: Asked, cfg: Mapping[str, Any], step: Callable[[str, Callable[[], Any]], Any] | None = None
) -> dict[str, Any]:
    """Searches, tries, writes. `step(name, call)` runs each part; a Prefect flow makes a task of it.

    Returns JSON: `stages` {name: plans}, `text`, `trials`, `written`, and `ok`: something fits in every stage.
    """
    step = step or (lambda _, call: call())
    machine, nodes = target_of(asked, cfg), build(cfg)
    latents, vae = settings(nodes)
    chosen = stages_of(nodes, asked.stages)
    results = [step(f"search {n.name}", partial(of_stage, asked, n, latents, vae, machine)) for n in chosen]
    said = ["\n".join(describe(asked, r)) for r in results]
    out: dict[str, Any] = {
        "ok": all(r.found.best for r in results),
        "stages": {r.stage: shown.as_json(r.found) | {"of_any": _first(r.of_any)} for r in results},
    }
    if asked.trials:
        from flows.search_trials import Trials, trials

        how = Trials(asked.trials, asked.seed, tuple(asked.objectives), asked.command)
        told = {
            r.stage: step(f"trials {r.stage}", partial(trials, how, cfg, r.stage, r.jobs, space_of(asked, r.jobs)))
            for r in results
            if r.found.best
        }
        out["trials"] = {name: t["json"] for name, t in told.items()}
        said += [t["text"] for t in told.values()]
    if asked.write:
        path = step(f"write {asked.write}", partial(write, asked, cfg, results))
        out["written"] = str(path)
        said.append(
            f"written: {path}; take it: stepvideo run {shlex.join([*asked.overrides, f'parallel={asked.write}'])}"
        )
    return out | {"text": said}


def stages_of(nodes: list[Node], wanted: list[str]) -> list[Node]:
    """Stages that train the DiT by flow matching, those `wanted` or all; "sft" stands for sft.1, sft.2, …"""
    training = [n for n in nodes if n.kind == "train"]
    for name in wanted:
        if not any(n.name == name or n.name.startswith(f"{name}.") for n in training):
            raise ConfigError(f"--stage {name}: no such stage trains the DiT{near(name, [n.name for n in training])}")
    return [n for n in training if not wanted or any(n.name == w or n.name.startswith(f"{w}.") for w in wanted)]


def target_of(asked: Asked, cfg: Mapping[str, Any]) -> Target:
    """The GPU and its constants; by default the one that the profile is for."""
    if not asked.hardware:
        return target(asked.gpu or cfg["cluster"]["gpu"], asked.calibration)
    constants = read(Path(asked.calibration)) if asked.calibration else Calibration()
    basis = asked.calibration or f"priors, {asked.gpu} of {asked.hardware}"
    return Target(asked.gpu, find(asked.gpu, Path(asked.hardware)), constants, basis)


def of_stage(asked: Asked, node: Node, latents: LatentsConfig, vae: VAEConfig, machine: Target) -> Result:
    """The exhaustive search of one stage."""
    cfg = load(TrainConfig, node.config)
    cluster = Cluster(machine.gpu, asked.gpus or cfg.runtime.nproc)
    jobs = stage_jobs(cfg, latents, vae, cluster, machine.calibration, asked.memory_gb * 1e9)
    of_any = search(jobs.stream, space_of(replace(asked, any=True), jobs), asked.top)
    found = of_any if asked.any else search(jobs.stream, space_of(asked, jobs), asked.top)
    return Result(node, latents, vae, machine, cluster, jobs, found, of_any)


def space_of(asked: Asked, jobs: StageJobs) -> Space:
    """Degrees that are searched: what our trainer has, or with `any` pipeline stages too; parts of a pack at once."""
    parts = tuple(n for n in range(1, jobs.pack + 1) if jobs.pack % n == 0)
    return Space(micro_batch=parts) if asked.any else Space(pipeline=(1,), virtual=(1,), micro_batch=parts)


def describe(asked: Asked, result: Result) -> Iterator[str]:
    """Lines for a terminal; where nothing fits, what would."""
    yield shown.text(result.found, f"{result.stage}, {result.cluster.gpus} {result.machine.name}")
    best, of_any = result.found.best, result.of_any.best
    if best and of_any and of_any.seconds < best.seconds:
        yield (
            f"of any kind {shown.described(of_any.plan)}: {100 * of_any.mfu:.2f} % MFU, "
            f"{100 * (of_any.mfu - best.mfu):.2f} points more; our trainer has no pipeline stages"
        )
    if not best:
        helped = list(remedies(_changes(asked, result), space_of(asked, result.jobs)))
        yield from (f"would fit with {line}" for line in helped)
        if not helped:
            yield "neither more GPUs, larger ones nor fewer frames would help: use a smaller network"


def _changes(asked: Asked, result: Result) -> Iterator[tuple[str, Callable[[], Job]]]:
    cfg, cluster, all_latents = load(TrainConfig, result.node.config), result.cluster, result.latents

    def job(latents: LatentsConfig = all_latents, cluster: Cluster = cluster) -> Job:
        calibration = result.machine.calibration
        return stage_jobs(cfg, latents, result.vae, cluster, calibration, asked.memory_gb * 1e9).stream

    for n in sorted(all_latents.lengths)[:-1][::-1] if cfg.media != "images" else []:
        shorter = replace(all_latents, lengths=[k for k in all_latents.lengths if k <= n])
        yield f"at most {n} frames", lambda s=shorter: job(latents=s)
    for times in (2, 4, 8):
        yield f"{times * cluster.gpus} GPUs", lambda t=times: job(cluster=replace(cluster, gpus=t * cluster.gpus))
    if not asked.memory_gb:
        for name, gpu in catalogue(Path(asked.hardware) if asked.hardware else None).items():
            if gpu.memory > cluster.gpu.memory:
                yield name, lambda g=gpu: job(cluster=replace(cluster, gpu=g))


def write(asked: Asked, cfg: Mapping[str, Any], results: list[Result]) -> Path:
    """conf/parallel/NAME.yaml, and that it composes with the settings that it was searched for.

    Raises:
        ConfigError: a name that is none, a stage in which nothing fits, settings that a stage refuses.
    """
    from omegaconf import OmegaConf

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", asked.write) or asked.write == "none":
        raise ConfigError(f"--write {asked.write!r}: give a name of letters, digits, dots and dashes, other than none")
    only: dict[str, Any] = {}
    said, machine = [], results[0].machine
    for r in results:
        best = r.found.best
        if best is None:
            raise ConfigError(f"{r.stage}: nothing fits, so nothing is written")
        *parents, last = r.stage.split(".")
        place = only
        for p in parents:
            place = place.setdefault(p, {})
        place[last] = {"runtime": runtime(best.plan, r.jobs.stream.packs)}
        said.append(
            f"# {r.stage}: {shown.described(best.plan)}: {best.seconds:.3g} s a step, {100 * best.mfu:.2f} % MFU, "
            f"{best.bytes / 1e9:.1f} GB of {r.jobs.stream.bytes / 1e9:g} (estimated)"
        )
    head = [
        "# @package _global_",
        f"# Made by: {asked.command} --write={asked.write}",
        f"# Config {digest(dict(cfg))[:16]}; constants {digest(machine.calibration.values())[:16]}, {machine.basis}.",
        *said,
    ]
    path = CONF / "parallel" / f"{asked.write}.yaml"
    before = path.read_bytes() if path.exists() else None
    write_atomic(path, "\n".join(head) + "\n" + OmegaConf.to_yaml(OmegaConf.create({"only": only})))
    try:
        _check_fits(build(compose([*asked.overrides, f"parallel={asked.write}"], CONF)), results)
    except Exception:
        path.unlink()
        if before is not None:
            write_atomic(path, before)
        raise
    return path


def _check_fits(nodes: list[Node], results: list[Result]) -> None:
    """By the formulas of `stepvideo fits`, which round as the trainer does and know the worst moment of encoding."""
    needs = {f.stage: f.memory.total for f in worst(fits(nodes))}
    for r in results:
        if (over := needs.get(r.stage, 0) - r.jobs.stream.bytes) > 0:
            raise ConfigError(
                f"{r.stage}: as the trainer rounds, the plan needs {over / 1e9:.2f} GB more than there are; leave room "
                f"with --memory-gb={math.floor((r.jobs.stream.bytes - over) / 1e9)}"
            )


def _first(found: Found) -> dict[str, Any] | None:
    return found.best.describe() if found.best else None
