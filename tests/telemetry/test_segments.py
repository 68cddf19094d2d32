"""Segment files: whole frames or none, whoever dies when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepvideo.telemetry import segments
from stepvideo.telemetry.frames import decode, encode, frames
from stepvideo.telemetry.segments import SegmentWriter

WHO = {"run": "run", "stage": "t2i", "rank": 0, "node": "n0", "attempt": 1}
NUMBER = st.integers(-(2**63), 2**63 - 1)
ROW = st.tuples(NUMBER, st.text(), NUMBER, st.floats(allow_nan=False))


def counter(n: int) -> bytes:
    return encode("counter", [(n, "tokens", n * 1000, float(n))])


def steps(path: Path) -> list[int]:
    segment = segments.read(path)
    return [s for f in segment.frames for s in decode(f, segment.identity)["step"].to_pylist()] if segment else []


@given(st.lists(ROW, min_size=1, max_size=20))
def test_a_frame_gives_back_what_was_put_in(rows):
    (frame,) = frames(encode("counter", rows))
    table = decode(frame, WHO)
    names = ("step", "name", "time_ns", "value")
    assert list(zip(*(table[n].to_pylist() for n in names), strict=True)) == rows
    assert table.select(list(WHO)).to_pylist() == [WHO] * len(rows)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_torn_or_changed_frame_ends_a_segment(at, value):
    data = b"".join(counter(n) for n in range(4))
    length = len(data) // 4
    torn = [f.head["rows"] for f in frames(data[: at % len(data)])]
    assert len(torn) == (at % len(data)) // length
    place = at % len(data)
    changed = bytearray(data)
    changed[place] = value
    whole = [f for f in frames(bytes(changed))]
    assert len(whole) == (4 if data[place] == value else place // length)


def test_a_segment_grows_under_another_name_and_is_closed_by_size_and_age(tmp_path):
    writer = SegmentWriter(tmp_path, "r0", WHO, most_bytes=1500, most_s=3600)
    writer.append(counter(0))
    assert [p.name for p in tmp_path.iterdir()] == ["r0-000001.open"]
    for n in range(1, 30):
        writer.append(counter(n))
    writer.most_s = 0.0
    writer.append(counter(30))
    assert [p.suffix for p in tmp_path.iterdir()] == [".seg"] * writer.number and writer.number > 2
    assert [n for p in sorted(tmp_path.iterdir()) for n in steps(p)] == list(range(31))


def test_what_a_live_process_writes_is_not_recovered(tmp_path):
    writer = SegmentWriter(tmp_path, "r0", WHO)
    writer.append(counter(1))
    assert segments.recover(tmp_path) == []
    writer.append(counter(2))
    writer.close()
    assert steps(tmp_path / "r0-000001.seg") == [1, 2]


def test_an_empty_file_is_nobodys_until_it_is_old(tmp_path):
    path = tmp_path / "r0-000001.open"
    path.touch()
    assert segments.recover(tmp_path) == [] and path.exists()
    old = time.time() - 2 * segments.FORGOTTEN_S
    os.utime(path, (old, old))
    assert segments.recover(tmp_path) == [] and not path.exists()


def test_killed_in_the_midst_of_a_frame(tmp_path):
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from stepvideo.telemetry.segments import SegmentWriter
from stepvideo.telemetry.frames import encode
writer = SegmentWriter(__import__("pathlib").Path({str(tmp_path)!r}), "r7", {WHO!r})
for n in range(3):
    writer.append(encode("counter", [(n, "tokens", n, float(n))]))
os.write(writer._fd, encode("counter", [(3, "tokens", 3, 3.0)])[:-5])
print("ready", flush=True)
__import__("time").sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    assert segments.recover(tmp_path) == []
    process.send_signal(signal.SIGKILL)
    process.wait()
    (found,) = segments.recover(tmp_path)
    assert found.name == "r7-000001.seg" and steps(found) == [0, 1, 2]


def test_a_writer_that_cannot_cut_its_torn_end_goes_on_in_another_file(tmp_path, monkeypatch):
    writer = SegmentWriter(tmp_path, "r0", WHO)
    writer.append(counter(0))
    real = os.write

    def torn(fd: int, data: bytes) -> int:
        real(fd, bytes(data[:20]))
        raise OSError(5, "Input/output error")

    def refused(fd: int, size: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("stepvideo.telemetry.segments.os.write", torn)
    monkeypatch.setattr("stepvideo.telemetry.segments.os.ftruncate", refused)
    with pytest.raises(OSError):
        writer.append(counter(1))
    monkeypatch.undo()
    writer.append(counter(1))
    writer.close()
    assert [steps(p) for p in sorted(tmp_path.iterdir())] == [[0], [1]]


def test_damage_at_the_start_is_no_segment(tmp_path):
    path = tmp_path / "r0-000001.seg"
    path.write_bytes(b"\0" * 100)
    assert segments.read(path) is None
