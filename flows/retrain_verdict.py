"""What becomes of a challenger: promoted on a significant win, else reported; a person may have the last word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from flows.graph import Node
from flows.promote import Approval, challenge, promote, registry_of
from flows.promote_evidence import Evidence
from stepvideo.artifact import Store
from stepvideo.errors import ArtifactError
from tasks import promotion
from tasks.registry import CHAMPION

PROMOTED, NOT_PROMOTED, REJECTED, NO_CHAMPION = "promoted", "not promoted", "rejected", "no champion"


class Said(Protocol):
    """What a person answers (flows.approval.Answer)."""

    @property
    def approved(self) -> bool: ...

    @property
    def by(self) -> str: ...

    @property
    def note(self) -> str: ...

    @property
    def time(self) -> float: ...


Asking = Callable[[str, Evidence], Said]
"""(question, evidence) → the answer; returns when there is one."""


@dataclass(frozen=True)
class Outcome:
    """What a retraining came to.

    Attributes:
        state: nothing due | nothing affected | attached | no champion | promoted | not promoted | rejected.
        said: why, in a sentence. page: the evidence. decision, promotion: their ids in the store.
        affected: stages that had to run or could have had to. ran: those that did.
    """

    state: str
    said: str
    page: str = ""
    decision: str = ""
    promotion: str = ""
    version: int = 0
    affected: list[str] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)

    def with_stages(self, affected: list[str], ran: list[str]) -> Outcome:
        return replace(self, affected=affected, ran=ran)


class Wants(Protocol):
    """The part of `flows.retrain_work.Asked` that is about approval."""

    @property
    def approve(self) -> bool: ...

    @property
    def approve_timeout_s(self) -> float: ...


def verdict(
    store: Store,
    cfg: dict[str, Any],
    overrides: list[str],
    final: Node,
    rows: Sequence[dict[str, Any]],
    rules: Any,
    wants: Wants,
    console: Console,
    ask: Asking | None = None,
) -> Outcome:
    """Compare the final model of a run with the champion, and promote it or say why not.

    Raises:
        ArtifactError: files are gone. StepVideoError: the registry cannot be reached: the same again goes on from here.
    """
    registry = registry_of(cfg)
    with promotion.alone(store):
        for line in promotion.finish_begun(store, registry):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    made = next(r for r in rows if r["stage"] == final.name)
    model = store.find(final.name, made["key"])
    if model is None:
        raise ArtifactError(f"{final.name}/{made['key']} has gone from {store.root} since it was made; run it again")
    version = registry.find(model)
    champion = registry.at(CHAMPION)
    if champion is None:
        how = f"stepvideo promote {version.number} --store {store.root} --force 'the first champion'"
        return Outcome(NO_CHAMPION, f"{version} has nobody to be compared with. If it is good: {how}")
    if champion.digest == version.digest:
        promoted = [r for r in promotion.history(store) if r["digest"] == version.digest and r["state"] == "done"]
        if champion.number == version.number and promoted and promoted[-1]["decision"]:  # finished by this very call
            last = promoted[-1]
            return Outcome(PROMOTED, last["reason"], _page(store, last), last["decision"], last["id"], version.number)
        return Outcome(NOT_PROMOTED, f"{version} is the champion, byte for byte", version=version.number)
    if gone := promotion.rolled_back(store, version.digest):
        why = f"{version} was rolled back ({gone['id']}{': ' + gone['reason'] if gone.get('reason') else ''})"
        return Outcome(
            NOT_PROMOTED, f"{why}; to have it again: stepvideo promote {version.number}", version=version.number
        )
    found = challenge(registry, store, version, champion, rules, (cfg, overrides), console)
    about = {"page": str(found.page), "decision": str(found.data["id"]), "version": version.number}
    if not found.promote:
        return Outcome(NOT_PROMOTED, found.why, **about)
    approval = None
    if wants.approve:
        question = f"Promote {version} over {champion}? {found.why}"
        answer = ask(question, found) if ask else _asked(store, question, found, wants.approve_timeout_s)
        if not answer.approved:
            return Outcome(REJECTED, f"{answer.by} said no{f': {answer.note}' if answer.note else ''}", **about)
        approval = Approval(answer.by, answer.note, answer.time)
    record = promote(registry, store, version, evidence=[found.folder], approval=approval)
    return Outcome(PROMOTED, found.why, promotion=record["id"], **about)


def _asked(store: Store, question: str, found: Evidence, timeout_s: float) -> Said:
    from flows.approval import ask

    return ask(question, str(found.page), timeout_s, store=store.root, key=f"promotion-{found.data['id']}")


def _page(store: Store, record: dict[str, Any]) -> str:
    page = Path(store.root / promotion.FOLDER / record["id"] / "evidence.html")
    return str(page) if page.exists() else ""
