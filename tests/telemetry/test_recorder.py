"""The SDK: what is recorded, what it does without a disk, in children, and with a device's clock."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import time
from pathlib import Path

import pyarrow as pa
import pytest

from stepvideo.telemetry import segments
from stepvideo.telemetry.device import DeviceTimers
from stepvideo.telemetry.frames import decode
from stepvideo.telemetry.recorder import DROPPED, NullRecorder, Recorder
from stepvideo.telemetry.rings import Rings


def records(folder: Path, table: str) -> list[dict]:
    """All records in the segments of a folder, closed or not."""
    found = []
    for path in sorted((folder / segments.FOLDER).iterdir()):
        segment = segments.read(path)
        assert segment is not None
        tables = [decode(f, segment.identity) for f in segment.frames if f.head["table"] == table]
        found += [row for t in tables for row in t.to_pylist()]
    return found


@pytest.fixture
def recorder(tmp_path):
    recorder = Recorder(tmp_path, "run/é", "t2i", rank=3, node="n1", attempt=2, flush_s=60)
    yield recorder
    recorder.close()


def test_records_all_three_tables_with_who_when_and_where(tmp_path, recorder):
    near = 10_000_000  # the recorder counts on from the time of its beginning; the machine's clock may be set meanwhile
    before = time.time_ns()
    recorder.count("started", 1)
    for n in (1, 2):
        recorder.step(n)
        with recorder.span("forward"), recorder.span("attention"):
            time.sleep(0.002)
        recorder.count("tokens", n * 10)
        recorder.sample(f"clip-{n}", "raw/web", 17, 32, 48, 6, "video")
    outside = recorder.start("optimizer")
    recorder.stop(outside)
    recorder.record("data_wait", 1.5, 1.75)
    recorder.close()
    after = time.time_ns()

    identity = {"run": "run/é", "stage": "t2i", "rank": 3, "node": "n1", "attempt": 2}
    spans = records(tmp_path, "span")
    assert all(identity.items() <= s.items() for s in spans)
    shape = [(s["step"], s["name"], s["parent"]) for s in spans]
    first = [(1, "attention", "forward"), (1, "forward", "step"), (1, "step", "")]
    second = [(2, "attention", "forward"), (2, "forward", "step"), (2, "optimizer", "step"), (2, "data_wait", "step")]
    assert shape == [*first, *second, (2, "step", "")]
    attention, forward, step = spans[:3]
    for inner, outer in ((attention, forward), (forward, step)):
        assert outer["start_ns"] <= inner["start_ns"]
        assert inner["start_ns"] + inner["duration_ns"] <= outer["start_ns"] + outer["duration_ns"]
    assert before - near <= step["start_ns"] and step["start_ns"] + step["duration_ns"] <= after + near
    assert attention["duration_ns"] >= 2_000_000 and {s["device"] for s in spans} == {"cpu"}
    assert spans[6]["duration_ns"] == 250_000_000
    counters = [(c["step"], c["name"], c["value"]) for c in records(tmp_path, "counter")]
    assert counters == [(0, "started", 1.0), (1, "tokens", 10.0), (2, "tokens", 20.0)]
    (sample, _) = records(tmp_path, "sample")
    wanted = {"step": 1, "sample_id": "clip-1", "source": "raw/web", "tokens": 6, "kind": "video"}
    assert (wanted | {"frames": 17, "height": 32, "width": 48}).items() <= sample.items()


def test_a_span_ends_where_an_error_leaves_it(tmp_path, recorder):
    recorder.step(1)
    with pytest.raises(ValueError), recorder.span("outer"), recorder.span("inner"):
        raise ValueError
    with recorder.span("next"):
        pass
    recorder.close()
    assert [(s["name"], s["parent"]) for s in records(tmp_path, "span")][:3] == [
        ("inner", "outer"), ("outer", "step"), ("next", "step"),
    ]  # fmt: skip


def test_flush_puts_everything_into_the_file(tmp_path, recorder):
    recorder.count("a", 1)
    assert recorder.flush() and [c["name"] for c in records(tmp_path, "counter")] == ["a"]
    assert list((tmp_path / "segments").glob("*.open"))  # and the segment goes on


def test_without_a_disk_training_goes_on_and_the_oldest_are_dropped_and_counted(tmp_path, monkeypatch):
    full = tmp_path / "full"
    full.write_text("no folder can be made here")
    monkeypatch.setattr("stepvideo.telemetry.recorder.MOST_FRAMES", 20_000)
    recorder = Recorder(full, "run", "t2i", flush_s=60)
    for n in range(100):
        recorder.step(n)
        recorder.count("tokens", n)
        recorder.sample("x" * 1000 + str(n), "", 1, 2, 3, 4, "image")
        assert not recorder.flush()
    waiting = sum(len(frame) for frame, _ in recorder._waiting)
    assert waiting <= 20_000 and recorder.dropped > 100
    full.unlink()  # space again
    assert recorder.flush()
    recorder.close()
    told = sum(c["value"] for c in records(full, "counter") if c["name"] == DROPPED)
    assert told == recorder.dropped
    ids = [s["sample_id"].lstrip("x") for s in records(full, "sample")]
    assert ids == [str(n) for n in range(100 - len(ids), 100)]  # the newest are there


def test_a_full_disk_leaves_whole_frames_only(tmp_path, recorder, monkeypatch):
    recorder.count("first", 1)
    assert recorder.flush()
    real, left = os.write, [10]

    def write(fd: int, data: bytes) -> int:
        if not left[0]:
            raise OSError(28, "No space left on device")
        written = real(fd, data[: left[0]])
        left[0] -= written
        return written

    monkeypatch.setattr("stepvideo.telemetry.segments.os.write", write)
    recorder.count("second", 2)
    assert not recorder.flush()
    assert [c["name"] for c in records(tmp_path, "counter")] == ["first"]
    monkeypatch.undo()
    recorder.close()
    assert [c["name"] for c in records(tmp_path, "counter")] == ["first", "second"] and not recorder.dropped


def test_rings_are_bounded_and_say_what_they_lost():
    rings = Rings(most=100)
    for i in range(150):
        rings.count("x", i)
    rings.step(1)
    assert len(rings.counters) == 100 and rings.lost() == 50 and rings.lost() == 0
    for i in range(1000):  # no step ends
        rings.count("x", i)
    assert len(rings.counters) == 200
    values = [row[3] for table, rows in rings.drain() if table == "counter" for row in rows]
    assert values == list(range(800, 1000)) and rings.lost() == 1


def test_a_forked_child_records_nothing_and_leaves_the_parents_file_alone(tmp_path, recorder):
    recorder.count("before", 1)
    assert recorder.flush()
    recorder.count("held", 2)

    def child() -> None:
        recorder.count("child", 3)
        with recorder.span("child"):
            recorder.step(1)
        recorder.flush()
        recorder.close()
        os._exit(0)  # not by way of what an earlier test, of Prefect's flows, registered for this process's end

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(30)
    assert process.exitcode == 0 and segments.recover(tmp_path / "segments") == []  # still locked
    recorder.close()
    assert [c["name"] for c in records(tmp_path, "counter")] == ["before", "held"]
    assert records(tmp_path, "span") == []


def test_a_pickled_recorder_is_one_of_its_own(tmp_path, recorder):
    other = pickle.loads(pickle.dumps(recorder))
    other.count("there", 1)
    recorder.count("here", 1)
    other.close()
    recorder.close()
    rows = records(tmp_path, "counter")
    assert sorted(c["name"] for c in rows) == ["here", "there"] and {c["rank"] for c in rows} == {3}
    assert len(list((tmp_path / "segments").glob("*.seg"))) == 2


def test_a_disabled_recorder_has_the_same_calls(recorder):
    off = NullRecorder()
    public = {name for name in dir(recorder) if name[0] != "_"} - {"flush_s"}
    assert public <= set(dir(off))
    with off.span("a"), off.device_span("b"):
        off.step(1)
        off.count("a", 1)
        off.sample("a", "", 1, 2, 3, 4, "image")
        off.record("a", 0, 1)
        off.stop(off.start("a"))
    assert off.flush() is True and off.close() is None


class FakeEvent:
    def __init__(self, device: FakeDevice) -> None:
        self.device, self.at = device, -1

    def record(self) -> None:
        self.at = self.device.queued

    def query(self) -> bool:
        return self.at <= self.device.done


class FakeDevice:
    """A device that is somewhere in its queue; its clock has an origin of its own and runs at another speed."""

    name = "fake"

    def __init__(self, speed: float = 1.0) -> None:
        self.queued, self.done, self.speed, self.made = 0, -1, speed, 0

    def event(self) -> FakeEvent:
        self.made += 1
        return FakeEvent(self)

    def between(self, start: FakeEvent, end: FakeEvent) -> int:
        assert self.done >= end.at >= start.at, "only events that have passed, in order"
        return int((end.at - start.at) * self.speed)


def device_spans(timers: DeviceTimers) -> list[tuple]:
    return [timers.rings.spans.popleft() for _ in range(len(timers.rings.spans))]


def test_device_spans_come_when_the_device_is_done_and_nobody_waits():
    device, rings = FakeDevice(), Rings()
    timers = DeviceTimers(rings, device)
    rings.step(7)
    with timers.span("forward"):
        device.queued += 5_000_000
        with timers.span("attention"):
            device.queued += 2_000_000
    rings.step(8)
    rings.spans.clear()  # the host's `step`
    timers.poll()
    assert device_spans(timers) == []
    device.done = device.queued - 1
    timers.poll()
    assert device_spans(timers) == []
    device.done = device.queued
    timers.poll()
    found = [(step, name, parent, took, on) for step, name, parent, _, took, on in device_spans(timers)]
    assert found == [(7, "attention", "forward", 2_000_000, "fake"), (7, "forward", "step", 7_000_000, "fake")]


def test_events_are_used_again():
    device, rings = FakeDevice(), Rings()
    timers = DeviceTimers(rings, device)
    for _ in range(100):
        with timers.span("forward"):
            device.queued += 1000
        device.done = device.queued
        timers.poll()
    assert len(device_spans(timers)) == 100 and device.made <= 4


def test_device_spans_lie_between_launch_and_end_whatever_the_devices_clock_does():
    """The device's clock runs 1 % too fast, which is a hundred times what crystals do; the host sees spans late."""
    device, rings = FakeDevice(speed=1.01), Rings()
    timers = DeviceTimers(rings, device)
    bounds = []
    for _ in range(50):
        before = time.perf_counter_ns()
        with timers.span("forward"):
            time.sleep(0.001)
            device.queued += time.perf_counter_ns() - before
        device.done = device.queued
        bounds.append((before, time.perf_counter_ns()))
        timers.poll()
    late = 0
    for (before, after), (_, _, _, start, took, _) in zip(bounds, device_spans(timers), strict=True):
        late = max(late, start - before)
        assert start >= before - took * 0.02 and start + took <= after + 10_000_000
    assert late < 10_000_000


@pytest.mark.gpu
def test_cuda_events_time_the_device_not_the_launch(tmp_path):
    import torch

    from stepvideo.telemetry.device import CudaClock

    recorder = Recorder(tmp_path, "run", "t2i", clock=CudaClock(), flush_s=60)
    x = torch.randn(4096, 4096, device="cuda")
    recorder.step(1)
    launched = time.perf_counter()
    with recorder.device_span("forward"):
        for _ in range(200):
            x = x @ x
            x = x / x.norm()
    launched = time.perf_counter() - launched
    torch.cuda.synchronize()
    recorder.close()
    forward = next(s for s in records(tmp_path, "span") if s["name"] == "forward")
    assert forward["device"] == "cuda" and forward["duration_ns"] > 2e9 * launched


def test_columns_are_those_of_the_schema(tmp_path, recorder):
    from stepvideo.telemetry.schema import TABLES, arrow_schema

    for table, kind in TABLES.items():
        assert arrow_schema(table).names == list(kind._fields)
    assert arrow_schema("span").field("start_ns").type == pa.int64()
    assert arrow_schema("counter").field("value").type == pa.float64()
