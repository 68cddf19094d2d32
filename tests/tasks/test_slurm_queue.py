"""What an answer of Slurm says, and of when; no Slurm is needed."""

from __future__ import annotations

import threading
import time

import pytest

from tasks import slurm_queue
from tasks.slurm_queue import Job, Queue

RUNNING = Job("7", "RUNNING", 0, "None", "node1")


def test_an_answer_that_was_asked_for_before_a_job_came_says_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stages submit at once: squeue of one is on its way while sbatch of the other returns."""
    answers, asked = [{}, {"new": [RUNNING]}], threading.Event()

    def slow():
        asked.set()
        time.sleep(0.2)
        return answers.pop(0)

    monkeypatch.setattr(slurm_queue, "squeue", slow)
    monkeypatch.setattr(slurm_queue, "_sacct", lambda name: [])
    queue = Queue(poll_s=60)
    other = threading.Thread(target=queue.jobs, args=("other",))
    other.start()
    assert asked.wait(5)
    assert queue.jobs("new", since=time.monotonic()) == [RUNNING]
    other.join()


def test_squeue_is_asked_once_for_all_and_its_silence_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    said = [{"a": [RUNNING]}, None]
    monkeypatch.setattr(slurm_queue, "squeue", lambda: said.pop(0))
    monkeypatch.setattr(slurm_queue, "_sacct", lambda name: [])
    queue = Queue(poll_s=0.1)
    assert queue.jobs("a") == [RUNNING] and queue.jobs("b") == [] and len(said) == 1
    time.sleep(0.1)
    assert queue.jobs("a") is None


@pytest.mark.parametrize(
    ("status", "code"), [("19200", 75), ("768", 3), ("15", 15), ("75:0", 75), ("0:9", 9), ("0", 0)]
)
def test_exit_codes(status: str, code: int) -> None:
    assert slurm_queue._exit(status) == code


def test_where_a_job_is_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(slurm_queue.time, "localtime", time.gmtime)
    moment = lambda s: time.strftime("%H:%M", time.gmtime(s))  # noqa: E731
    waiting = Job("7", "PENDING", 0, "Priority", "", now - 300, now + 600)
    said = f"waits since {moment(now - 300)} (Priority), may start at {moment(now + 600)}"
    assert slurm_queue.in_words([waiting]) == said and slurm_queue.waits([waiting])
    unknown = Job("8", "PENDING", 0, "Resources", "", now - 300)
    ended = Job("9", "COMPLETED", 0, "None", "node2")
    assert slurm_queue.in_words([unknown]) == f"waits since {moment(now - 300)} (Resources)"
    assert slurm_queue.in_words([ended]) == "" and not slurm_queue.waits([ended])
    assert slurm_queue.in_words([RUNNING]) == "on node1"
    assert slurm_queue.in_words([RUNNING, ended, RUNNING, unknown]).startswith("2 × on node1; 1 × waits since")
    assert not slurm_queue.waits([RUNNING, unknown])
