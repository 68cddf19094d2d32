"""Frames of a segment file: records of one table in columns, with a checksum, so that a torn end is told from data.

    frame   = length of the body, CRC-32 of the body (two little-endian uint32), body
    body    = length of the head (uint32), head (JSON), columns
    head    = {"table": "span", "rows": n, "words": {column: its distinct strings}}

A column of integers or of floats is 8 bytes a row, one of strings 4: the place of its string in `words`. Columns are in
the order of the record type, without `IDENTITY`, which is the same in a whole segment: its first frame has no table
and tells it. Writing needs the standard library only, for it happens in every rank; reading gives Arrow tables.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

from stepvideo.telemetry.schema import TABLES, arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

IDENTITY = ("run", "stage", "rank", "node", "attempt")
LONGEST = 1 << 28  # bytes of a body: more is no frame
_FRAME, _HEAD = struct.Struct("<II"), struct.Struct("<I")
_CODES = {int: "q", float: "d", str: "i"}

assert sys.byteorder == "little", "columns are written as they lie in memory"


class Frame(NamedTuple):
    head: dict[str, Any]
    columns: memoryview
    end: int
    """Where the next one begins."""


@cache
def columns(table: str) -> dict[str, type]:
    """Column → int, float or str, of what is written a row."""
    return {name: kind for name, kind in get_type_hints(TABLES[table]).items() if name not in IDENTITY}


def encode(table: str, rows: Sequence[tuple[Any, ...]]) -> bytes:
    """A frame of records of `table`, each without its identity. Raises TypeError: values of other types."""
    words: dict[str, list[str]] = {}
    parts = []
    for (name, kind), values in zip(columns(table).items(), zip(*rows, strict=True), strict=True):
        if kind is str:
            places = {word: i for i, word in enumerate(dict.fromkeys(values))}
            if not all(isinstance(word, str) for word in places):
                raise TypeError(f"{table}.{name} has values that are no strings")
            words[name] = list(places)
            values = [places[v] for v in values]
        parts.append(array(_CODES[kind], values).tobytes())
    return _frame({"table": table, "rows": len(rows), "words": words}, parts)


def encode_identity(identity: Mapping[str, str | int], opened_ns: int) -> bytes:
    """The first frame of a segment."""
    return _frame({"table": "", "identity": dict(identity), "opened_ns": opened_ns}, [])


def _frame(head: Mapping[str, Any], parts: Sequence[bytes]) -> bytes:
    text = json.dumps(head, separators=(",", ":")).encode()
    body = b"".join([_HEAD.pack(len(text)), text, *parts])
    return _FRAME.pack(len(body), zlib.crc32(body)) + body


def frames(data: bytes | memoryview) -> Iterator[Frame]:
    """The whole frames from the start of `data` on, up to its end or the first that is torn or damaged."""
    view, at = memoryview(data), 0
    while at + _FRAME.size <= len(view):
        length, crc = _FRAME.unpack_from(view, at)
        at += _FRAME.size
        body = view[at : at + length]
        at += length
        if not _HEAD.size <= length <= LONGEST or len(body) < length or zlib.crc32(body) != crc:
            return
        end = _HEAD.size + _HEAD.unpack_from(body)[0]
        yield Frame(json.loads(bytes(body[_HEAD.size : end])), body[end:], at)


def decode(frame: Frame, identity: Mapping[str, str | int]) -> pa.Table:
    """The frame's records in the schema of its table."""
    import pyarrow as pa

    table, rows, words = frame.head["table"], frame.head["rows"], frame.head["words"]
    found: dict[str, Any] = {}
    at = 0
    for name, kind in columns(table).items():
        code = _CODES[kind]
        size = rows * array(code).itemsize
        buffer = pa.py_buffer(frame.columns[at : at + size])
        at += size
        arrow = {"q": pa.int64(), "d": pa.float64(), "i": pa.int32()}[code]
        found[name] = pa.Array.from_buffers(arrow, rows, [None, buffer])
        if kind is str:
            found[name] = pa.array(words[name], pa.string()).take(found[name])
    schema = arrow_schema(table)
    for name in IDENTITY:
        found[name] = pa.repeat(pa.scalar(identity[name], schema.field(name).type), rows)
    return pa.table([found[name] for name in schema.names], schema=schema)
