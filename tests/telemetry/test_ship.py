"""The consumer: every record once in Parquet and in a database, whenever it is killed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from telemetry_segments import Killed, expected, fill, stored

from stepvideo.errors import ArtifactError
from stepvideo.telemetry import compaction, segments
from stepvideo.telemetry.consumer import consume
from stepvideo.telemetry.schema import FOLDER, PARQUET, parts
from stepvideo.telemetry.ship import Journal, alone, ship, ship_alone

DAY_NS = 86_400 * 10**9


def test_segments_become_parquet_and_go(tmp_path):
    fill(tmp_path, 0, 0, 12)
    fill(tmp_path, 1, 0, 7, run="c d")
    assert ship(tmp_path) == 2 * 19
    assert stored(tmp_path) == sorted(expected((0, 0, 12)) + expected((1, 0, 7), run="c d")) and len(
        stored(tmp_path, "sample")
    ) == len(stored(tmp_path))
    day = time.strftime("%Y-%m-%d", time.gmtime())
    assert {p.parent.relative_to(tmp_path).as_posix() for p in parts(tmp_path, "counter")} == {
        f"{PARQUET}/counter/run=a%2Fb/date={day}", f"{PARQUET}/counter/run=c%20d/date={day}",
    }  # fmt: skip
    assert [len(parts(tmp_path, "sample", run)) for run in ("a/b", "c d", "none")] == [1, 1, 0]
    assert not list((tmp_path / segments.FOLDER).iterdir())
    assert ship(tmp_path) == 0 and Journal.read(tmp_path).records == {"span": 0, "counter": 19, "sample": 19}


def test_a_segment_counts_to_the_day_on_which_it_was_opened(tmp_path, monkeypatch):
    now = time.time_ns()
    monkeypatch.setattr("stepvideo.telemetry.segments.time.time_ns", lambda: now - 3 * DAY_NS)
    fill(tmp_path, 0, 0, 3)
    monkeypatch.undo()
    fill(tmp_path, 0, 3, 3)
    ship(tmp_path)
    days = sorted(p.parent.name for p in parts(tmp_path, "counter"))
    assert len(days) == 2 and days[0] < days[1] and stored(tmp_path) == expected((0, 0, 6))


def test_large_amounts_go_in_batches(tmp_path):
    fill(tmp_path, 0, 0, 30)
    ship(tmp_path, batch=2000)
    assert Journal.read(tmp_path).batch > 2 and stored(tmp_path) == expected((0, 0, 30))
    names = [p.name for p in parts(tmp_path, "counter")]
    assert names == sorted(set(names))


def run_with_kills(folder: Path, at: int, few: int = 1) -> tuple[bool, str]:
    """A round of the consumer that dies at its `at`-th point; whether it did, and where."""
    seen: list[str] = []

    def hook(point: str) -> None:
        seen.append(point)
        if len(seen) == at:
            raise Killed

    try:
        with alone(folder) as mine:
            assert mine
            compaction.sweep(folder, hook)
            ship_alone(folder, hook, batch=2000)
            compaction.compact(folder, hook, few=few)
    except Killed:
        return True, seen[-1]
    return False, ""


def test_killed_at_every_point_nothing_is_lost_and_nothing_doubled(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda fd: None)  # no power fails here
    at, where, died = 0, set(), True
    while died:
        at += 1
        folder = tmp_path / str(at)
        fill(folder, 0, 0, 7)
        died, point = run_with_kills(folder, at)
        where.add(point)
        for table in ("counter", "sample"):  # as a reader sees it meanwhile
            seen = stored(folder, table)
            assert len(seen) == len(set(seen))
        fill(folder, 1, 0, 2)
        run_with_kills(folder, 0)
        run_with_kills(folder, 0)
        assert stored(folder) == expected((0, 0, 7), (1, 0, 2)) == stored(folder, "sample"), (at, point)
        assert Journal.read(folder).records == {"span": 0, "counter": 9, "sample": 9}, (at, point)
        assert not list((folder / PARQUET).rglob(".*.tmp"))
        assert not list((folder / segments.FOLDER).iterdir())
    assert where >= {"planned", "part", "renamed", "parts", "written", "removed"} and at > 20


KILLED = """
import os, signal, sys
from pathlib import Path
from stepvideo.telemetry.consumer import consume
left = int(sys.argv[2])
def hook(point):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
consume(Path(sys.argv[1]), hook=hook)
"""


def test_killed_with_9_while_ranks_go_on_recording(tmp_path):
    draw, written = random.Random(7), 0
    for _ in range(3):
        fill(tmp_path, 0, written, 8)
        written += 8
        arguments = [sys.executable, "-c", KILLED, str(tmp_path), str(draw.randint(1, 9))]
        assert subprocess.run(arguments).returncode in (0, -signal.SIGKILL)
    assert ship(tmp_path) is not None
    assert stored(tmp_path) == expected((0, 0, written)) == stored(tmp_path, "sample")


def test_only_one_consumer(tmp_path):
    fill(tmp_path, 0, 0, 3)
    with alone(tmp_path) as first:
        assert first and ship(tmp_path) is None
    assert ship(tmp_path) == 6


def test_parts_are_merged_and_every_record_is_there_once_all_along(tmp_path):
    for n in range(6):
        fill(tmp_path, 0, n * 3, 3)
        ship(tmp_path)
    before = {p.name for p in parts(tmp_path, "counter")}
    with alone(tmp_path):
        assert compaction.compact(tmp_path, few=2) == 2
    (merged,) = parts(tmp_path, "counter")
    assert len(before) == 6 and merged.name == "part-00000001-00000006.parquet"
    assert len(list(merged.parent.glob("*.parquet"))) == 7  # for who has just listed them
    assert stored(tmp_path) == expected((0, 0, 18))
    with alone(tmp_path):
        assert compaction.sweep(tmp_path) == 12 and compaction.compact(tmp_path, few=2) == 0
    assert [p.name for p in merged.parent.iterdir()] == [merged.name] and stored(tmp_path) == expected((0, 0, 18))


def test_large_parts_are_left_alone(tmp_path):
    for n in range(4):
        fill(tmp_path, 0, n * 3, 3)
        ship(tmp_path)
    size = parts(tmp_path, "counter")[0].stat().st_size
    with alone(tmp_path):
        compaction.compact(tmp_path, few=1, small=2 * size + 200)
    assert [p.name for p in parts(tmp_path, "counter")] == [
        "part-00000001-00000002.parquet", "part-00000003-00000004.parquet",
    ]  # fmt: skip
    assert stored(tmp_path) == expected((0, 0, 12))


def test_a_disk_that_is_full_is_told_and_the_segments_wait(tmp_path, monkeypatch, capsys):
    fill(tmp_path, 0, 0, 3)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
    with pytest.raises(ArtifactError, match="No space left on device.*free space"):
        consume(tmp_path)
    assert "No space left" in capsys.readouterr().err
    monkeypatch.undo()
    assert ship(tmp_path) == 6 and stored(tmp_path) == expected((0, 0, 3))


def test_a_damaged_segment_is_counted_and_the_others_are_shipped(tmp_path):
    fill(tmp_path, 0, 0, 3)
    (tmp_path / segments.FOLDER / "r9-x-000001.seg").write_bytes(b"garbage that is no frame at all")
    assert ship(tmp_path) == 6 and Journal.read(tmp_path).damaged == 1


def test_the_command_takes_a_store_and_refuses_what_is_none(tmp_path, capsys):
    from stepvideo.cli import main

    fill(tmp_path / "store" / FOLDER, 0, 0, 3)
    assert main(["telemetry", "ship", str(tmp_path / "store"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["shipped"] == 6 and stored(tmp_path / "store" / FOLDER) == expected((0, 0, 3))
    assert main(["telemetry", "ship", str(tmp_path / "nothing")]) == 2
    assert "is no folder" in capsys.readouterr().err and not (tmp_path / "nothing").exists()


def test_the_command_follows_until_it_is_told_to_stop(tmp_path):
    code = (
        "import argparse, sys\nfrom stepvideo.telemetry import ship_command as c\n"
        "p = argparse.ArgumentParser(); c.add_arguments(p); sys.exit(c.call(p.parse_args()))"
    )
    command = [sys.executable, "-c", code, str(tmp_path), "--follow", "--every", "0.05", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    fill(tmp_path, 0, 0, 6)
    until = time.monotonic() + 60
    while len(stored(tmp_path)) < 6 and time.monotonic() < until:
        time.sleep(0.05)
    while Journal.read(tmp_path).state != "written":
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and json.loads(out)["records"] == {"span": 0, "counter": 6, "sample": 6}
