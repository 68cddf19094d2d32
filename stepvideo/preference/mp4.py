"""The boxes of an mp4 with one track: taken apart, and put together without anything that depends on its size.

Muxers begin a new chunk after so many bytes, leave room to move things, and name themselves. Here every file is ftyp,
moov and mdat; its frames are one chunk; and its length is any that is wanted.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

CONTAINERS = ("moov", "trak", "mdia", "minf", "stbl")
DROPPED = ("udta",)


def boxes(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Kind and content of the outermost boxes. Raises ValueError: they do not fill `data`."""
    at = 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1:
            size, head = struct.unpack_from(">Q", data, at + 8)[0], 16
        if size < head or at + size > len(data):
            raise ValueError(f"a box {kind!r} at byte {at} has {size} bytes of {len(data) - at}")
        yield kind.decode("latin-1"), data[at + head : at + size]
        at += size


def plain(data: bytes) -> bytes:
    """The same film in the fewest boxes. Raises ValueError: it has more than one track, or its frames are scattered."""
    found = dict(boxes(data))
    tracks = [content for kind, content in boxes(found["moov"]) if kind == "trak"]
    if len(tracks) != 1:
        raise ValueError(f"{len(tracks)} tracks, not 1")
    head = _box("ftyp", found["ftyp"])
    moov = _box("moov", _rebuilt(found["moov"], 0))
    moov = _box("moov", _rebuilt(found["moov"], len(head) + len(moov) + 8))
    return head + moov + _box("mdat", found["mdat"])


def padded(data: bytes, size: int) -> bytes:
    """`plain` data made `size` bytes long by zeros at the end of mdat, which nothing refers to."""
    *_, (kind, content) = boxes(data)
    if kind != "mdat":
        raise ValueError(f"the last box is {kind}, not mdat")
    return data[: -len(content) - 8] + _box("mdat", content + bytes(size - len(data)))


def _rebuilt(content: bytes, first_frame: int) -> bytes:
    """The content of a container with one chunk that begins at byte `first_frame` of the file."""
    inside = dict(boxes(content))
    out = b""
    for kind, box in boxes(content):
        if kind in DROPPED:
            continue
        if kind in CONTAINERS:
            box = _rebuilt(box, first_frame)
        elif kind == "stsc":
            count = struct.unpack_from(">I", inside["stsz"], 8)[0]
            box = struct.pack(">5I", 0, 1, 1, count, 1)
        elif kind in ("stco", "co64"):
            _must_be_contiguous(inside)
            kind, box = "stco", struct.pack(">3I", 0, 1, first_frame)
        out += _box(kind, box)
    return out


def _must_be_contiguous(table: dict[str, bytes]) -> None:
    """Frames lie one after another, without a gap between chunks."""
    form, name = ("Q", "co64") if "co64" in table else ("I", "stco")
    starts = struct.unpack_from(f">{struct.unpack_from('>I', table[name], 4)[0]}{form}", table[name], 8)
    sizes = struct.unpack_from(f">{struct.unpack_from('>I', table['stsz'], 8)[0]}I", table["stsz"], 12)
    runs = list(struct.iter_unpack(">3I", table["stsc"][8:]))
    at, frame = starts[0], 0
    for chunk, start in enumerate(starts, 1):
        if start != at:
            raise ValueError(f"chunk {chunk} begins at byte {start}, not {at}")
        count = next(per for first, per, _ in reversed(runs) if first <= chunk)
        at += sum(sizes[frame : frame + count])
        frame += count


def _box(kind: str, content: bytes) -> bytes:
    if len(content) + 8 >= 1 << 32:
        raise ValueError(f"{kind} of {len(content)} bytes: a study's videos must be smaller than 4 GiB")
    return struct.pack(">I4s", len(content) + 8, kind.encode("latin-1")) + content
