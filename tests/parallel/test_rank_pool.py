"""The processes that tests of parallelism run in."""

from __future__ import annotations

import os
import signal
import time

import pytest


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    "call, said",
    [
        ((time.sleep, 60), "rank 0:\ndoes not answer within 1 s"),
        ((dies,), "rank 0:\ndied"),
        ((int, "x"), "rank 1:\n(?s:.*)ValueError: invalid literal"),
    ],
)
def test_what_went_wrong_is_said_and_the_next_call_is_not_disturbed(ranks, monkeypatch, call, said):
    if call[0] is time.sleep:
        monkeypatch.setattr(ranks, "timeout_s", 1)
    with pytest.raises(AssertionError, match=said):
        ranks(2, *call)
    monkeypatch.undo()
    assert ranks(2, abs, -2) == [2, 2]


def test_the_answer_to_a_call_that_was_interrupted_is_not_the_next_ones(ranks, monkeypatch):
    def interrupted() -> None:
        raise TimeoutError

    with monkeypatch.context() as patch:
        patch.setattr(type(ranks._calls), "recv", lambda self: interrupted())
        with pytest.raises(TimeoutError):
            ranks(1, abs, -1)
    assert ranks(2, abs, -2) == [2, 2]
