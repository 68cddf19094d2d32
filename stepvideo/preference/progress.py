"""How far a study is and how well it is answered, for its owner; nothing here tells which model is ahead."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from stepvideo.evaluation.analysis import agreements
from stepvideo.preference.quality import Quality, screen
from stepvideo.preference.session import Session, closed
from stepvideo.preference.store import assignments, people
from stepvideo.preference.table import vote_rows


def progress(session: Session, folder: Path) -> dict[str, Any]:
    """{kind, simulated, closed, items, raters, wanted, voted, items_done, agreement: [{question, raw, alpha,
    kappa}], annotators: [{name, active, voted, counted, skipped, verdict, reasons, median_dwell_s, left_share,
    tie_share}]}; shares are {value, low, high, n}.

    Verdicts are those of the study's own rules; they are null for labels, and for who has not answered yet.
    """
    study = session.study
    rows, persons, done = session.store.read(_counts)
    counted = [r for r in rows if r.role == "vote" and r.state == "voted"]
    full = Counter(r.item for r in counted)
    judged: dict[str, Quality] = {}
    agreed: list[dict[str, Any]] = []
    if study.kind != "label":
        screened = screen(vote_rows(session, folder), study.config.rules)
        judged, agreed = screened.annotators, [asdict(a) for a in agreements(screened.included)]
    items = study.by_role["vote"]
    return {
        "kind": study.kind,
        "simulated": study.config.simulated,
        "closed": done,
        "items": len(items),
        "raters": study.config.raters,
        "wanted": len(items) * study.config.raters,
        "voted": len(counted),
        "items_done": sum(n >= study.config.raters for n in full.values()),
        "agreement": agreed,
        "annotators": [
            {
                "name": p.name,
                "active": p.revoked is None and p.expires > session.clock(),
                "voted": sum(r.annotator == p.name and r.state == "voted" for r in rows),
                "counted": sum(r.annotator == p.name for r in counted),
                "skipped": sum(r.annotator == p.name and r.state == "skipped" for r in rows),
                **_quality(judged.get(p.name)),
            }
            for p in persons
        ],
    }


def _counts(connection: Connection) -> tuple[list[Any], list[Any], bool]:
    """Rows of all assignments, of all annotators, and whether the study is closed."""
    columns = (assignments.c.annotator, assignments.c.item, assignments.c.role, assignments.c.state)
    rows = connection.execute(select(*columns)).all()
    who = select(people.c.name, people.c.expires, people.c.revoked).where(people.c.role == "annotator")
    return list(rows), list(connection.execute(who.order_by(people.c.number)).all()), closed(connection)


def _quality(judged: Quality | None) -> dict[str, Any]:
    names = ("verdict", "reasons", "median_dwell_s", "left_share", "tie_share")
    said = asdict(judged) if judged else {}
    return {name: said.get(name) for name in names}
