"""Headers and runs: what goes round trips, what is forged is refused, and nothing else can happen."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepvideo.pipes.errors import PipeError, WireError
from stepvideo.pipes.ranges import Ranges
from stepvideo.pipes.watermark import Watermark
from stepvideo.pipes.wire import DTYPE_BYTES, MAX_CONTROL_BYTES, Header, TensorSpec, aligned, decode, spans

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
rows = st.lists(st.lists(json_values, max_size=4), max_size=3)  # a tensor is a name, a dtype and a shape
specs = st.builds(
    TensorSpec,
    st.text(max_size=20),
    st.sampled_from(sorted(DTYPE_BYTES)),
    st.lists(st.integers(0, 50), max_size=4).map(tuple),
)
headers = st.builds(
    Header,
    st.integers(0, 2**62 - 1),
    st.lists(specs, max_size=5, unique_by=lambda t: t.name).map(tuple),
    st.dictionaries(st.text(), json_values, max_size=4),
)


@given(headers)
def test_a_header_comes_back_as_it_was(header: Header) -> None:
    assert Header.decode(header.encode(), header.memory) == header


@given(headers.filter(lambda h: h.memory > 0))
def test_an_item_above_the_limit_is_refused_before_memory_is_taken(header: Header) -> None:
    with pytest.raises(WireError, match="above the limit"):
        Header.decode(header.encode(), header.memory - 1)


@given(st.binary(max_size=300))
def test_bytes_of_strangers_are_headers_or_refused(body: bytes) -> None:
    try:
        header = Header.decode(body, 10_000)
    except WireError:
        return
    assert header.memory <= 10_000


@given(st.dictionaries(st.sampled_from(["seq", "tensors", "meta", "x"]), json_values | rows))
def test_json_of_strangers_is_a_header_or_refused(raw: dict) -> None:
    try:
        header = Header.decode(json.dumps(raw).encode(), 10_000)
    except WireError:
        return
    assert type(header.seq) is int and header.memory <= 10_000


@pytest.mark.parametrize(
    "raw",
    [
        {"seq": True},
        {"seq": -1},
        {"seq": 1.0},
        {"tensors": [["x", "object", [1]]]},
        {"tensors": [["x", "float32", [-1]]]},
        {"tensors": [["x", "float32", [True]]]},
        {"tensors": [["x", "float32", [1 << 60]]]},
        {"tensors": [["x", "float32", [1 << 40, 1 << 40]]]},
        {"tensors": [["x", "float32", [1] * 17]]},
        {"tensors": [["x", "float32", [1]], ["x", "float32", [1]]]},
        {"tensors": [["x" * 257, "float32", [1]]]},
        {"tensors": [[["x"], "float32", [1]]]},
        {"tensors": [["x", ["float32"], [1]]]},
        {"tensors": {"x": 1}},
        {"tensors": [["x", "uint8", []]] * 5000},
        {"meta": []},
    ],
)
def test_forged_headers(raw: dict) -> None:
    with pytest.raises(WireError):
        Header.decode(json.dumps({"seq": 0, "tensors": [], "meta": {}} | raw).encode(), 1 << 40)


def test_a_control_message_has_a_size_and_a_depth() -> None:
    with pytest.raises(WireError, match="above"):
        decode(b" " * (MAX_CONTROL_BYTES + 1))
    with pytest.raises(WireError, match="not JSON"):
        decode(b"[" * 100_000)
    with pytest.raises(WireError, match="not JSON"):
        decode(b'{"n": ' + b"9" * 5000 + b"}")


@pytest.mark.parametrize("meta", [{"x": float("nan")}, {"x": object()}, {"x": "y" * MAX_CONTROL_BYTES}])
def test_meta_that_is_no_json_is_told_to_the_sender(meta: dict) -> None:
    with pytest.raises(PipeError, match="meta"):
        Header(0, (), meta).encode()


@given(st.integers(0, 10_000), st.integers(1, 500))
def test_frames_cover_everything_once(nbytes: int, frame: int) -> None:
    found = list(spans(nbytes, frame))
    assert [n for a, b in found for n in range(a, b)] == list(range(nbytes))
    assert all(0 < b - a <= frame for a, b in found)
    assert nbytes <= aligned(nbytes) < nbytes + 64 and aligned(nbytes) % 64 == 0


numbers = st.integers(0, 60)
additions = st.lists(st.tuples(numbers, numbers), max_size=30)


@given(additions)
def test_ranges_are_the_set_of_what_was_added(added: list[tuple[int, int]]) -> None:
    ranges, expected = Ranges(), set()
    for start, stop in added:
        ranges.add(start, stop)
        expected |= set(range(start, stop))
    assert {n for n in range(70) if n in ranges} == expected
    assert len(ranges) == len(expected)
    runs = ranges.runs()
    assert all(a < b for a, b in runs) and all(x[1] < y[0] for x, y in zip(runs, runs[1:])), "sorted and apart"
    assert Ranges.checked(json.loads(json.dumps(runs))) == ranges


@given(additions, additions)
def test_ranges_unite(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    united = Ranges(one)
    united.update(Ranges(other))
    assert united == Ranges(one + other)


@pytest.mark.parametrize("raw", [None, {}, [1], [[1]], [[1, 2.0]], [[-1, 2]], [[True, 2]], [[0, 1 << 63]]])
def test_forged_ranges(raw: object) -> None:
    with pytest.raises(WireError):
        Ranges.checked(raw)


def test_a_watermark_keeps_the_newest_epoch_and_melts_below_the_floor() -> None:
    mark = Watermark()
    assert mark.begin("a", 5)
    for n in (1, 3, 5, 9):
        mark.add(("a", 5, n))
    mark.settle("a", 5, 8)
    assert mark.state_dict() == {"a": {"epoch": 5, "done": [[0, 8], [9, 10]]}}
    assert not mark.begin("a", 4), "an earlier life of the producer is over"
    assert mark.begin("a", 6) and 9 not in mark.done("a", 6)

    other = Watermark()
    other.merge(mark.state_dict())
    other.merge({"a": {"epoch": 6, "done": [[2, 4]]}, "b": {"epoch": 1, "done": [[0, 1]]}})
    assert 3 in other.done("a", 6) and 0 in other.done("b", 1)
    other.merge({"a": {"epoch": 5, "done": [[0, 100]]}})
    assert 50 not in other.done("a", 6)


@pytest.mark.parametrize("state", [[], {"a": 1}, {"a": {"epoch": 1}}, {"a": {"epoch": "x", "done": []}}])
def test_a_state_that_is_none(state: object) -> None:
    with pytest.raises(PipeError, match="state"):
        Watermark().merge(state)  # type: ignore[arg-type]
