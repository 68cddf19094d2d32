"""Where the time went, on made events whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stepvideo.mind.account import PLANNED, UNKNOWN, Account, Report, Restart, account, report


class Events:
    """Of a stage whose steps take a second each."""

    def __init__(self) -> None:
        self.now, self.rows = 1e6, []

    def add(self, **row: Any) -> None:
        self.rows.append({"time": self.now, **row})

    def attempt(self, first: int, last: int, start_s: float = 10.0, ranks: int = 4) -> Events:
        self.add(type="event", name="attempt_started", world_size=ranks)
        self.now += start_s
        for done in range(first, last + 1):
            self.now += 1.0
            self.add(type="progress", done=done, total=100, unit="step")
        return self

    def end(self, word: str = "", wait_s: float = 20.0, **fields: Any) -> Events:
        if word:
            self.add(type="event", name=word, **fields)
        self.now += wait_s
        return self


def test_steps_that_are_lost_over_an_attempt_without_a_step_count_once() -> None:
    """100 steps, an attempt that dies as it starts, one that goes on from 50, and one from 40."""
    e = (
        Events()
        .attempt(1, 100)
        .end("failed")
        .attempt(1, 0)
        .end("failed")
        .attempt(51, 60)
        .end("failed")
        .attempt(41, 120)
    )
    found = account("fit", e.rows, [])
    assert found and found.iterating_s == pytest.approx(120)
    assert [r.lost_s for r in found.restarts] == pytest.approx([60, 0, 10])


def test_an_undisturbed_run_loses_its_start_and_its_checkpoints() -> None:
    e = Events().attempt(1, 90)
    e.add(type="event", name="checkpoint", step=50, held_s=4.0)
    found = account("fit", e.end("finished").rows, [])
    assert found and found.total_s == pytest.approx(100) and found.restarts == []
    assert (found.iterating_s, found.saving_s, found.starting_s) == pytest.approx((86, 4, 10))
    assert found.effective == pytest.approx(0.86) and found.ranks == 4


def test_steps_that_are_done_again_count_once() -> None:
    """Dies at step 50, goes on from a checkpoint at 30."""
    e = Events().attempt(1, 50)
    last = e.now
    decision = {"time": last + 5.0, "act_s": 0.2, "action": "restart", "fault": "GPU_LOST"}
    e.end(wait_s=20.0).attempt(31, 100).end("finished")
    found = account("fit", e.rows, [decision])
    assert found
    assert found.iterating_s == pytest.approx(100) and found.lost_s == pytest.approx(20)
    assert found.down_s == pytest.approx(20) and found.starting_s == pytest.approx(20)
    parts = found.iterating_s + found.lost_s + found.down_s + found.starting_s
    assert parts == pytest.approx(found.total_s)
    assert found.restarts[0].fault == "GPU_LOST" and found.restarts[0].detect_s == pytest.approx(4.8)


def test_causes_without_a_decision_are_taken_from_the_last_word() -> None:
    e = Events().attempt(1, 10).end("preempted").attempt(11, 20).end("failed", error="CUDA out of memory")
    e.attempt(21, 30).end("failed", error="KeyError: 3").attempt(31, 40).end().attempt(41, 50).end("finished")
    found = account("fit", e.rows, [])
    assert found and [r.fault for r in found.restarts] == [PLANNED, "CUDA_OOM", "SOFTWARE_FAULT", UNKNOWN]


def test_an_attempt_that_never_made_a_step_only_costs() -> None:
    e = Events().attempt(1, 0).end(wait_s=30).attempt(1, 10).end("finished")
    found = account("fit", e.rows, [])
    assert found and found.iterating_s == pytest.approx(10) and found.total_s == pytest.approx(60)
    assert account("render", [{"time": 1.0, "type": "event", "name": "attempt_started"}], []) is None


def test_the_tables_of_a_month_like_the_reports_are_the_reports() -> None:
    """Its faults on its 189 k GPU-days: 0.037 and 0.095 restarts a day and 1,000 GPUs."""
    faults = ["GPU_ECC_UNCONTAINED"] * 3 + ["GPU_LOCKED", "NIC_LOST"] + ["NODE_SHUTDOWN"] * 2
    faults += ["HANG"] * 4 + ["SOFTWARE_FAULT"] * 7 + ["CUDA_OOM"] * 7 + ["SLOW_NODE"] * 4 + [PLANNED] * 9
    restarts = [Restart(f, 600.0, 120.0) for f in faults]
    month = Account("t2vi", 6100, 31 * 86400.0, 31 * 86400.0 * 0.99, restarts=restarts)
    found = Report([month])
    assert {row: n for row, _, n in found.table_4()} == {
        **{"GPU_DBE_ERROR": 3, "GPU_LOCKED": 1, "LINK_DOWN": 1, "NODE_SHUTDOWN": 2},
        **{"SOFTWARE_FAULT": 11, "CUDA_OOM": 7, "NON_FATAL": 4},
    }
    assert {k: round(v, 3) for k, v in found.table_5().items()} == {"hardware": 0.037, "unexpected": 0.095}
    assert found.effective == pytest.approx(0.99)


def test_a_store_is_reported_for_people_and_for_programs(tmp_path: Path) -> None:
    e = Events().attempt(1, 50).end(wait_s=20).attempt(31, 60).end("finished")
    folder = tmp_path / "sft.1" / "0123456789abcdef"
    folder.mkdir(parents=True)
    (folder / "events.jsonl").write_text("".join(json.dumps(r) + "\n" for r in e.rows))
    decided = {"time": e.rows[0]["time"] + 64, "action": "restart", "fault": "NODE_SHUTDOWN", "act_s": 0.1}
    (folder / "mind.jsonl").write_text(json.dumps(decided) + "\n")
    found = report(tmp_path)
    assert json.loads(json.dumps(found.as_dict()))["stages"][0]["stage"] == "sft.1/012345"
    assert found.causes() == {"NODE_SHUTDOWN": 1} and 0.3 < found.effective < 0.6
    text = found.text()
    assert "sft.1/012345" in text and "NODE_SHUTDOWN    Host            1       2" in text
    assert report(tmp_path / "nothing").text() == "no stage has logged a step yet"
