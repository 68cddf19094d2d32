"""Raw videos in a bucket: listed to plan, fetched by the workers, and curated to the bytes that a folder gives."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from known_videos import encode, montage, shot

from stepvideo import storage
from stepvideo.artifact import content_digest
from stepvideo.curation import raw, stage
from stepvideo.curation.config import CurateConfig, PartsRuntime, RawConfig, RawRuntime
from stepvideo.data.video_io import write_image
from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.stage import StageContext

ROOT = Path(__file__).parents[2]
GOES_ON = "import sys; from pathlib import Path; from stepvideo.curation import stage; "
GOES_ON += (
    "from stepvideo.curation.config import CurateConfig, PartsRuntime; from stepvideo.stage import StageContext; "
)
GOES_ON += "raw, out, work = map(Path, sys.argv[1:]); config = CurateConfig(runtime=PartsRuntime(workers=1)); "
GOES_ON += "stage.run(StageContext(config, {'raw': raw}, out, work))"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("media")
    encode(root / "a" / "single 'ü空'.MP4", shot(1, 40))
    encode(root / "a" / "cut+%20[1]?.mp4", montage([25, 25]))
    encode(root / "web*.webm", shot(3, 30), codec="libvpx", form="webm")
    (root / "z copy.mp4").write_bytes((root / "a" / "single 'ü空'.MP4").read_bytes())
    (root / "empty.mp4").touch()
    (root / "text.mp4").write_text("not a video" * 100)
    (root / ".hidden.mp4").write_text("hidden")
    write_image(root / "still.png", shot(4, 1)[0])
    said = {"start": 0, "end": 25, "captions": {"short": {"en": ["first shot"]}}}
    (root / "a" / "sidecars.jsonl").write_text(json.dumps({"file": "cut+%20[1]?.mp4", "shots": [said]}) + "\n")
    return root


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the folder gives."""
    root = tmp_path_factory.mktemp("local")
    for name in ("raw", "curate", "work"):
        (root / name).mkdir()
    config = RawConfig(runtime=RawRuntime(path=str(folder)))
    raw.run(StageContext(config, {}, root / "raw", root / "work"))
    config = CurateConfig(runtime=PartsRuntime(workers=1))
    stage.run(StageContext(config, {"raw": root / "raw"}, root / "curate", root / "work"))
    return content_digest(storage.checksums(root / "curate"))


@pytest.fixture
def url(folder: Path, s3_client: Callable[..., Any], request: pytest.FixtureRequest) -> str:
    name = f"raw{abs(hash(request.node.name))}"
    s3_client("create_bucket", Bucket=name)
    for path in storage.tree(folder):
        s3_client("put_object", Bucket=name, Key=f"in/{path.relative_to(folder).as_posix()}", Body=path.read_bytes())
    return f"s3://{name}/in"


def listed(context, where: str | Path, name: str = "raw") -> Path:
    ctx = context(name, RawConfig(content=raw.content_digest(where), runtime=RawRuntime(path=str(where))))
    raw.run(ctx)
    return ctx.out


def curated(context, inputs: Path, name: str = "curate", workers: int = 2) -> Path:
    ctx = context(name, CurateConfig(runtime=PartsRuntime(workers=workers)), raw=inputs)
    stage.run(ctx)
    assert not [p for p in (ctx.work / "fetched").rglob("*") if p.is_file()]
    return ctx.out


def test_a_bucket_is_curated_to_the_bytes_of_its_folder(url, folder, whole, context, s3_server) -> None:
    s3_server.gets.clear()
    inputs = listed(context, url)
    bucket = url.removeprefix("s3:/")
    fetched = {path for path in s3_server.gets if path.startswith(f"{bucket}/")}
    assert fetched == {f"{bucket}/a/sidecars.jsonl"}  # nothing else was downloaded to plan and to list
    found = curated(context, inputs)
    assert {
        s3_server.gets[f"{bucket}/{p.relative_to(folder)}"] for p in storage.tree(folder) if p.suffix != ".jsonl"
    } == {0, 1}
    assert content_digest(storage.checksums(found)) == whole
    rows = {r["file"]: r["reason"] for r in pq.read_table(found / "files.parquet").to_pylist() if r["reason"]}
    assert rows == {"empty.mp4": "empty", "text.mp4": "unreadable", "z copy.mp4": "duplicate"}


def test_objects_that_changed_since_they_were_listed_are_quarantined(url, context, s3_client, s3_server) -> None:
    inputs = listed(context, url)
    name = url.split("/")[2]
    s3_client("put_object", Bucket=name, Key="in/still.png", Body=b"other")
    s3_client("delete_object", Bucket=name, Key="in/web*.webm")
    s3_server.refuse["z copy.mp4"] = 403
    rows = {r["file"]: r for r in pq.read_table(curated(context, inputs) / "files.parquet").to_pylist()}
    reasons = {file: row["reason"] for file, row in rows.items()}
    assert reasons == {
        "a/cut+%20[1]?.mp4": "",
        "a/single 'ü空'.MP4": "",
        "empty.mp4": "empty",
        "still.png": "changed",
        "text.mp4": "unreadable",
        "web*.webm": "gone",
        "z copy.mp4": "refused",
    }
    assert f"{url}/still.png is not the version that was listed" in rows["still.png"]["detail"]
    with pytest.raises(StepVideoError, match="changed since the run was planned"):
        raw.run(context("later", RawConfig(content="0" * 64, runtime=RawRuntime(path=url))))


def test_a_store_that_goes_away_stops_the_stage_and_it_goes_on(url, whole, context, s3_server) -> None:
    inputs = listed(context, url)
    s3_server.busy[".webm"] = 99
    ctx = context("away", CurateConfig(runtime=PartsRuntime(workers=1)), raw=inputs)
    with pytest.raises(ArtifactError, match=r"web\*.webm: .*503 SlowDown; try again later"):
        stage.run(ctx)
    s3_server.heal()
    shutil.rmtree(ctx.out)
    assert content_digest(storage.checksums(curated(context, inputs, "away"))) == whole


def test_kill_9_in_the_middle_of_a_fetch(url, whole, context, s3_server) -> None:
    inputs = listed(context, url)
    killed = context("killed", CurateConfig(), raw=inputs)
    s3_server.slow = 5.0
    argv = [sys.executable, "-c", GOES_ON, str(inputs), str(killed.out), str(killed.work)]
    driver = subprocess.Popen(argv, cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(killed.work.glob("fetched/*/.*tmp*")):
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    s3_server.heal()
    while [p for p in psutil.process_iter() if _session(p) == driver.pid]:
        time.sleep(0.05)
    shutil.rmtree(killed.out)
    assert content_digest(storage.checksums(curated(context, inputs, "killed"))) == whole


def test_the_digest_of_a_bucket_follows_its_listing(url, s3_client) -> None:
    before = raw.content_digest(url)
    assert raw.content_digest(f"{url}/") == before
    s3_client("put_object", Bucket=url.split("/")[2], Key="in/notes.txt", Body=b"no medium")
    assert raw.content_digest(url) == before
    s3_client("put_object", Bucket=url.split("/")[2], Key="in/still.png", Body=b"other")
    assert raw.content_digest(url) != before
    with pytest.raises(StepVideoError, match="has no video and no image"):
        raw.content_digest(f"{url}/nowhere")


def _session(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return 0
