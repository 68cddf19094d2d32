"""One training checkpoint on disk: a folder that is whole or is not chosen.

    step-0000120/
      __R_0.distcp    rank R's parts of the tensors (torch.distributed.checkpoint)
      .metadata       its index: which part of which tensor lies where
      shared.pt       numbers that are the same for all ranks
      own-R.pt        rank R's random generators
      manifest.json   size and sha256 of the files above; written last

Nothing of it can run code when it is read: `.pt` files and tensors are read with `weights_only`, no bytes objects are
handed to torch.distributed.checkpoint, and its index, a pickle, is read by an unpickler of its data classes only.
"""

from __future__ import annotations

import io
import os
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter, Metadata
from torch.distributed.checkpoint.filesystem import FileSystem

from stepvideo import storage
from stepvideo.errors import ArtifactError

MANIFEST, SHARED = "manifest.json", "shared.pt"


def own(rank: int) -> str:
    return f"own-{rank}.pt"


def step_folder(root: Path, step: int) -> Path:
    return root / f"step-{step:07d}"


def steps(root: Path) -> list[int]:
    """Steps of the checkpoints in `root`, whole or not, in order."""
    return sorted(int(m[1]) for p in root.glob("step-*") if (m := re.fullmatch(r"step-(\d{7,})", p.name)))


def written_by(folder: Path, rank: int) -> dict[str, dict[str, Any]]:
    """{name: {sha256, size}} of the files that `rank` wrote."""
    mine = [*folder.glob(f"__{rank}_*.distcp"), folder / own(rank)]
    mine += [folder / ".metadata", folder / SHARED] if rank == 0 else []
    return {p.name: {"sha256": storage.sha256_file(p), "size": p.stat().st_size} for p in mine}


def seal(unfinished: Path, files: dict[str, dict[str, Any]], final: Path) -> None:
    """Write the manifest and give the folder its name; one of that name makes room."""
    storage.write_json(unfinished / MANIFEST, {"files": files})
    sync(unfinished)
    if final.exists():
        old = final.with_name(f"{final.name}.old.tmp")
        final.rename(old)
        unfinished.rename(final)
        storage.remove(old)
    else:
        unfinished.rename(final)
    sync(final.parent)


def sync(folder: Path) -> None:
    """Put a folder's names on the disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def damage(folder: Path, part: int = 0, parts: int = 1) -> str:
    """What is wrong with a checkpoint, looking at every `parts`-th file from `part`; empty if it is intact."""
    try:
        files = storage.read_json(folder / MANIFEST)["files"]
        for name in sorted(files)[part::parts]:
            path, want = folder / name, files[name]
            if not path.is_file():
                return f"{name} is missing"
            if (size := path.stat().st_size) != want["size"]:
                return f"{name} has {size} bytes instead of {want['size']}"
            if storage.sha256_file(path) != want["sha256"]:
                return f"{name} is not what was written (sha256)"
    except (ArtifactError, OSError, KeyError, TypeError, AttributeError) as e:
        return str(e) if isinstance(e, ArtifactError | OSError) else f"{MANIFEST} is damaged"
    return ""


def to_bytes(values: Any) -> bytes:
    """Numbers, texts, tensors and containers of them, to be read by `from_file`.

    Raises:
        TypeError: a type that is not read back without running code.
    """
    buffer = io.BytesIO()
    torch.save(values, buffer)
    buffer.seek(0)
    try:
        torch.load(buffer, weights_only=True)
    except pickle.UnpicklingError as e:
        raise TypeError(f"a checkpoint holds numbers, texts, tensors, lists and dicts only: {e}") from e
    return buffer.getvalue()


def from_file(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


class Writer(FileSystemWriter):
    """Writes for torch.distributed.checkpoint; whoever uses it asks for `failures` afterwards.

    `torch.save` answers a failed write with an error of its own, and the reason is lost: a full disk, say.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.failures: list[OSError] = []
        self.fs = _Disk(self.failures)


class _Disk(FileSystem):
    def __init__(self, failures: list[OSError]) -> None:
        self.failures = failures

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        with io.BufferedWriter(_File(path, mode, self.failures), 2**20) as stream:
            yield stream


class _File(io.FileIO):
    def __init__(self, path: str | os.PathLike[str], mode: str, failures: list[OSError]) -> None:
        super().__init__(path, mode)
        self.failures = failures

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as e:
            self.failures.append(e)
            return len(data)


class Reader(FileSystemReader):
    """Reads what torch.distributed.checkpoint wrote, with an index that can hold data classes only."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as f:
            metadata = _Index(f).load()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Index(pickle.Unpickler):
    KNOWN = {
        "torch.distributed.checkpoint.metadata": {
            *("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "TensorStorageMetadata"),
            *("ChunkStorageMetadata", "_MEM_FORMAT_ENCODING"),
        },
        "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
        "torch.serialization": {"_get_layout"},
        "torch": {"Size", *(n for n in dir(torch) if isinstance(getattr(torch, n), torch.dtype))},
        "pathlib": {"PosixPath", "WindowsPath"},
    }

    def find_class(self, module: str, name: str) -> Any:
        if name in self.KNOWN.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"the index names {module}.{name}, which no index of a checkpoint needs")
