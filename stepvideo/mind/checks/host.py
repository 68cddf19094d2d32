"""The machine that checks look at, and what it should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from stepvideo.errors import ConfigError


@dataclass(frozen=True)
class Host:
    """overlay: a folder whose files stand for the machine's own, for tests; nvml: a module in place of pynvml."""

    name: str
    overlay: Path | None = None
    nvml: Any = None

    def path(self, absolute: str) -> Path:
        if self.overlay is not None:
            over = self.overlay / absolute.lstrip("/")
            if over.exists():
                return over
        return Path(absolute)

    def text(self, absolute: str) -> str:
        """Raises OSError."""
        return self.path(absolute).read_text(errors="replace")


@dataclass(frozen=True)
class Expected:
    """What a node should have; 0 and empty: not known, not checked.

    Attributes:
        memory_gb: in 1e9 bytes; 5 % less is what the kernel takes.
        mounts: mount points that jobs rely on, writable ones first.
        ports: Gb/s of InfiniBand and RoCE ports, as {"mlx5_0/1": 400}; of network interfaces, as {"eth0": 25}.
        disks: paths with room for jobs; disk_free: the least share.
        shared: a folder on a file system that all nodes share, to compare clocks by.
        nvlinks: of a GPU.
        celsius: the highest temperature of a GPU.
        timeout_s: of each check, in place of its own.
    """

    gpus: int = 0
    nvlinks: int = 0
    celsius: float = 85.0
    gpu_clock_mhz: float = 0.0
    memory_gb: float = 0.0
    open_files: int = 4096
    locked_memory: bool = False
    ports: Mapping[str, float] = field(default_factory=dict)
    mounts: tuple[str, ...] = ()
    disks: tuple[str, ...] = ("/", "/tmp")
    disk_free: float = 0.02
    shared: str = ""
    load_per_core: float = 8.0
    zombies: int = 200
    timeout_s: float = 0.0

    @classmethod
    def of_json(cls, data: Mapping[str, Any], node: str) -> Expected:
        """Of one node. `data["nodes"]` holds what differs, by patterns of names of which later ones win.

        Raises:
            ConfigError: an unknown key.
        """
        given = {k: v for k, v in data.items() if k != "nodes"}
        for pattern, changes in data.get("nodes", {}).items():
            if fnmatchcase(node, pattern):
                given |= changes
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(given) - known):
            raise ConfigError(f"expected.json: no such key: {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        made = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        return replace(cls(), **made)
