"""events.jsonl: whole lines, torn ones skipped, followed by offset."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from stepvideo.sink import JsonlSink, NullSink, latest_metrics, read_events


def test_records_are_read_once_by_offset(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert read_events(path) == ([], 0)
    sink = JsonlSink(path)
    sink.metrics(1, {"loss": 0.5})
    first, offset = read_events(path)
    sink.event("saved", step=1)
    second, end = read_events(path, offset)
    assert [r["type"] for r in first] == ["metrics"] and second[0]["name"] == "saved"
    assert end == path.stat().st_size and read_events(path, end) == ([], end)
    sink.close()


def test_a_torn_line_is_ended_and_skipped(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    JsonlSink(path).metrics(1, {"loss": 0.5})
    with path.open("a") as f:
        f.write('{"time": 1, "type": "metr')  # killed while writing
    torn, offset = read_events(path)
    assert len(torn) == 1
    JsonlSink(path).metrics(2, {"loss": 0.4})
    rest, _ = read_events(path, offset)
    assert [r["step"] for r in rest] == [2] and list(latest_metrics(path)) == [1, 2]


def test_the_last_row_of_a_repeated_step_counts(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(path)
    for step, loss in ((2, 1.0), (1, 2.0), (2, 0.9)):
        sink.metrics(step, {"loss": loss})
    assert latest_metrics(path) == {1: {"loss": 2.0}, 2: {"loss": 0.9}}


def test_progress_is_thinned_but_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(path, progress_every_s=60)
    for i in range(100):
        sink.progress(i + 1, 100, "clip")
    rows = read_events(path)[0]
    assert [r["done"] for r in rows] == [1, 100] and rows[-1]["unit"] == "clip"
    NullSink().progress(1, 2)


@given(st.lists(st.dictionaries(st.text(min_size=1, max_size=4), st.floats(allow_nan=False, allow_infinity=False))))
def test_any_prefix_of_the_file_is_readable(rows: list[dict]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "e"
        sink = JsonlSink(path)
        for i, row in enumerate(rows):
            sink.metrics(i, row)
        sink.close()
        data = path.read_bytes()
        for cut in {0, len(data) // 3, len(data) // 2, len(data)}:
            path.write_bytes(data[:cut])
            records, offset = read_events(path)
            assert offset <= cut and [r["values"] for r in records] == rows[: len(records)]
            assert len(records) == data[:cut].count(b"\n")
        assert all(json.loads(line) for line in data.splitlines())
