"""A real S3 server (Ceph's gateway): curation from it, kill -9 in the middle of a fetch, publication, DVC's remote."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from known_videos import encode, shot
from published import artifact, contents, run
from s3_server import forget_clients

from stepvideo import mirror, s3, storage
from stepvideo.artifact import Store
from stepvideo.errors import ArtifactError
from tasks.versions import bring_back, record

pytestmark = pytest.mark.soak
ROOT = Path(__file__).parents[2]
GRAPH = ("graph=flows.curate", "profile=curate", "tracking=none", "cluster=debug", "runtime.threads=1")
ODD = ("a b", "q'uo\"te", "ü空🎬", "new\nline", "st*r?[1]", "100%20+", "x::y", "#=&;,", "$(x)`", "deep/er/still")
LARGE = 256 << 20  # bytes of an object that takes a while to come


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 files: 10 odd names, one of 0 bytes, one that is no video and large, two of the same bytes."""
    root = tmp_path_factory.mktemp("media")
    for i in range(46):
        name = ODD[i] if i < len(ODD) else f"plain {i:02d}"
        encode(root / f"{name}.mp4", np.concatenate([shot(i, 25), shot(99 + i, 25, 25)]) if i % 9 == 4 else shot(i, 40))
    (root / "again.mp4").write_bytes((root / "plain 20.mp4").read_bytes())
    (root / "empty.mp4").touch()
    (root / "text.mp4").write_text("not a video" * 100)
    (root / "zz large.mp4").write_bytes(os.urandom(1 << 20) * (LARGE >> 20))
    return root


def start(where: str | Path, store: Path) -> subprocess.Popen[str]:
    settings = [*GRAPH, f"raw='{where}'", f"store='{store}'", "--until", "curate"]
    command = [sys.executable, "-m", "stepvideo.cli", "run", *settings]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=ROOT, text=True, start_new_session=True, **pipes)


def finish(process: subprocess.Popen[str]) -> None:
    said, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, said


def test_curate_from_a_bucket_killed_and_repeated(call, folder: Path, tmp_path: Path) -> None:
    call("create_bucket", Bucket="raw")
    began = time.monotonic()
    for path in storage.tree(folder):
        call("put_object", Bucket="raw", Key=f"in/{path.relative_to(folder).as_posix()}", Body=path.read_bytes())
    print(f"50 objects uploaded in {time.monotonic() - began:.1f} s")
    began = time.monotonic()
    objects = s3.listing("s3://raw/in")
    print(f"listed in {time.monotonic() - began:.3f} s")
    assert len(objects) == 50
    began = time.monotonic()
    large = max(objects, key=lambda o: o.size)
    s3.fetch(large, tmp_path / "large")
    print(f"{large.size >> 20} MiB fetched and checked in {time.monotonic() - began:.2f} s")
    finish(start(folder, tmp_path / "local"))
    kills, store = 0, Store(tmp_path / "remote")
    for wanted in ("in the large one", "at any moment"):
        killed = start("s3://raw/in", store.root)
        while not (found := list(store.root.glob("curate/*/work/fetched/*/.*.tmp-*"))) or (
            wanted == "in the large one" and max(_size(p) for p in found) < LARGE // 8
        ):
            assert killed.poll() is None, killed.communicate()[0]
            time.sleep(0.002)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.communicate()
        kills += 1
    began = time.monotonic()
    finish(start("s3://raw/in", store.root))
    print(f"after {kills} kills the rest took {time.monotonic() - began:.0f} s")
    here, there = Store(tmp_path / "local").resolve("curate"), store.resolve("curate")
    assert there.digest == here.digest
    files = pq.read_table(there.out / "files.parquet").to_pylist()
    assert len(files) == 50 and {f["file"] for f in files} == {
        p.relative_to(folder).as_posix() for p in storage.tree(folder)
    }
    refused = {f["file"]: f["reason"] for f in files if f["status"] == "quarantined"}
    assert refused == {
        "empty.mp4": "empty",
        "plain 20.mp4": "duplicate",
        "text.mp4": "unreadable",
        "zz large.mp4": "unreadable",
    }
    secret = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    assert not [p for p in store.root.rglob("*") if p.is_file() and secret in p.read_bytes()]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def test_versions_of_objects_and_errors(call, gateway, tmp_path: Path, monkeypatch) -> None:
    call("create_bucket", Bucket="versions")
    call("put_object", Bucket="versions", Key="x.mp4", Body=b"first")
    (listed,) = s3.listing("s3://versions")
    call("put_object", Bucket="versions", Key="x.mp4", Body=b"second")
    with pytest.raises(s3.Unavailable) as changed:
        s3.fetch(listed, tmp_path / "x")
    call("delete_object", Bucket="versions", Key="x.mp4")
    with pytest.raises(s3.Unavailable) as gone:
        s3.fetch(listed, tmp_path / "x")
    assert (changed.value.reason, gone.value.reason) == ("changed", "gone")
    with pytest.raises(ArtifactError, match="no such bucket"):
        s3.listing("s3://nobucket")
    for name, value, said in (
        ("AWS_SECRET_ACCESS_KEY", "wrong", "the secret is wrong"),
        ("AWS_ACCESS_KEY_ID", "nobody", "does not know these credentials"),
    ):
        with monkeypatch.context() as other:
            other.setenv(name, value)
            forget_clients()
            with pytest.raises(ArtifactError, match=f"cannot use s3://versions: .*{said}"):
                s3.listing("s3://versions")
    forget_clients()


def test_publication_and_dvc(call, tmp_path: Path) -> None:
    call("create_bucket", Bucket="sets")
    store = Store(tmp_path / "store")
    media = {f"media/{i:03d}.mp4": os.urandom(1000) for i in range(300)}
    made = artifact(store, "curate", {"catalog.parquet": b"rows", "large.tar": os.urandom(200 << 20), **media})
    began = time.monotonic()
    place = mirror.publish(made, "s3://sets/v1")
    print(f"302 files, 200 MiB published in {time.monotonic() - began:.1f} s")
    names = list(made.manifest["files"])
    assert storage.upload(made.out, f"{place}/out", names) == 0  # the ETags are those that were expected
    began = time.monotonic()
    back = mirror.restore(place, Store(tmp_path / "there"))
    print(f"and restored in {time.monotonic() - began:.1f} s")
    assert contents([back]) == contents([made])
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    run(checkout, "git", "init", "-q")
    run(checkout, "dvc", "init", "-q")
    (checkout / ".dvc" / "config").write_text("[core]\n    remote = r\n['remote \"r\"']\n    url = s3://sets/dvc\n")
    began = time.monotonic()
    record([made], "v1", checkout)
    print(f"recorded with DVC in {time.monotonic() - began:.1f} s")
    run(checkout, "git", "add", ".")
    run(checkout, "git", "commit", "-qm", "v1")
    run(tmp_path, "git", "clone", "-q", "checkout", "clone")
    began = time.monotonic()
    assert contents(bring_back("v1", tmp_path / "clone", Store(tmp_path / "pulled"))) == contents([made])
    print(f"and brought back in {time.monotonic() - began:.1f} s")
