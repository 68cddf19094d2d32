"""Files of tensors: what lies in them, from their headers alone, and their tensors one after the other.

Plain reads instead of memory maps: mapped pages count as the process's memory, and a mapped file that shrinks kills it.
"""

from __future__ import annotations

import io
import json
import math
import pickle
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepvideo.errors import ArtifactError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""By their names in safetensors files."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
PICKLES = (".bin", ".pth")
_HEADER_LIMIT = 100_000_000  # bytes, as in the safetensors library


@dataclass(frozen=True)
class Entry:
    """A tensor in a file."""

    file: Path
    dtype: str  # a key of DTYPES
    shape: tuple[int, ...]
    nbytes: int
    start: int = 0  # of its bytes in a safetensors file

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def entries(path: Path) -> dict[str, Entry]:
    """The tensors of a safetensors file, or of a torch pickle (`*.bin`, `*.pth`), by name; their content is not read.

    Raises:
        ArtifactError: the file is missing, cut off, damaged, or another thing than its name says.
    """
    try:
        return _pickled(path) if path.suffix in PICKLES else _header(path)
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; copy the whole checkpoint folder") from None
    except (OSError, ValueError) as e:  # ValueError: a name that no file can have
        raise ArtifactError(f"{path} cannot be read: {getattr(e, 'strerror', None) or e}") from e


def read(
    wanted: Mapping[str, Entry], device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Iterator[tuple[str, Tensor]]:
    """These tensors on `device`, in their own dtype or in `dtype`, in the order of the files and of their bytes.

    Read straight into their place; what has to be moved or converted passes one buffer as large as the largest tensor.

    Raises:
        ArtifactError: a file ended early.
    """
    buffer = torch.empty(0, dtype=torch.uint8)
    for path in dict.fromkeys(e.file for e in wanted.values()):
        here = sorted(((k, e) for k, e in wanted.items() if e.file == path), key=lambda item: item[1].start)
        pickled = _unpickle(path, "cpu") if path.suffix in PICKLES else {}
        with path.open("rb", buffering=0) as f:
            for name, entry in here:
                own = DTYPES[entry.dtype]
                target = torch.empty(entry.shape, dtype=dtype or own, device=device)
                if pickled:
                    target.copy_(pickled.pop(name))
                elif target.device.type == "cpu" and target.dtype == own:
                    _read_into(f, entry, name, target.view(-1).view(torch.uint8))
                else:
                    if len(buffer) < entry.nbytes:
                        buffer = torch.empty(max(e.nbytes for e in wanted.values()), dtype=torch.uint8)
                    _read_into(f, entry, name, raw := buffer[: entry.nbytes])
                    target.copy_(raw.view(own).view(entry.shape))
                yield name, target


def _read_into(f: io.FileIO, entry: Entry, name: str, raw: Tensor) -> None:
    left = memoryview(raw.numpy())
    f.seek(entry.start)
    while left:
        if not (n := f.readinto(left)):
            raise ArtifactError(f"{entry.file} ends inside tensor {name}; copy the file again")
        left = left[n:]


def _header(path: Path) -> dict[str, Entry]:
    size = path.stat().st_size
    with path.open("rb") as f:
        head = f.read(64)
        _refuse_impostors(path, head)
        length = int.from_bytes(head[:8], "little")
        first = 8 + length
        if size < 8 or length > _HEADER_LIMIT or first > size:
            raise ArtifactError(f"{path} is damaged or no safetensors file: no header; copy it again")
        f.seek(8)
        raw = f.read(length)
    try:
        content = json.loads(raw, object_pairs_hook=_once)
        found = {k: _entry(path, first, k, **about) for k, about in content.items() if k != "__metadata__"}
    except (ValueError, TypeError, AttributeError, RecursionError) as e:
        raise ArtifactError(f"{path} is damaged or no safetensors file: {e}; copy it again") from e
    end = first
    for name, entry in sorted(found.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if entry.start != end:
            raise ArtifactError(f"{path} is damaged: the bytes of tensor {name} overlap others or leave a gap")
        end += entry.nbytes
        if end > size:
            raise ArtifactError(
                f"{path} is damaged: it ends after {size:,} bytes, inside tensor {name}; "
                "the copy was cut off, copy the file again"
            )
    if end != size:
        raise ArtifactError(f"{path} is damaged: {size - end:,} bytes after the last tensor; copy it again")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys differ: of two tensors under one name, one would be read and one forgotten."""
    if twice := [k for k, n in Counter(k for k, _ in pairs).items() if n > 1]:
        raise ValueError(f"{twice[0]!r} is there twice")
    return dict(pairs)


def _entry(path: Path, first: int, name: str, dtype: str, shape: list[int], data_offsets: list[int]) -> Entry:
    if not name.isprintable():  # shown to people: no line breaks, no commands to their terminals
        raise ValueError(f"the name {name!r}")
    if any(type(n) is not int or n < 0 for n in (*shape, *data_offsets)):
        raise ValueError(f"shape {shape} at {data_offsets}")
    start, end = data_offsets
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype} is not known")
    entry = Entry(path, dtype, tuple(shape), end - start, first + start)
    if entry.nbytes != entry.numel * DTYPES[dtype].itemsize:
        raise ValueError(f"{entry.nbytes} bytes for {dtype} {shape}")
    return entry


def _pickled(path: Path) -> dict[str, Entry]:
    tensors = _unpickle(path, "meta")
    if odd := [k for k, v in tensors.items() if not _usual(k, v)]:
        raise ArtifactError(f"{path} holds {odd[0]!r}, which is no tensor of a network; give a state dict")
    return {k: Entry(path, _NAMES[v.dtype], tuple(v.shape), v.nbytes) for k, v in tensors.items()}


def _usual(name: Any, tensor: Any) -> bool:
    named = isinstance(name, str) and name.isprintable()
    return named and isinstance(tensor, Tensor) and tensor.layout is torch.strided and tensor.dtype in _NAMES


def _unpickle(path: Path, device: str) -> dict[str, Any]:
    """Tensors and containers only: a pickle that wants to run code is refused."""
    with path.open("rb") as f:
        head = f.read(64)
    _refuse_impostors(path, head)
    try:
        mapped = head.startswith(b"PK")  # a zip; torch before 1.6 wrote none
        content = torch.load(path, map_location=device, weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as e:
        reason = str(e).split("\n\n")[-2:][0].strip().split("\n")[0]  # between torch's preamble and its links
        raise ArtifactError(
            f"{path} is refused: it is damaged, or holds code besides tensors ({reason}); loading it could run that "
            "code. Get the file from a source that you trust, best as safetensors"
        ) from e
    except Exception as e:  # damaged instructions fail in every way there is
        reason = str(e).split("\n")[0] or type(e).__name__
        raise ArtifactError(f"{path} is damaged or no torch file: {reason}; copy it again") from e
    if not isinstance(content, dict):
        raise ArtifactError(f"{path} holds a {type(content).__name__}; give a state dict, tensors by name")
    return content


def _refuse_impostors(path: Path, head: bytes) -> None:
    if head.startswith(b"version https://git-lfs"):
        raise ArtifactError(f"{path} is a git-lfs pointer, not the file itself; run: git lfs pull")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ArtifactError(f"{path} is a web page saved under that name; download it again, logged in if need be")
