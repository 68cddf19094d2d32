"""Clips in WebDataset tars, read at random through an index (the stage `shards` writes both: `tar_stage`)."""

from __future__ import annotations

import json
import os
import tarfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from stepvideo import storage
from stepvideo.data.shards import OPEN, Shards
from stepvideo.errors import ArtifactError

INDEX = "index.parquet"
BLOCK = tarfile.BLOCKSIZE  # bytes of a member's header, and what its content is padded to
COLUMNS = pa.schema(
    [
        *((n, pa.string()) for n in ("tar", "key", "suffix")),  # members KEY + suffix and KEY.json, one after the other
        *((n, pa.int64()) for n in ("offset", "size", "json_offset", "json_size")),  # of their contents, in bytes
        *((n, pa.string()) for n in ("bucket", "kind")),
        *((n, pa.int32()) for n in ("first_frame", "frames", "height", "width")),
        ("fps", pa.float64()),
    ]
)


def padded(size: int) -> int:
    """Bytes that a content of `size` bytes takes in a tar."""
    return -(-size // BLOCK) * BLOCK


class TarShards:
    """The samples below a folder or a URL, by number: `shards[i]` is (media, record).

    No tar is parsed: the index has the place of every sample. Samples of a bucket follow each other, and a training
    position is a number. Open files stay behind when it is pickled.

    Args:
        root: a folder, or the URL of an object store that never changes what it holds under that name.
        local: where files of a URL are kept.
        whole: of a URL, fetch a tar whole at its first sample; False: one request of a range of bytes a sample.

    Raises:
        ArtifactError: the index is missing or damaged, or a tar has not the size that it should have.
        ConfigError: a URL without `local`.
    """

    def __init__(self, root: str | Path, local: Path | None = None, whole: bool = True) -> None:
        self._files = Shards(root, local)
        self._ranges = self._files.remote and not whole
        self._files.check()
        path = self._files.file(INDEX)
        try:
            self.index = pq.read_table(path).select(COLUMNS.names).cast(COLUMNS)
        except (OSError, pa.ArrowException, KeyError, ValueError) as e:
            raise ArtifactError(f"{path} is no index of tars: {e}; run the stage `shards` again") from e
        self._places = [self.index[n].to_numpy() for n in ("offset", "size", "json_offset", "json_size")]
        self._open: OrderedDict[str, BinaryIO] = OrderedDict()

    def __len__(self) -> int:
        return self.index.num_rows

    def __getitem__(self, i: int) -> tuple[bytes, dict[str, Any]]:
        """The media file's bytes and the record of sample `i` (see `tar_stage`).

        Raises:
            IndexError: there is none.
            ArtifactError: the tar is cut off, or is not the one that was indexed.
        """
        i = range(len(self))[i]
        tar, key = self.index["tar"][i].as_py(), self.index["key"][i].as_py()
        offset, size, json_offset, json_size = (int(p[i]) for p in self._places)
        middle = json_offset - BLOCK  # where the record's header is
        media, rest = self._read(tar, offset, size, middle, json_offset + json_size)
        if len(rest) < BLOCK + json_size or rest[:100].rstrip(b"\0") != f"{key}.json".encode():
            raise ArtifactError(
                f"{self._files.root}/{tar}: {key}.json is not at byte {middle}, where {INDEX} has it; one of the two "
                "is damaged: copy both again from where they are whole, or run the stage `shards` again"
            )
        try:
            return media, json.loads(rest[BLOCK:])
        except ValueError as e:
            raise ArtifactError(f"{self._files.root}/{tar}: {key}.json is damaged: {e}") from e

    def buckets(self) -> dict[str, range]:
        """The samples of each bucket."""
        first = self.index.append_column("i", pa.array(range(len(self)), pa.int64())).group_by(
            "bucket", use_threads=False
        )
        rows = first.aggregate([("i", "min"), ("i", "max")]).to_pylist()
        return {row["bucket"]: range(row["i_min"], row["i_max"] + 1) for row in rows}

    def _read(self, tar: str, offset: int, size: int, middle: int, end: int) -> tuple[bytes, bytes]:
        """`size` bytes from `offset` on, and those from `middle` to `end`."""
        if self._ranges:
            raw = storage.read_range(f"{self._files.root}/{tar}", offset, end)
            return raw[:size], raw[middle - offset :]
        try:
            file = self._open.get(tar)
            if file is None:
                file = self._open[tar] = self._files.file(tar).open("rb", buffering=0)
                if len(self._open) > OPEN:
                    self._open.popitem(last=False)  # it is closed when no thread reads from it any more
            at = file.fileno()
            return os.pread(at, size, offset), os.pread(
                at, end - middle, middle
            )  # one read would be copied to be split
        except OSError as e:
            raise ArtifactError(f"{self._files.folder / tar} cannot be read: {e.strerror or e}") from e

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}
