"""Tensors in shards: safetensors files of bounded size, made in parts, read a row at a time.

    shards.json              size and sha256 of every shard
    NAME-00000.safetensors   …

Reading maps a shard into memory and takes only the rows asked for. From an object store a whole shard is fetched first,
once, into a local folder.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from stepvideo import storage
from stepvideo.errors import ArtifactError, ConfigError

INDEX = "shards.json"
OPEN = 64  # shards that one process keeps open

Part = tuple[dict[str, Tensor], Any]  # tensors whose rows are put one after the other, and a JSON record of them


def save(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_suffix(".tmp")
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp)
    tmp.replace(path)


def shard_name(prefix: str, number: int) -> str:
    return f"{prefix}-{number:05d}.safetensors"


def pack(
    work: Path, prefix: str, makes: Sequence[Callable[[], Part]], limit: int, after: Callable[[int], None]
) -> list[tuple[int, Any]]:
    """Make parts one after the other and pack them into shards below `work`, each closed when it reaches `limit` bytes.

    What is done stays in `work`, so a killed run continues there to the same shards. `after(i)` is called when part `i`
    is done and may raise.

    Returns:
        The shard's number and the record of every part.
    """
    placed: list[tuple[int, Any]] = []
    group: list[Path] = []
    size = number = 0
    for i, make in enumerate(makes):
        shard = work / shard_name(prefix, number)
        part = work / f"{prefix}.parts" / f"{i:07d}.safetensors"
        note = part.with_suffix(".json")
        if not shard.exists() and not part.exists():
            tensors, record = make()
            storage.write_json(note, {"record": record, "bytes": sum(t.nbytes for t in tensors.values())})
            save(tensors, part)
        said = storage.read_json(note)
        placed.append((number, said["record"]))
        group.append(part)
        size += said["bytes"]
        if size >= limit or i == len(makes) - 1:
            if not shard.exists():
                save(_cat([load_file(p) for p in group]), shard)
            for p in group:
                p.unlink(missing_ok=True)
            group, size, number = [], 0, number + 1
        after(i)
    return placed


def hand_over(work: Path, out: Path, names: Iterable[str]) -> None:
    """Put finished shards into an artifact and write its index."""
    index = {}
    for name in sorted(names):
        storage.link_or_copy(work / name, out / name)
        index[name] = {"bytes": (out / name).stat().st_size, "sha256": storage.sha256_file(out / name)}
    storage.write_json(out / INDEX, index)


class Shards:
    """The shards below a folder or a URL. Open files stay behind when it is pickled.

    Args:
        root: a folder, or the URL of an object store that never changes what it holds under that name.
        local: where files of a URL are kept; may be shared by processes and by roots.

    Raises:
        ArtifactError: the index is missing or damaged.
        ConfigError: a URL without `local`.
    """

    def __init__(self, root: str | Path, local: Path | None = None) -> None:
        self.root = str(root).rstrip("/")
        self.remote = storage.is_remote(root)
        if self.remote and local is None:
            raise ConfigError(f"{root} is not on this machine: name a local folder that its shards are fetched to")
        name = hashlib.sha256(self.root.encode()).hexdigest()[:16]
        self.folder = Path(local or ".") / name if self.remote else Path(root)
        self.index: dict[str, dict[str, Any]] = storage.read_json(self.file(INDEX))
        self._open: OrderedDict[str, Any] = OrderedDict()

    def file(self, name: str) -> Path:
        """The local path of a file of this root; fetched, if it has to be.

        Raises:
            ArtifactError: it cannot be fetched, or came damaged.
        """
        path = self.folder / name
        if self.remote and not path.exists():
            known = self.index.get(name, {}) if name != INDEX else {}
            storage.fetch(f"{self.root}/{name}", path, known.get("sha256"))
        return path

    def check(self) -> None:
        """Every shard is there and has its size: to be asked before the first step.

        Raises:
            ArtifactError: names the shards that are not, and the fix.
        """
        sizes = storage.sizes(self.root)
        wrong = []
        for name, known in self.index.items():
            if name not in sizes:
                wrong.append(f"{name} (missing)")
            elif sizes[name] != known["bytes"]:
                wrong.append(f"{name} ({sizes[name]} bytes instead of {known['bytes']})")
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise ArtifactError(f"{self.root}: shards {', '.join(wrong[:3])}{more} cannot be used; {self._fix()}")

    def read(self, shard: str, tensor: str, start: int, stop: int) -> Tensor:
        """Rows `start` … `stop - 1` of a shard's tensor.

        Raises:
            ArtifactError: the shard is missing or damaged.
        """
        try:
            return self._handle(shard).get_slice(tensor)[start:stop]
        except (SafetensorError, OSError) as e:
            raise ArtifactError(f"{self.folder / shard} cannot be read: {e}; {self._fix()}") from e

    def _handle(self, shard: str) -> Any:
        if shard not in self._open:
            self._open[shard] = safe_open(self.file(shard), "pt")
            if len(self._open) > OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(shard)
        return self._open[shard]

    def _fix(self) -> str:
        if self.remote:
            return f"remove {self.folder} and upload the artifact again if that does not help"
        return "remove the artifact's folder and run its stage again, or copy it again from where it is whole"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}


def _cat(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
