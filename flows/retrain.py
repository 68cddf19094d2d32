"""Retraining as a Prefect flow, for deployments: by a schedule, or by the events of flows/retrain_triggers.py.

Its cascade is a subflow. Prefect may start as many runs as it likes, late ones and doubled ones too: one at a time
trains, and what was served is not served again.
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from flows import parameters as p
from flows import screen
from flows.cascade import cascade
from flows.missed import drop_missed
from flows.retrain_triggers import send
from flows.retrain_work import Asked, Rows
from flows.retrain_work import retrain as work


def _name() -> str:
    given = flow_run.parameters
    why = f"schedule {given['cron']}" if given["cron"] else "by event" if given["triggered"] else "asked for"
    return f"{p.in_words(given['overrides'])}, {why}"[: p.NAME_LENGTH]


@flow(name="retrain", flow_run_name=_name, retries=0, on_running=[drop_missed])
def retrain(
    overrides: p.Overrides = None,
    rules: list[str] | None = None,
    cron: str = "",
    timezone: str = "UTC",
    triggered: bool = False,
    approve: bool = False,
    approve_timeout_s: float = 7 * 24 * 3600.0,
) -> dict[str, Any]:
    """Train what new data, labels or code touch, compare with the champion, promote on a significant win.

    Args:
        overrides: settings of the cascade, "key=value", such as profile=micro and tracking=team.
        rules: of the comparison, "key=value": metric, level, margin, guards, strict.
        cron: the schedule of this deployment, so that a missed time is caught up once; empty: now.
        timezone: of the schedule.
        triggered: only if a trigger waits, for deployments that events start.
        approve: pause before a promotion until a person says yes or no.
        approve_timeout_s: how long to wait for them.

    Returns:
        state, said, page, decision, promotion, version, affected, ran.
    """
    asked = Asked(list(overrides or []), list(rules or []), cron, timezone, triggered, approve, approve_timeout_s)
    outcome = vars(work(asked, _cascade, screen.console(stderr=True)))
    lines = [f"# {outcome['state']}", outcome["said"]]
    lines += [f"Evidence: `{outcome['page']}`"] if outcome["page"] else []
    lines += [f"Trained: {', '.join(outcome['ran']) or 'nothing'}"]
    create_markdown_artifact(markdown="\n\n".join(lines), key="retraining", description=outcome["state"])
    state = outcome["state"].replace(" ", "-")
    send(f"stepvideo.retrain.{state}", outcome["page"] or outcome["state"], outcome)
    return outcome


def _cascade(overrides: list[str], until: str | None) -> Rows:
    return cascade(overrides, until)  # type: ignore[return-value]
