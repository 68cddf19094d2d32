"""`stepvideo doctor`: what this machine has, lacks, and cannot test."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from flows import screen
from stepvideo.doctor import Check

STYLE = {"ok": "green", "warn": "yellow", "missing": "red", "untested": "dim"}


def doctor_command(store: str | None, as_json: bool, slurm: list[str] | None = None) -> int:
    """Print every check; exit code 1 if something needed is missing. `slurm`: settings of the run that is meant."""
    from stepvideo.doctor import checks

    found = [*checks(store), *_team()] if slurm is None else slurm_checks(slurm, store)
    if as_json:
        print(json.dumps([asdict(c) for c in found], indent=1, ensure_ascii=False))
    else:
        table = Table(show_header=False)
        for c in found:
            table.add_row(
                c.name, f"[{STYLE[c.status]}]{c.status}[/]", escape(c.detail), escape(f"→ {c.fix}" if c.fix else "")
            )
        screen.console().print(table)
    return 1 if any(c.status == "missing" for c in found) else 0


def _team() -> list[Check]:
    """The team's servers that the environment names."""
    from tasks.team.checks import team_checks

    return team_checks()


def slurm_checks(overrides: list[str], store: str | None = None) -> list[Check]:
    """Whether a cluster takes the jobs of a run, and a probe job on two nodes of each partition that it uses."""
    from flows.compose import compose
    from flows.graph import build
    from stepvideo.config import load
    from tasks import slurm_doctor
    from tasks.slurm_config import SlurmConfig
    from tasks.slurm_probe import probe

    found = [slurm_doctor.commands()]
    if found[0].status != "ok":
        return found
    found += slurm_doctor.settings()
    if found[1].status != "ok":
        return found
    if not any(o.startswith("cluster=") for o in overrides):
        overrides = ["cluster=slurm", *overrides]
    cfg = compose(overrides)
    where = Path(store or cfg["store"]).absolute()
    stages = [(n.name, n.config) for n in build(cfg)]
    slurm = load(SlurmConfig, cfg["cluster"]["slurm"], "cluster.slurm")
    used = {slurm.resources(name, config.get("runtime", {}).get("slurm")).partition for name, config in stages}
    found.append(slurm_doctor.partitions(used))
    found += slurm_doctor.scripts(stages, where, cfg["cluster"]["slurm"])
    if any(c.status == "missing" for c in found):
        return found
    return found + [c for partition in sorted(used) for c in probe(where, slurm, partition)]
