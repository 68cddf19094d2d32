"""Fixtures of a real S3 server, Ceph's gateway, as an ordinary client sees it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_server import forget_clients

from stepvideo import storage

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Its environment variables; skips where it is not installed."""
    if not shutil.which("radosgw"):
        pytest.skip("needs the Debian packages ceph-mon ceph-osd radosgw")
    folder, script = tmp_path_factory.mktemp("ceph"), ROOT / "scripts" / "s3_server.sh"
    said = subprocess.run([script, "start", folder], check=True, text=True, stdout=subprocess.PIPE).stdout
    yield dict(line.split("=", 1) for line in said.split())
    subprocess.run([script, "stop", folder], check=True)


@pytest.fixture
def call(gateway: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """call(method, …) of it, which this process and its children use."""
    for name, value in gateway.items():
        monkeypatch.setenv(name, value)
    forget_clients()
    yield storage.filesystem("s3://any").call_s3
    forget_clients()
