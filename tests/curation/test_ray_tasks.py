"""Ray as another place for the same work: the same bytes, nothing done again in silence, nobody else listens."""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pool_faults
import psutil
import pyarrow.parquet as pq
import pytest
from known_videos import encode, shot

from stepvideo.curation import ray_tasks, sources, stage
from stepvideo.curation.config import CurateConfig, PartsRuntime
from stepvideo.errors import ConfigError, Preempted, StageFailed
from stepvideo.storage import checksums

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the package ray is not installed")


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """Ray's workers know PYTHONPATH, and nothing of pytest's own paths; and all of this stays on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]))
        patch.setenv(ray_tasks.LOOPBACK, "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)
        yield


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """Of a cluster that somebody else keeps."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="ray-")
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--port={port}", "--num-cpus=2", "--include-dashboard=false", f"--temp-dir={folder}"]
    keeper = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            break
        assert keeper.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    yield f"127.0.0.1:{port}"
    ours = psutil.Process(keeper.pid).children(recursive=True)
    keeper.terminate()
    keeper.wait(60)
    for left in psutil.wait_procs(ours, timeout=10)[1]:
        left.kill()
    shutil.rmtree(folder, ignore_errors=True)


def failed(item: str, reason: str, detail: str) -> str:
    return f"{item}:{reason}"


def run(chunks: list[list[str]], place: Path, work=pool_faults.work, **options):
    told: list[tuple[str, dict]] = []
    settings = {"workers": 2, "timeout_s": 60.0, "memory_mb": 4096} | options
    how = {"place": place, "told": lambda name, **fields: told.append((name, fields))}
    done = ray_tasks.run_on_ray(work, list(enumerate(chunks)), failed, **settings, **how)
    return done, told


@needs_ray
@pytest.mark.soak
def test_the_same_bytes_as_a_pool(address: str, context, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sources, "CHUNK_FILES", 2)
    monkeypatch.setattr(stage, "work", pool_faults.curate)
    media = tmp_path / "media"
    for i in range(5):
        encode(media / f"{i}.mp4", shot(i, 30))
    encode(media / "3 abort.mp4", shot(7, 30))
    found = {}
    for executor, place in (("pool", ""), ("ray", address)):
        runtime = PartsRuntime(workers=2, executor=executor, ray_address=place)
        ctx = context(executor, CurateConfig(runtime=runtime), media=media)
        stage.run(ctx)
        found[executor] = checksums(ctx.out)
    assert found["ray"] == found["pool"]
    rows = {r["file"]: r for r in pq.read_table(ctx.out / "quarantine.parquet").to_pylist()}
    assert {name: r["reason"] for name, r in rows.items()} == {"3 abort.mp4": "crash"}


@needs_ray
@pytest.mark.soak
def test_faults_on_a_cluster_of_this_machine(tmp_path: Path) -> None:
    """A hang is killed, a lost worker is told of, nobody outside can connect, and a stop ends everything."""
    chunks = [["a", "hang"], [f"kill once {tmp_path / 'mark'}", "b"], ["c"], ["hang"] * 99]
    enough: list[bool] = []
    done, told = run(chunks, tmp_path, pool_faults.in_the_worker, timeout_s=4.0, stop=lambda: bool(enough))
    before = set(psutil.Process().children(recursive=True))
    got = dict([next(done)])
    ours = [p for p in psutil.Process().children(recursive=True) if p not in before]
    listening = {(p.name(), c.laddr.ip) for p in ours for c in _connections(p) if c.status == psutil.CONN_LISTEN}
    assert {"raylet", "gcs_server"} <= {name for name, _ in listening}
    assert all(_is_loopback(ip) for _, ip in listening), listening
    got |= dict(next(done) for _ in range(2))
    enough.append(True)
    with pytest.raises(Preempted):
        next(done)
    assert [got[0], got[2]] == [["A", "hang:timeout"], ["C"]] and got[1][1] == "B"
    ((name, fields),) = told
    assert (name, fields["chunk"], fields["times"]) == ("worker_lost", 1, 1) and "WorkerCrashed" in fields["error"]
    assert not psutil.wait_procs(ours, timeout=20)[1]


@needs_ray
@pytest.mark.soak
def test_what_no_file_is_to_blame_for(address: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk full"):
        list(run([["a"], ["raise"]], tmp_path, address=address)[0])


@needs_ray
def test_no_cluster_at_an_address(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ray_address=127.0.0.1:9: no Ray cluster answers"):
        list(run([["a"]], tmp_path, address="127.0.0.1:9")[0])


def test_a_node_with_other_code_or_another_store_is_refused(tmp_path: Path) -> None:
    code = ray_tasks._code("pool_faults")
    how = (pool_faults.work, 0, ["a"], failed, 9.0, 0)
    with pytest.raises(StageFailed, match=f"the code of node .* \\({code}\\) is not the driver's"):
        ray_tasks._chunk(*how, "another", str(tmp_path))
    with pytest.raises(StageFailed, match="does not see .*nowhere"):
        ray_tasks._chunk(*how, code, str(tmp_path / "nowhere"))


def test_without_the_package_it_says_what_to_install(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'stepvideo\[ray\]'"):
        list(run([["a"]], tmp_path)[0])


def _connections(process: psutil.Process) -> list:
    try:
        return process.net_connections("inet")
    except psutil.Error:
        return []


def _is_loopback(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback
