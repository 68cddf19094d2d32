"""Pipes are found by name, in a folder or from a server: one of the two registries."""

from __future__ import annotations

from stepvideo.pipes.config import PipeConfig
from stepvideo.pipes.file_registry import FileRegistry
from stepvideo.pipes.member import Registry


def open_registry(where: str, config: PipeConfig | None = None) -> Registry:
    """A folder (shared by the nodes), or `tcp://HOST:PORT` of `stepvideo pipes registry`."""
    if where.startswith("tcp://"):
        from stepvideo.pipes.registry_client import TcpRegistry

        return TcpRegistry(where, config or PipeConfig())
    return FileRegistry(where)
