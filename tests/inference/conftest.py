"""The service over a model that is not one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from served import Server

    from stepvideo.inference.serve.access import Access


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """`start(access, folder, **limits)`: a `served.Server`, stopped at the test's end."""
    from served import Server

    from stepvideo.inference.serve.access import Access
    from stepvideo.inference.serve.limits import Limits

    servers: list[Server] = []

    def make(access: Access | None = None, folder: Path = tmp_path / "served", **limits: int) -> Server:
        servers.append(Server(folder, access or Access(), Limits(**limits)))
        return servers[-1]

    yield make
    for server in servers:
        server.engine.go.set()
        server.videos.close(10)
