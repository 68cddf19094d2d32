"""What is said on a connection: one byte of kind, then JSON; tensors as raw bytes in frames.

    producer → consumer   HELLO  OFFER(header)        DATA DATA …          PING  REVOKE  BYE
    consumer → producer   WELCOME       GRANT(seq)          ACK(seqs)      FREE          BYE

An item crosses after its header was granted: sizes are checked, and memory is set aside, before a byte of a tensor is
sent. Nothing is pickled. Everything decoded here comes from a stranger until it is proved otherwise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stepvideo.pipes.errors import PipeError, WireError

VERSION = 1
HELLO, WELCOME, OFFER, GRANT, DATA = b"H", b"W", b"O", b"G", b"D"
ACK, FREE, PING, REVOKE, BYE = b"A", b"F", b"P", b"V", b"B"
KINDS = frozenset((HELLO, WELCOME, OFFER, GRANT, DATA, ACK, FREE, PING, REVOKE, BYE))

MAX_CONTROL_BYTES = 1 << 20
MAX_TENSORS = 4096
MAX_DIMENSIONS = 16
MAX_NAME = 256  # characters
PAGE = 4096  # bytes
ALIGNMENT = 64  # bytes between the starts of an item's tensors: a cache line, and more than any dtype

DTYPE_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1, "complex64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class TensorSpec:
    """A tensor without its bytes. dtype: as in torch, without `torch.`."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or len(self.name) > MAX_NAME:
            raise WireError(f"a tensor's name is not text of at most {MAX_NAME} characters: {str(self.name)[:40]!r}")
        if not isinstance(self.dtype, str) or self.dtype not in DTYPE_BYTES:
            raise WireError(f"tensor {self.name!r}: dtype {str(self.dtype)[:40]!r} does not travel; cast it")
        if len(self.shape) > MAX_DIMENSIONS or not all(type(n) is int and 0 <= n < 1 << 48 for n in self.shape):
            raise WireError(f"tensor {self.name!r}: {str(self.shape)[:80]} is no shape")

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class Header:
    """An item without its bytes."""

    seq: int
    tensors: tuple[TensorSpec, ...]
    meta: dict[str, Any]

    def __post_init__(self) -> None:
        if type(self.seq) is not int or not 0 <= self.seq < 1 << 62:
            raise WireError(f"{str(self.seq)[:40]!r} is no sequence number")
        if len(self.tensors) > MAX_TENSORS or len({t.name for t in self.tensors}) < len(self.tensors):
            raise WireError(f"more than {MAX_TENSORS} tensors, or two of one name")

    @property
    def nbytes(self) -> int:
        """Bytes on the wire."""
        return sum(t.nbytes for t in self.tensors)

    @property
    def memory(self) -> int:
        """Bytes that the tensors take side by side, each aligned, in whole pages: what an item is counted as."""
        return aligned(sum(aligned(t.nbytes) for t in self.tensors), PAGE)

    def encode(self) -> bytes:
        """Raises PipeError for a description that is not JSON or too long."""
        rows = [[t.name, t.dtype, list(t.shape)] for t in self.tensors]
        return encode({"seq": self.seq, "tensors": rows, "meta": self.meta})

    @classmethod
    def decode(cls, body: bytes, max_bytes: int) -> Header:
        """Raises WireError for anything but a header of at most `max_bytes` of tensors."""
        raw = decode(body)
        try:
            seq, rows, meta = raw["seq"], raw["tensors"], raw["meta"]
            if not isinstance(rows, list) or not isinstance(meta, dict) or len(rows) > MAX_TENSORS:
                raise WireError("a header's tensors or meta have the wrong form")
            header = cls(seq, tuple(TensorSpec(name, dtype, tuple(shape)) for name, dtype, shape in rows), meta)
        except (KeyError, TypeError, ValueError) as e:
            raise WireError(f"this is no header: {type(e).__name__} {str(e)[:80]}") from None
        if header.memory > max_bytes:
            raise WireError(f"an item of {header.memory} bytes is above the limit of {max_bytes} (max_item_bytes)")
        return header


def aligned(nbytes: int, to: int = ALIGNMENT) -> int:
    return -(-nbytes // to) * to


def spans(nbytes: int, frame_bytes: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of the frames of so many bytes; both ends count with it."""
    for start in range(0, nbytes, frame_bytes):
        yield start, min(start + frame_bytes, nbytes)


def encode(message: Mapping[str, Any]) -> bytes:
    """JSON of a message. Raises PipeError for what is none, NaN included, or too long."""
    try:
        body = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as e:
        raise PipeError(f"meta is not JSON: {e}; give numbers, text, lists and dicts of them") from None
    if len(body) > MAX_CONTROL_BYTES:
        raise PipeError(f"meta and shapes take {len(body)} bytes, above {MAX_CONTROL_BYTES}; send a tensor instead")
    return body


def decode(body: bytes) -> dict[str, Any]:
    """Raises WireError."""
    if len(body) > MAX_CONTROL_BYTES:
        raise WireError(f"a control message of {len(body)} bytes is above {MAX_CONTROL_BYTES}")
    try:
        message = json.loads(body) if body else {}
    except (ValueError, RecursionError):
        raise WireError("a control message is not JSON") from None
    if not isinstance(message, dict):
        raise WireError("a control message is not an object")
    return message


def integers(message: Mapping[str, Any], name: str) -> list[int]:
    """A list of natural numbers in a message. Raises WireError."""
    found = message.get(name, [])
    if not isinstance(found, list) or not all(type(n) is int and 0 <= n < 1 << 62 for n in found):
        raise WireError(f"{name} is not a list of numbers")
    return found


def integer(message: Mapping[str, Any], name: str) -> int:
    """Raises WireError."""
    return integers({name: [message.get(name)]}, name)[0]


def text(message: Mapping[str, Any], name: str) -> str:
    """Raises WireError."""
    found = message.get(name)
    if not isinstance(found, str) or len(found) > MAX_NAME:
        raise WireError(f"{name} is not text of at most {MAX_NAME} characters")
    return found
