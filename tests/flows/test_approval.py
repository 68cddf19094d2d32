"""A person is asked and waited for: with the file of `stepvideo approve`, and as a paused flow run of a real server."""

from __future__ import annotations

import contextlib
import contextvars
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import approval, approval_file, approval_pause
from flows.approval import Answer, Unanswered, answer_of, ask, give, waiting
from stepvideo import cli
from stepvideo.errors import ArtifactError
from tasks.prefect_server import temporary_server

QUESTION = "Is challenger 3 to be the champion?"


def in_background(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    got: list[Any] = []

    def keep() -> None:
        try:
            got.append(call())
        except Exception as e:
            got.append(e)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(keep,))
    thread.start()
    return thread, got


def until(condition: Callable[[], Any], timeout_s: float = 60) -> Any:
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return found


def approve(*args: str) -> int:
    return cli.main(["approve", *args])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (approval, approval_pause):
        monkeypatch.setattr(module, "POLL_S", 0.1)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def test_waits_for_the_command_and_remembers_the_answer(tmp_path: Path, capsys) -> None:
    thread, got = in_background(lambda: ask(QUESTION, "report.html", 60, store=tmp_path, key="stepvideo-t2v@3"))
    (row,) = until(lambda: waiting(tmp_path))
    assert (row["key"], row["question"], row["evidence"]) == ("stepvideo-t2v-3", QUESTION, "report.html")
    assert approve("--store", str(tmp_path)) == 0
    listed = capsys.readouterr().out
    assert QUESTION in listed and f"next: stepvideo approve stepvideo-t2v-3 --store {tmp_path}" in listed
    assert approve("nothing", "--store", str(tmp_path)) == 2 and "stepvideo-t2v-3" in capsys.readouterr().err
    assert got == [] and waiting(tmp_path)
    assert approve("stepvideo", "--store", str(tmp_path), "--by", "Li", "--note", "better in zh", "--reject") == 0
    thread.join(60)
    (answer,) = got
    assert (answer.approved, answer.by, answer.note) == (False, "Li", "better in zh") and answer.time > 0
    assert waiting(tmp_path) == []
    assert ask(QUESTION, "report.html", 0, store=tmp_path, key="stepvideo-t2v@3") == answer  # it is not asked twice
    assert give(tmp_path, "stepvideo-t2v-3", Answer(True, "Wang")) == answer  # nor answered


def test_of_many_answers_at_once_one_counts(tmp_path: Path) -> None:
    started = threading.Barrier(8)

    def one(i: int) -> Answer:
        started.wait()
        return give(tmp_path, "k", Answer(i % 2 == 0, f"person {i}"))

    threads = [in_background(lambda i=i: one(i)) for i in range(8)]
    for thread, _ in threads:
        thread.join(60)
    assert {got[0] for _, got in threads} == {answer_of(tmp_path, "k")}
    assert [p.name for p in (tmp_path / approval_file.FOLDER).iterdir()] == ["k.answer.json"]


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(Unanswered, match=r"Nobody answered in 0\.2 s.*stepvideo approve"):
        ask(QUESTION, "report.html", 0.2, store=tmp_path)
    assert waiting(tmp_path) == []
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="cannot write"):
        ask(QUESTION, "report.html", 0.2, store=tmp_path / "file")


def test_a_run_that_a_pause_would_end_waits_for_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect ends a paused run whose deployment has a concurrency limit, as the pause takes its slot away."""
    told: list[str] = []
    monkeypatch.setattr(approval_pause, "holds_a_slot", lambda: True)
    monkeypatch.setattr(approval_pause, "create_markdown_artifact", lambda **about: told.append(about["markdown"]))
    monkeypatch.setattr(approval_pause, "emit_event", lambda name, *_, **__: told.append(name))
    monkeypatch.setattr(approval_pause, "pause_flow_run", lambda **_: pytest.fail("it was paused"))
    monkeypatch.setattr(approval_pause, "about", lambda: {"flow_run": "1", "flow_run_name": "weekly"})
    monkeypatch.setattr(approval, "in_flow", lambda: True)
    thread, got = in_background(lambda: ask(QUESTION, "report.html", 60, store=tmp_path, key="k"))
    until(lambda: len(told) == 2 and waiting(tmp_path))
    assert "stepvideo approve k" in told[0] and told[1] == approval_pause.EVENT and got == []
    assert approve("weekly", "--store", str(tmp_path), "--by", "Li") == 0
    thread.join(60)
    assert got[0].approved and got[0].by == "Li"


@pytest.mark.soak
def test_a_flow_run_is_paused_until_the_form_or_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / ".prefect"))
    with contextlib.ExitStack() as stack:
        wait_until_up = stack.enter_context(temporary_server(tmp_path / "server.log"))
        from prefect import flow, get_client
        from prefect.events.worker import EventsWorker
        from prefect.flow_runs import resume_flow_run
        from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

        # others in this process may have imported Prefect before
        settings: Any = {PREFECT_API_URL: os.environ["PREFECT_API_URL"], PREFECT_LOGGING_TO_API_ENABLED: False}
        stack.enter_context(temporary_settings(settings))
        stack.callback(EventsWorker.drain_all)

        @flow(name="promote")
        def promote() -> list[Answer]:
            return [ask(f"{n}?", "http://127.0.0.1/report", 60, store=tmp_path, key=n) for n in ("a", "b", "c")]

        wait_until_up()
        thread, got = in_background(promote)

        def paused(key: str) -> Any:
            asked = [r for r in waiting(tmp_path) if r["key"] == key]
            with get_client(sync_client=True) as client:
                run = client.read_flow_run(asked[0]["flow_run"]) if asked else None
            return run if run and run.state and run.state.is_paused() else None

        first = until(lambda: paused("a"))
        with pytest.raises(RuntimeError, match="by"):  # who decides must be said
            resume_flow_run(first.id, run_input={"approved": True})
        resume_flow_run(first.id, run_input={"approved": True, "by": "Li"})
        until(lambda: paused("b"))
        assert approve(first.name, "--store", str(tmp_path), "--by", "Wang", "--reject") == 0  # through the file
        until(lambda: paused("c"))
        assert approve(first.name, "--by", "Chen") == 0  # through the server, without the store
        thread.join(60)
        assert [(a.approved, a.by) for a in got[0]] == [(True, "Li"), (False, "Wang"), (True, "Chen")]
        with get_client(sync_client=True) as client:
            assert (state := client.read_flow_run(first.id).state) and state.is_completed()
