"""Versions of data under kill -9, in a bucket, and on a fresh clone of this repository down to a registered model."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy_stages
from made_versions import checkout_of
from published import artifact, contents, run
from s3_server import forget_clients

from stepvideo.artifact import Store
from stepvideo.errors import ArtifactError
from tasks import version_verify, versions
from tasks.versions import bring_back, every, record

pytestmark = pytest.mark.soak
ROOT = Path(__file__).parents[2]
KILLS = 20
PUBLISH = """
import sys
from pathlib import Path
from stepvideo.artifact import Store
from tasks.versions import record
print("ready", flush=True)
store = Store(sys.argv[1])
record([store.resolve("curate")], None, Path(sys.argv[2]))
print("published", flush=True)
"""


def publisher(store: Path, checkout: Path) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", PUBLISH, str(store), str(checkout)]
    process = subprocess.Popen(argv, cwd=ROOT, text=True, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


def files(count: int, seed: int) -> dict[str, bytes]:
    draw = random.Random(seed)
    return {f"part{i % 3}/{i:03d}.bin": draw.randbytes(200_000) for i in range(count)}


def test_publish_killed_at_any_moment(tmp_path: Path) -> None:
    checkout = checkout_of(tmp_path / "checkout", tmp_path / "remote")
    old = artifact(Store(tmp_path / "old"), "curate", files(30, 0))
    first = record([old], None, checkout)
    began = time.monotonic()
    process = publisher(_new(tmp_path / "timed", 1), checkout)
    assert process.communicate(timeout=600)[0] == "published\n"
    whole = time.monotonic() - began
    draw, killed = random.Random(7), 0
    for i in range(KILLS):
        before = {v.name: v.path.read_bytes() for v in every(checkout)}
        process = publisher(_new(tmp_path / f"new{i}", 10 + i), checkout)
        time.sleep(draw.random() * whole)
        killed += process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert all((checkout / "versions" / f"{n}.dvc").read_bytes() == body for n, body in before.items())
        for version in every(checkout):  # whatever is listed is whole, the one that was perhaps just finished too
            assert version_verify.verify(version, checkout)[0] == []
    print(f"{killed} of {KILLS} kills hit a publication of {whole:.1f} s; {len(every(checkout))} versions")
    assert killed >= KILLS // 2
    last = record([Store(tmp_path / "new0").resolve("curate")], "last", checkout)
    assert not (checkout / "versions" / versions.DESK).exists()
    assert contents(bring_back(last.name, checkout, Store(tmp_path / "a"))) == contents(
        [Store(tmp_path / "new0").resolve("curate")]
    )
    shutil.rmtree(checkout / ".dvc" / "cache")
    assert contents(bring_back(first.name, checkout, Store(tmp_path / "b"))) == contents([old])


def test_checkouts_beside_a_publication(tmp_path: Path) -> None:
    """A second publication is refused while the first one runs; whoever brings back the old version has it whole."""
    checkout = checkout_of(tmp_path / "checkout", tmp_path / "remote")
    old = artifact(Store(tmp_path / "old"), "curate", files(30, 0))
    first = record([old], None, checkout)
    shutil.rmtree(checkout / ".dvc" / "cache")
    process = publisher(_new(tmp_path / "new", 1), checkout)
    refused = back = 0
    while process.poll() is None or back == 0:
        assert contents(bring_back(first.name, checkout, Store(tmp_path / f"back{back}"))) == contents([old])
        back += 1
        if process.poll() is None and (checkout / "versions" / versions.DESK).exists():  # it has the lock
            try:
                record([Store(tmp_path / "new").resolve("curate")], None, checkout)
            except ArtifactError as e:
                refused += "another process publishes" in str(e)
    assert process.communicate(timeout=600)[0] == "published\n" and back >= 1
    print(f"{back} checkouts beside it, {refused} publications refused")
    for version in every(checkout):
        assert version_verify.verify(version, checkout)[0] == []
    assert {v.digest for v in every(checkout)} == {first.digest, every(checkout)[-1].digest}


def _new(root: Path, seed: int) -> Path:
    artifact(Store(root), "curate", files(30, seed))
    return root


def test_a_bucket_that_refuses(call, gateway, tmp_path: Path, monkeypatch) -> None:
    call("create_bucket", Bucket="data-versions")
    checkout = checkout_of(tmp_path / "checkout", "s3://data-versions/dvc")
    made = artifact(Store(tmp_path / "store"), "curate", files(120, 3))
    record([made], None, checkout)
    other = artifact(Store(tmp_path / "later"), "curate", files(5, 4))
    cases = (
        ("AWS_SECRET_ACCESS_KEY", "wrong", "the secret is wrong"),
        ("AWS_ACCESS_KEY_ID", "nobody", "does not know these credentials"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", "check the network"),
    )
    for name, value, said in cases:
        with monkeypatch.context() as wrong:
            wrong.setenv(name, value)
            wrong.setenv("AWS_MAX_ATTEMPTS", "1")
            forget_clients()
            with pytest.raises(ArtifactError, match=said):
                record([other], None, checkout)
            with pytest.raises(ArtifactError, match=said):
                version_verify.verify(every(checkout)[0], checkout)
        forget_clients()
    config = checkout / ".dvc" / "config"
    config.write_text(config.read_text().replace("data-versions", "no-such-bucket"))
    with pytest.raises(ArtifactError, match="no such bucket"):
        record([other], None, checkout)
    config.write_text(config.read_text().replace("no-such-bucket", "data-versions"))
    assert [v.name for v in every(checkout)] == ["v1"]
    shutil.rmtree(checkout / ".dvc" / "cache")
    version = every(checkout)[0]
    assert version_verify.verify(version, checkout)[0] == []
    assert contents(bring_back("v1", checkout, Store(tmp_path / "there"))) == contents([made])
    found = call("list_objects_v2", Bucket="data-versions", Prefix="dvc/")["Contents"]
    largest = max(found, key=lambda o: o["Size"])["Key"]
    call("delete_object", Bucket="data-versions", Key=largest)
    faults, _ = version_verify.verify(version, checkout)
    assert [f.problem for f in faults] == [version_verify.MISSING]
    assert version_verify.repair(version, checkout, faults) == []
    assert version_verify.verify(version, checkout)[0] == []


def cli(root: Path, *args: str) -> str:
    argv = [sys.executable, "-m", "stepvideo.cli", *args]
    done = subprocess.run(argv, cwd=root, text=True, capture_output=True, timeout=3600, env={**os.environ})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("graph", ["toy", "smoke"])
def test_a_fresh_clone_makes_the_registered_model_again(graph: str, s3_client, tmp_path: Path, monkeypatch) -> None:
    """Given only a bucket: the same digest in the registry of another clone."""
    monkeypatch.setenv("STEPVIDEO_KINDS", toy_stages.KINDS)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "toys"))
    s3_client("create_bucket", Bucket=f"team-{graph}")
    first, second = tmp_path / "first", tmp_path / "second"
    run(tmp_path, "git", "clone", "-q", str(ROOT), str(first))
    run(first, "dvc", "pull", "-q", "data.dvc")
    run(first, "dvc", "remote", "modify", "local", "url", f"s3://team-{graph}/dvc")
    run(first, "dvc", "push", "-q", "data.dvc")
    settings = ["tracking=local", "tracking.prefect=false", "cluster=debug", "runtime.threads=1"]
    toy = ["graph=toy_stages", "profile=bare", "register=true"]
    settings += toy if graph == "toy" else ["profile=smoke", "register=true"]
    refs = ["noise"] if graph == "toy" else []
    cli(first, "run", *settings)
    cli(first, "data", "publish", *refs, "-m", "the data of the registered model")
    run(first, "git", "add", ".dvc/config", "versions")
    run(first, "git", "commit", "-qm", "v1")
    made = registered(first)
    run(tmp_path, "git", "clone", "-q", str(first), str(second))
    shutil.rmtree(first)
    assert "next: " in cli(second, "data", "checkout", "v1")
    cli(second, "run", *settings)
    assert registered(second) == made


def registered(root: Path) -> dict[str, str]:
    """{model: digest of its newest version} in a clone's own registry."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{next((root / 'runs').rglob('mlflow.db'))}")
    found = {m.name: client.search_model_versions(f"name = '{m.name}'") for m in client.search_registered_models()}
    assert found
    return {name: max(vs, key=lambda v: int(v.version)).tags["digest"] for name, vs in found.items()}
