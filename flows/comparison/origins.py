"""Where two lineages part: the stages that differ first, why, and what only follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flows.comparison.subjects import Aligned
from flows.plan import config_changes, differences
from stepvideo.artifact import Artifact
from stepvideo.config import result_part

EQUAL, FIRST, FOLLOWS, ABSENT = "equal", "differs", "follows", "absent"
SHOWN = 6  # settings of one stage


@dataclass(frozen=True)
class Step:
    """One stage of two lineages.

    Attributes:
        state: equal | differs (by itself) | follows (its inputs differ, nothing else) | absent (one has it not).
        why: what differs, in words.
        inputs: names of the stages whose artifacts it reads.
    """

    stage: str
    state: str
    why: list[str]
    inputs: list[str]

    def as_dict(self) -> dict[str, Any]:
        return {"stage": self.stage, "state": self.state, "why": self.why, "inputs": self.inputs}


def steps(rows: Aligned, base: int, other: int) -> list[Step]:
    """Every stage of two subjects, inputs before users."""
    return [_step(name, row[base], row[other]) for name, row in rows.items() if row[base] or row[other]]


def headline(found: Sequence[Step]) -> str:
    """One sentence: which stage differs first."""
    if first := next((s for s in found if s.state == FIRST), None):
        more = sum(s.state == FIRST for s in found) - 1
        also = f" ({more} more by themselves)" if more > 1 else " (1 more by itself)" if more else ""
        return f"the first difference is {first.stage}: {'; '.join(first.why)}{also}"
    if lone := [s.stage for s in found if s.state == ABSENT]:
        return f"what both have is equal; only one has {', '.join(lone)}"
    return "no difference: every stage gave the same bytes"


def _step(name: str, a: Artifact | None, b: Artifact | None) -> Step:
    there = a or b
    assert there is not None
    inputs = list(dict.fromkeys(r["stage"] for r in there.manifest["inputs"].values()))
    if a is None or b is None:
        return Step(name, ABSENT, [f"only the {'second' if a is None else 'first'} has it"], inputs)
    why = reasons(a, b)
    if a.digest == b.digest:
        return Step(name, EQUAL, [f"the same bytes all the same: {w}" for w in why], inputs)
    before, after = (x.manifest["inputs"] for x in (a, b))
    from_inputs = [r for r in after if r in before and before[r]["digest"] != after[r]["digest"]]
    if why:
        return Step(name, FIRST, why, inputs)
    if from_inputs:
        return Step(name, FOLLOWS, [f"from {', '.join(after[r]['stage'] for r in from_inputs)}"], inputs)
    return Step(name, FIRST, ["other bytes from the same settings, inputs and code"], inputs)


def reasons(a: Artifact, b: Artifact) -> list[str]:
    """What differs in two artifacts' own making: settings, code, which inputs there are; not what their inputs hold."""
    m, n = a.manifest, b.manifest
    if m["kind"] != n["kind"]:
        return [f"another kind of stage, {m['kind']} → {n['kind']}"]
    hashed = {"kind": n["kind"], "config": result_part(m["config"]), "code": n["fingerprint"]}
    hashed["inputs"] = {role: m["inputs"].get(role, ref)["digest"] for role, ref in n["inputs"].items()}
    settings = config_changes(_told(m["config"]), _told(n["config"]))
    more = [f"{len(settings) - SHOWN} more settings"] if len(settings) > SHOWN else []
    why = settings[:SHOWN] + more + [_code(m, n) if w == "code changed" else w for w in differences(m, hashed)]
    data = [x["lineage"].get("data_md5", "") for x in (m, n)]
    if settings and not m["inputs"] and data[0] != data[1]:
        why.append(f"data_md5 {data[0] or 'none'} → {data[1] or 'none'}")
    return why


def _told(config: Any) -> dict[str, Any]:
    """Without `lineage`, which a graph fills in from the inputs."""
    return {k: v for k, v in result_part(config).items() if k != "lineage"}


def _code(m: Any, n: Any) -> str:
    commits = [x["lineage"].get("git_sha", "")[:8] + ("+" if x["lineage"].get("git_dirty") else "") for x in (m, n)]
    return f"code changed ({commits[0]} → {commits[1]})" if commits[0] != commits[1] else "code changed"
