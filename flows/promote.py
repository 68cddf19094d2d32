"""Promotion and rollback of models: evidence first, the alias last (tasks/promotion.py)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from flows.promote_evaluate import evaluate_like, evaluation_of
from flows.promote_evidence import FILE, PAGE, Evidence, decisions, judge, known, read
from stepvideo.artifact import Artifact, Store
from stepvideo.errors import ArtifactError, StepVideoError
from tasks import promotion
from tasks.environment import set_defaults
from tasks.promotion import Record, intact
from tasks.record import records
from tasks.registry import CANDIDATE, CHAMPION, PREVIOUS, Registry, Version
from tasks.tracking import Server


class Refused(StepVideoError):
    """A promotion that its evidence does not carry."""


@dataclass(frozen=True)
class Approval:
    """Who said yes. `time`: seconds since 1970."""

    by: str
    note: str = ""
    time: float = field(default_factory=time.time)


def last_config(store: Store) -> tuple[dict[str, Any], list[str]]:
    """Config and overrides of the newest run that reported to MLflow. Raises ArtifactError if there is none."""
    found = [r.data for r in records(store) if r.data["config"]["tracking"]["mlflow"]]
    if not found:
        raise ArtifactError(
            f"no run in {store.root} has reported to MLflow, so there is no registry; `stepvideo run` with "
            "tracking=local or tracking=team registers its model"
        )
    return found[-1]["config"], found[-1]["overrides"]


def registry_of(cfg: dict[str, Any]) -> Registry:
    """The registry of a run's config. Raises StepVideoError if its database is missing."""
    set_defaults(cfg)
    return Registry(Server(cfg["tracking"], Path(cfg["work"])), cfg["tracking"]["model_name"])


def locate(registry: Registry, store: Store, ref: str) -> Version:
    """A version by its number, "model@alias", or an artifact: "stage", "stage/key", a path.

    Raises:
        ArtifactError, StepVideoError: there is none; names what there is.
    """
    if ref.isdigit():
        return registry.version(int(ref))
    if "@" not in ref:
        return registry.find(store.resolve(ref))
    model, _, alias = ref.partition("@")
    if model not in ("", registry.model):
        raise StepVideoError(f"{ref}: the model here is {registry.model}; give {registry.model}@{alias}")
    aliases = registry.aliases()
    if alias not in aliases:
        there = ", ".join(f"{a} (version {v})" for a, v in aliases.items()) or "none; `stepvideo run` registers one"
        raise StepVideoError(f"{registry.model} has no alias {alias!r} at {registry.where}; there are: {there}")
    return registry.version(aliases[alias])


def challenge(
    registry: Registry,
    store: Store,
    challenger: Version,
    champion: Version,
    rules: Any,
    run: tuple[dict[str, Any], list[str]],
    console: Console,
) -> Evidence:
    """Evaluate what is not evaluated yet, both on the same prompts and seeds, and keep what the comparison shows.

    Args:
        run: config and overrides of a run: where evaluations run.

    Raises:
        ArtifactError: files of a model are gone, or the challenger was never evaluated.
    """
    models = {v.number: intact(v) for v in (challenger, champion)}
    like = evaluation_of(store, models[challenger.number])
    if like is None:
        raise ArtifactError(f"{challenger} was never evaluated in {store.root}; `stepvideo run` does it at its end")
    found: list[tuple[Version, Artifact, Artifact]] = []
    for version in (challenger, champion):
        model = models[version.number]
        found.append((version, model, evaluate_like(like, model, store, *run, console)))
    return judge(store, found[0], found[1], rules)


def promote(
    registry: Registry,
    store: Store,
    version: Version,
    *,
    alias: str = CHAMPION,
    evidence: Sequence[Path] = (),
    approval: Approval | None = None,
    force: str = "",
    reason: str = "",
) -> Record:
    """Give a version an alias, with evidence. What a killed process has begun is finished first.

    Args:
        evidence: a decision's folder or file, and further files to be kept beside it; by default the decision in the
            store about this version and the one that has the alias.
        force: why it is promoted without a decision for it.

    Raises:
        Refused: no evidence, or evidence against it, or about other versions, and no `force`.
        ArtifactError: files of the version are gone.
        StepVideoError: the registry cannot be reached; nothing has changed, or the same again goes on.
    """
    check_alias(alias)
    with promotion.alone(store):
        finished = promotion.finish_begun(store, registry)
        current = registry.at(alias)
        if current and current.number == version.number:
            mine = [r for r in promotion.history(store) if (r["alias"], r["version"]) == (alias, version.number)]
            if finished and mine and mine[-1]["state"] == promotion.DONE:
                return mine[-1]  # this very command, killed before
            raise Refused(f"{version} has the alias {alias} already; nothing to do")
        intact(version)
        found, files = _gathered(store, version, current, evidence)
        said = _objection(version, current, alias, found)
        if said and not force:
            raise Refused(f"{said}\n  or promote it all the same, which is recorded: --force REASON")
        why = {"reason": reason or (force if said else found.why if found else ""), "forced": force if said else ""}
        why |= {"decision": found.data["id"] if found else "", "objection": said}
        why |= {"other_decisions": _others(store, version, current, found)}
        about = {"by": approval.by, "when": approval.time, "note": approval.note} if approval else None
        record = promotion.begin(store, registry, promotion.PROMOTION, alias, version, files, about, **why)
        return promotion.finish(store, registry, record)


