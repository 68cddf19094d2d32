"""Records and files that are not as they should be cost themselves, and nothing beside them."""

from __future__ import annotations

import os
import time

from made_training import Made, write_run
from telemetry_segments import expected, fill, stored

from stepvideo.telemetry import compaction, segments
from stepvideo.telemetry.consumer import consume
from stepvideo.telemetry.frames import encode
from stepvideo.telemetry.recorder import Recorder
from stepvideo.telemetry.schema import parts
from stepvideo.telemetry.segments import SegmentWriter
from stepvideo.telemetry.ship import Journal, ship
from stepvideo.telemetry.views import open_views

WHO = {"run": "a/b", "stage": "t2i", "rank": 7, "node": "n0", "attempt": 1}


def test_a_record_of_another_type_is_dropped_alone_and_counted(tmp_path):
    recorder = Recorder(tmp_path, "a/b", "t2i", flush_s=3600)
    recorder.count("tokens", 1.0)
    recorder.count("tokens", None)  # type: ignore[arg-type]
    recorder.sample("clip", None, 1, 2, 3, 4, "image")  # type: ignore[arg-type]
    recorder.sample("clip", "raw", 1, 2, 3, 4.5, "image")  # type: ignore[arg-type]
    recorder.sample("clip", "raw", 1, 2, 3, 4, "image")
    assert recorder.flush(60)
    recorder.close()
    ship(tmp_path)
    assert len(stored(tmp_path, "sample")) == 1 and recorder.dropped == 3
    assert len(stored(tmp_path)) == 2  # the one, and what was dropped


def test_a_frame_that_cannot_be_read_is_counted_and_the_rest_of_its_segment_is_shipped(tmp_path):
    writer = SegmentWriter(tmp_path / segments.FOLDER, "r7", WHO)
    writer.append(encode("counter", [(1, "tokens", 1, 1.0)]))
    writer.append(encode("counter", [(2, "\ud800", 2, 2.0)]))  # no UTF-8 has it
    writer.append(encode("counter", [(3, "tokens", 3, 3.0)]).replace(b'"counter"', b'"nothing"'))  # damaged: torn here
    writer.close()
    fill(tmp_path, 0, 0, 3)
    ship(tmp_path)
    assert stored(tmp_path) == sorted([*expected((0, 0, 3)), ("a/b", 7, 1)])
    assert Journal.read(tmp_path).damaged == 1


def test_a_disk_that_fails_for_a_moment_does_not_end_the_consumer(tmp_path, monkeypatch, capsys):
    fill(tmp_path, 0, 0, 3)
    failed: list[int] = []

    def sweep(*args: object) -> None:
        if not failed:
            failed.append(1)
            raise OSError(116, "Stale file handle")

    monkeypatch.setattr("stepvideo.telemetry.consumer.sweep", sweep)
    rounds = iter((False, True))
    assert consume(tmp_path, wait=lambda: next(rounds)) == 6
    assert "Stale file handle" in capsys.readouterr().err


def test_who_reads_for_long_still_finds_parts_that_were_merged_meanwhile(tmp_path):
    for n in range(20):
        fill(tmp_path, 0, n, 1)
        ship(tmp_path)
    listed = parts(tmp_path, "counter")
    for _ in range(3):
        consume(tmp_path)
    assert len(parts(tmp_path, "counter")) == 1 and all(p.exists() for p in listed)
    old = time.time() - 2 * compaction.KEPT_S
    (merged,) = parts(tmp_path, "counter")
    os.utime(merged, (old, old))
    consume(tmp_path)
    assert not any(p.exists() for p in listed) and stored(tmp_path) == expected((0, 0, 20))


def test_a_folder_may_have_any_name(tmp_path):
    folder = tmp_path / "it's [1] of *"
    write_run(folder, Made(ranks=2, steps=3))
    with open_views(folder) as views:
        assert views.sql("SELECT count(DISTINCT step) FROM span") == [(3,)]
