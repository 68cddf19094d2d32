"""Trials of Optuna for a stage: a plan for each size of its stream, starting from the best one plan for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stepvideo.config import digest
from stepvideo.emulator.objectives import PlanProblem, Point, StreamProblem, repaired
from stepvideo.emulator.search_command import described
from stepvideo.emulator.space import Job, Space
from stepvideo.training.stage_jobs import StageJobs


@dataclass(frozen=True)
class Trials:
    """How many, of which seed and objectives; `command` searches the same without them."""

    number: int
    seed: int
    objectives: tuple[str, ...]
    command: str


def stream_problem(jobs: StageJobs, space: Space) -> StreamProblem:
    """Sizes of equally many tokens cost the same and are one."""
    alike: dict[float, list[Job]] = {}
    for job in jobs.buckets:
        alike.setdefault(job.work.buckets[0].tokens, []).append(job)
    kept = tuple(same[0] for same in alike.values())
    shares = tuple(len(same) / len(jobs.buckets) for same in alike.values())
    packs = {j.batch // j.packs for j in kept}
    parts = tuple(sorted({n for k in packs for n in range(1, k + 1) if k % n == 0}))
    return StreamProblem(kept, shares, replace(space, micro_batch=parts))


def warm(problem: StreamProblem, jobs: StageJobs, space: Space) -> list[Point]:
    """The best single plan for all sizes, as a point of the stream."""
    base = PlanProblem(jobs.stream, space).optimum()
    if base is None:
        return []
    (plan,) = base[1].plans
    numbers = plan.describe()
    point: Point = {n: numbers[n] for n in problem.axes if n in numbers}
    layers = jobs.stream.work.network.layers
    for job, name in zip(problem.jobs, problem.names):
        of_pack = job.batch // job.packs
        point[f"{name}.micro_batch"] = max(numbers["micro_batch"] * of_pack // jobs.pack, 1)
        point[f"{name}.recompute"] = round(numbers["recompute"] * layers)
    return [repaired(problem, point)]


def trials(asked: Trials, cfg: Mapping[str, Any], stage: str, jobs: StageJobs, space: Space) -> dict[str, Any]:
    """Runs or goes on with the study of a stage; {"text", "json"}."""
    from tasks.search import Method, OptunaSearch, compare
    from tasks.search_tracking import SearchRun, write_page
    from tasks.tracking import Server

    problem = stream_problem(jobs, space)
    method = Method(start=5, hills=1, objectives=asked.objectives)  # there is a hill to start from
    about = [asked.command, stage, asked.seed, list(asked.objectives), {n: list(v) for n, v in problem.axes.items()}]
    name = f"{stage}-{digest(about)[:12]}"
    folder = Path(cfg["work"]) / "searches"
    search = OptunaSearch(problem, method, asked.seed, folder / f"{name}.journal", name, warm(problem, jobs, space))
    before = len(search.trials)
    server = Server(cfg["tracking"], Path(cfg["work"])) if cfg["tracking"]["mlflow"] else None
    run = SearchRun(
        search, server, {"stage": stage, "command": asked.command, "seed": asked.seed, "sampler": method.name}
    )
    try:
        for number, _, _ in search.run(asked.number):
            run.trial(number)
    except BaseException as e:
        run.close({}, None, e)
        raise
    best, optimum = search.best(), problem.optimum()
    found = compare(search, optimum[1].mfu if optimum else None)
    page = write_page(search, folder / f"{name}.html")
    out = {
        "trials": len(search.trials),
        "before": before,
        "best": {"point": best[0], "mfu": best[1]} if best else None,
        "warm": search.curve()[0] if search.warm else None,
        "compared": {"ours": found.ours, "random": found.random, "random_neighbours": found.random_and_neighbours},
        "exact": found.exact,
        "optimum": optimum[0] if optimum else None,
        "verdict": found.verdict,
        "front": [{**t.user_attrs["outcome"], **t.user_attrs["point"]} for t in search.front()],
        "page": str(page),
        "journal": str(folder / f"{name}.journal"),
        "mlflow_run": run.run_id,
    }
    run.close(out, page)
    return {"json": out, "text": _text(stage, out, problem, best)}


def _text(stage: str, out: Mapping[str, Any], problem: StreamProblem, best: tuple[Point, float] | None) -> str:
    lines = [
        f"{stage}, mixed stream, {len(problem.axes)} axes: {out['trials']} trials"
        + (f", {out['before']} of them before" if out["before"] else "")
    ]
    if out["warm"] is not None:
        lines.append(f"  {'one plan for all sizes (exhaustive)':38} {100 * out['warm']:.2f} % MFU")
    names = ("Optuna's TPE and neighbours", "random points", "random points and neighbours")
    lines += [f"  {name:38} {100 * mfu:.2f} % MFU" for name, mfu in zip(names, out["compared"].values())]
    if out["exact"] is not None:
        lines.append(f"  {'exact optimum, size by size':38} {100 * out['exact']:.2f} % MFU")
    lines.append(f"  {out['verdict']}")
    if out["optimum"] or best:
        plans = problem.outcome(out["optimum"] or best[0]).plans  # type: ignore[index]
        lines.append("  the exact optimum:" if out["optimum"] else "  the best found:")
        lines += [f"    {name}: {described(plan)}" for name, plan in zip(problem.names, plans)]
    lines += [
        f"  front: {100 * f['mfu']:.2f} % MFU, {-f['over'] / 1e9:.1f} GB left, {f['parts']} parts" for f in out["front"]
    ]
    return "\n".join([*lines, f"  plots: {out['page']}"])