def check_alias(alias: str) -> None:
    """Raises StepVideoError: an alias that others set, or that MLflow does not take."""
    if alias in (CANDIDATE, PREVIOUS):
        by = {CANDIDATE: "a run sets it to what it made last", PREVIOUS: "a promotion sets it to the former champion"}
        raise StepVideoError(f"--alias {alias}: {by[alias]}; give {CHAMPION}, or a name of your own such as staging")
    plain = alias.replace("-", "").replace("_", "")
    if not (plain.isascii() and plain.isalnum()) or alias == "latest" or (alias[0] == "v" and alias[1:].isdigit()):
        raise StepVideoError(f"--alias {alias!r}: letters, digits, - and _, and neither `latest` nor v1, v2, …")


def _gathered(
    store: Store, version: Version, current: Version | None, given: Sequence[Path]
) -> tuple[Evidence | None, list[Path]]:
    """The decision about a version, and the files to keep."""
    found, files = None, []
    for path in given:
        if not path.exists():
            raise ArtifactError(f"--evidence {path} is missing")
        if path.is_dir() or (path.name in (FILE, PAGE) and (path.parent / FILE).exists()):
            found = read(path)
        else:
            files.append(path)
    if found is None and current is not None:
        found = known(store, version.digest, current.digest)
    files += found.files if found else []
    if twice := {p.name for p in files if sum(q.name == p.name for q in files) > 1}:
        raise ArtifactError(f"--evidence: several files are called {', '.join(sorted(twice))}; rename one")
    return found, files


def _others(store: Store, version: Version, current: Version | None, found: Evidence | None) -> list[str]:
    """What else was decided about the same two, by other rules or other prompts: whoever reads the record is to know
    how often it was asked."""
    if current is None:
        return []
    every = decisions(store, version.digest, current.digest)
    mine = found.data["id"] if found else ""
    return [f"{e.data['id']}: {e.data['decision']['verdict']}" for e in every if e.data["id"] != mine]


def _objection(version: Version, current: Version | None, alias: str, found: Evidence | None) -> str:
    """Why the evidence does not carry a promotion; "" if it does."""
    if current is None:
        return f"nothing has the alias {alias} yet, so {version} was compared with nothing"
    if found is None:
        return (
            f"there is no evidence that {version} is better than {current}, which is {alias} now; "
            f"make it: stepvideo challenge {version.number}"
        )
    if not found.about(version.digest, current.digest):
        names = f"{found.data['challenger']['name']} and {found.data['champion']['name']}"
        return (
            f"the evidence in {found.folder} is about {names}, not about {version} and {current}, which is {alias} "
            f"now; make it: stepvideo challenge {version.number}"
        )
    return "" if found.promote else found.why


def rollback(
    registry: Registry, store: Store, to: int | None = None, reason: str = "", approval: Approval | None = None
) -> Record:
    """Give the alias `champion` back to the version that had it before, or to another one.

    Raises:
        Refused: there is no former champion.
        ArtifactError: its files are gone. StepVideoError: the registry cannot be reached.
    """
    with promotion.alone(store):
        finished, last = promotion.finish_begun(store, registry), promotion.history(store)[-1:]
        if finished and last[0]["kind"] == promotion.ROLLBACK and to in (None, last[0]["version"]):
            return last[0]  # this very command, killed before: not one step further back
        current = registry.at(CHAMPION)
        if current is None:
            raise Refused(f"{registry.model} has no champion at {registry.where}; nothing to roll back")
        number = to if to is not None else _former(registry, store, current)
        version = registry.version(number)
        if number == current.number:
            raise Refused(f"{version} is the champion already; --to names another one")
        intact(version)
        about = {"by": approval.by, "when": approval.time, "note": approval.note} if approval else None
        why = {"reason": reason, "forced": "", "decision": ""}
        record = promotion.begin(store, registry, promotion.ROLLBACK, CHAMPION, version, (), about, **why)
        return promotion.finish(store, registry, record)


def _former(registry: Registry, store: Store, current: Version) -> int:
    stack = promotion.champions(store, registry)
    if len(stack) > 1 and stack[-1] == current.number:
        return stack[-2]
    former = registry.aliases().get(PREVIOUS)
    if former is None or former == current.number:
        known_ones = ", ".join(str(v.number) for v in registry.versions() if v.number != current.number) or "none"
        raise Refused(f"{current} had no champion before it; --to VERSION names one of: {known_ones}")
    return former
