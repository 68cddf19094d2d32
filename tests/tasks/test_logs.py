"""Logs of attempts and of elements of an array: one naming, followed together, bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.logs import Tail, log_files, log_paths, newest_errors


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path


def test_elements_are_in_order_and_other_files_are_none(stage: Path) -> None:
    for number, element in ((2, None), (1, 10), (1, 9), (1, 0)):
        for path in log_paths(stage, number, element):
            path.touch()
    (stage / "logs/attempt-1.9.sbatch").touch()
    assert list(log_files(stage).values()) == ["0", "0", "9", "9", "10", "10", "", ""]
    assert list(log_files(stage, 2)) == list(log_paths(stage, 2))


def test_a_tail_gives_whole_lines_once_of_all_elements_and_of_later_attempts(stage: Path) -> None:
    tail = Tail(stage)
    zero, one = (log_paths(stage, 1, i)[0] for i in (0, 1))
    zero.write_text("a\nb")
    one.write_text("c\n")
    assert tail.read() == [("0", "a"), ("1", "c")] and tail.read() == []
    with zero.open("a") as f:
        f.write("b\n 10%\r 20%\n")
    log_paths(stage, 2)[1].write_text("torn")
    assert tail.read() == [("0", "bb"), ("0", " 20%")]
    assert tail.read(end=True) == [("", "torn")]
    zero.write_text("anew\n")  # as Slurm does where logs are truncated when a job is requeued
    assert tail.read() == [("0", "anew")]


def test_a_flood_is_cut_and_said(stage: Path) -> None:
    out = log_paths(stage, 1)[0]
    out.write_text("".join(f"line {i:06}\n" for i in range(10_000)))
    lines = [line for _, line in Tail(stage, most=1200).read()]
    assert lines[0] == f"… {120_000 - 1200:,} bytes left out, see {out}" and lines[-1] == "line 009999"
    assert len(lines) == 101


def test_the_error_to_show_is_the_newest_that_says_something(stage: Path) -> None:
    assert newest_errors(stage, 1) is None
    for i in range(3):
        log_paths(stage, 1, i)[1].write_text("wrong" if i == 1 else "")
    assert newest_errors(stage, 1) == log_paths(stage, 1, 1)[1]
