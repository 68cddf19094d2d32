"""The flow of `stepvideo align` is Paused in Prefect while a study is open, and goes on when it is closed."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from stepvideo.preference.study import FILE
from tasks.prefect_server import temporary_server

pytestmark = pytest.mark.soak


def state_of_the_flow() -> str:
    from prefect import get_client
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=["align"])))
    return (found[0].state.name or "") if found and found[0].state else ""


def test_paused_while_people_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / ".prefect"))
    with temporary_server(tmp_path / "server.log") as wait_until_up:
        wait_until_up()
        from flows import align, on_policy

        def made_of(_overrides: list[str], until: str | None):
            asked.append(until)
            return [{"stage": until, "key": "a", "path": "unused"}]

        closed = threading.Event()
        asked: list[str | None] = []
        (tmp_path / "studies" / "pairs").mkdir(parents=True)
        (tmp_path / "studies" / "pairs" / FILE).touch()  # as if it had been made before
        (tmp_path / "studies" / "pairs.key").write_text("a")
        monkeypatch.setattr(on_policy, "POLL_S", 0.5)
        for module in (align, on_policy):
            monkeypatch.setattr(module, "is_closed", lambda _folder: closed.is_set())
        monkeypatch.setattr(align, "_take_votes", lambda _folder, votes: votes.write_text("{}\n"))
        monkeypatch.setattr(on_policy, "cascade", made_of)

        def judge() -> None:
            until = time.monotonic() + 60
            while state_of_the_flow() != "Paused" and time.monotonic() < until:
                time.sleep(0.3)
            states.append(state_of_the_flow())
            from prefect import get_client
            from prefect.flow_runs import resume_flow_run

            with get_client(sync_client=True) as client:
                resume_flow_run(client.read_flow_runs()[0].id)  # by hand and too early: it is paused again
            time.sleep(3)
            states.append(state_of_the_flow())
            closed.set()

        states: list[str] = []
        people = threading.Thread(target=judge)
        people.start()
        on_policy.on_policy(["profile=smoke"], str(tmp_path / "studies"), "dpo")
        people.join()
        assert states == ["Paused", "Paused"] and state_of_the_flow() == "Completed"
        assert asked == ["pairs", "dpo"]
