"""Fixtures of a real S3 server, Ceph's gateway of a team stack, as an ordinary client sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import team_stack
from s3_server import forget_clients

from stepvideo import storage


@pytest.fixture(scope="module")
def gateway() -> Iterator[dict[str, str]]:
    """Its environment variables; skips where it is not installed."""
    with team_stack.running(("s3-monitor", "s3-store", "s3")) as stack:
        yield stack.s3()


@pytest.fixture
def call(gateway: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """call(method, …) of it, which this process and its children use."""
    for name, value in gateway.items():
        monkeypatch.setenv(name, value)
    forget_clients()
    yield storage.filesystem("s3://any").call_s3
    forget_clients()
