"""What StepMind does with its hands: takes nodes out of service, finds what made a job fail, writes it all down."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.errors import ArtifactError, ConfigError
from stepvideo.mind import classify
from stepvideo.mind.cluster import NodeManager, Unanswered
from stepvideo.mind.decide import Action, Decision, Mind
from stepvideo.mind.settings import VARIABLE, Folder
from stepvideo.mind.snapshot import AGENTS
from stepvideo.sink import read_events
from tasks.logs import newest_errors
from tasks.slurm_hosts import hostnames
from tasks.slurm_queue import Job

FOLDER = "_mind"  # in the store, or linked to from there: StepMind's folder, unless $STEPVIDEO_MIND names one
LOG = "mind.jsonl"  # in the stage directory
TAIL = 64 << 10  # bytes of a program's output in which its fault is looked for
RECENT_S = 120.0  # a snapshot that is older tells nothing about a job that has just ended
NODE_FAILURES = 5  # of one stage that are blamed on nodes; then they count as its own


def folder_of(store: Path) -> Path | None:
    """StepMind's folder for what runs in this store; None if no agent ever wrote to one."""
    folder = Path(os.environ.get(VARIABLE) or store / FOLDER)
    return folder if (folder / AGENTS).is_dir() else None


def take_out(manager: NodeManager, decision: Decision, folder: Path) -> list[str]:
    """Take the nodes of a decision out of service, unless the circuit breaker is open; gives what was done.

    The nodes of a hang stay: it is not known to be their fault. Dead ones are down, whatever the breaker says.

    Raises:
        Unanswered, ConfigError: Slurm says nothing, or no.
    """
    done, why = [], f"{decision.fault}: {'; '.join(decision.reasons)}"[:200]
    for node in decision.nodes:
        if node in decision.dead:
            done += [f"down {node}"] if manager.down(node, why) else []
        elif decision.fault != "HANG":
            if not _may_drain(manager, node, decision.fault, Folder(folder)):
                done.append(f"not drained, the circuit breaker is open: {node}")
            elif manager.drain(node, why):
                done.append(f"drain {node}")
    return done


def _may_drain(manager: NodeManager, node: str, fault: str, folder: Folder) -> bool:
    nodes = manager.nodes()
    out = sum(not n.usable for n in nodes)
    return folder.ask_breaker(time.time(), node, fault, len(nodes), out, folder.settings().limits)


def write(stage_dir: Path, job: Job, decision: Decision, done: list[str], started: float) -> str:
    """Into the stage's log; gives it in words."""
    row = {"time": time.time(), "stage": stage_dir.parent.name, "job": job.id, **asdict(decision), "done": done}
    row["act_s"] = round(time.monotonic() - started, 3)
    with (stage_dir / LOG).open("a", encoding="utf-8") as f:
        f.write(json.dumps(row, default=str) + "\n")
    why = "; ".join((*decision.reasons, *done))
    return f"stepmind: {row['stage']}: {' '.join((decision.action, *decision.nodes))}: {decision.fault}: {why}"


def decisions(stage_dir: Path) -> list[dict[str, Any]]:
    """What was decided about a stage and done, in order."""
    return read_events(stage_dir / LOG)[0]


def after_failure(stage_dir: Path, job: Job, manager: NodeManager | None = None) -> bool:
    """Find the cause of a job's failure and write it down; True if it is a node's, which is then out of service.

    Such a failure is none of the stage's own, and it is tried again without being counted.
    """
    if not (folder := folder_of(stage_dir.parents[1])):
        return False
    started, found = time.monotonic(), evidence(stage_dir, job, folder)
    decision = Mind().ended(found)
    if decision.action == Action.WAIT:
        return False
    blamed = [d for d in decisions(stage_dir) if d["nodes"] and d["fault"] == decision.fault]
    if decision.nodes and len(blamed) >= NODE_FAILURES:
        decision = Decision(Action.ASK, decision.fault, reasons=(f"{len(blamed)} times already", *decision.reasons))
    done: list[str] = []
    try:
        done = take_out(manager or slurm(), decision, folder)
    except (Unanswered, ConfigError) as e:
        done.append(f"in vain: {e}")
    write(stage_dir, job, decision, done, started)
    return bool(decision.nodes)


def evidence(stage_dir: Path, job: Job, folder: Path) -> list[classify.Finding]:
    """What tells of a job's end: its state, the end of its output, `error.json`, and the snapshots of its nodes."""
    nodes = hostnames(job.nodes)
    alone = nodes[0] if len(nodes) == 1 else ""
    error = stage_dir / "error.json"
    text = str(storage.read_json(error).get("traceback", "")) if error.exists() else ""
    if log := newest_errors(stage_dir, 1):
        text += "\n" + log.read_bytes()[-TAIL:].decode(errors="replace")
    found = classify.from_exit(job.exit, job.state, alone) + classify.from_output(text, alone)
    for node in nodes:
        path = folder / AGENTS / f"{node}.json"
        with contextlib.suppress(OSError, ArtifactError):
            if path.stat().st_mtime > time.time() - RECENT_S:
                snapshot = storage.read_json(path)
                snapshot["kernel"] = [k for k in snapshot.get("kernel", ()) if k["age_s"] <= RECENT_S]
                found += [f for f in classify.from_snapshot(snapshot) if f.fault.fatal]
    return found


def slurm() -> NodeManager:
    from tasks.slurm_nodes import SlurmNodes

    return SlurmNodes()
