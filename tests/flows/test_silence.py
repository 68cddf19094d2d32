"""A stage of which nothing is heard says so, with what may be the cause; one that speaks or has ended does not."""

from __future__ import annotations

import time

import pytest

from flows import silence
from flows.silence import Silence

SAID: list[tuple[str, str]] = []


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> tuple[Silence, list[float]]:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(silence.os, "getloadavg", lambda: (20.0, 0.0, 0.0))
    monkeypatch.setattr(silence.os, "sched_getaffinity", lambda _: {0, 1})
    SAID.clear()
    return Silence(lambda *said: SAID.append(said)), clock


def test_silence_is_told_with_its_cause_and_less_and_less_often(watched) -> None:
    quiet, clock = watched
    quiet.heard("vae1")
    quiet.heard("sft.1")
    for second in range(0, 300, 5):
        clock[0] = 1000.0 + second
        if second < 60:
            quiet.heard("sft.1")
        if second == 100:
            quiet.ended("sft.1")
        quiet.look()
    busy = "20 processes share the 2 cores of this machine; its output: stepvideo logs"
    assert SAID == [
        ("vae1", f"no news for 60 s: {busy} vae1 -f"),
        ("vae1", f"no news for 120 s: {busy} vae1 -f"),
        ("vae1", f"no news for 240 s: {busy} vae1 -f"),
    ]


def test_news_begin_it_anew_and_another_machines_load_is_not_told(watched, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet, clock = watched
    away = Silence(lambda *said: SAID.append(said), here=False)
    away.heard("sft.1")
    for second in (61, 62, 122, 123):
        clock[0] = 1000.0 + second
        if second == 62:
            away.heard("sft.1")
        away.look()
    assert SAID == [("sft.1", "no news for 60 s: its output: stepvideo logs sft.1 -f")] * 2
    monkeypatch.setattr(silence.os, "getloadavg", lambda: (2.5, 0.0, 0.0))
    assert silence.busy() == ""


def test_a_thread_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    quiet = Silence(lambda stage, _: said.append(stage), first_s=0.05)
    quiet.heard("vae1")
    quiet.start()
    until = time.monotonic() + 60
    while not said and time.monotonic() < until:
        time.sleep(0.01)
    quiet.stop()
    assert said[0] == "vae1"
