"""`stepvideo curate DIR --out STORE` on a plain folder: no configuration, nothing lost, a page at the end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from known_videos import encode, montage, shot

from stepvideo.artifact import Store
from stepvideo.cli import main

pytestmark = pytest.mark.slow
QUIET = (
    "tracking=none",
    "cluster=debug",
    "runtime.threads=1",
    "stages.tags.backends.text=",
    "stages.tags.backends.nsfw=",
)
FILTERS = "stages.subsets.filters=[{tag: frozen_share, keep: below, values: [1, 1, 1, 1, 1, 1]}]"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    media = tmp_path / "my 'own' videos, =ü"
    for i in range(3):
        encode(media / "a" / f'clip "{i}" 空.mp4', shot(i, 40))
    encode(media / "cut.mp4", montage([30, 30]))
    (media / "empty.mp4").touch()
    (media / "loop").symlink_to(media, target_is_directory=True)
    return media


def arguments(folder: Path, store: Path) -> list[str]:
    return ["curate", str(folder), "--out", str(store), *QUIET, FILTERS]


def start(folder: Path, store: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "stepvideo.cli", *arguments(folder, store)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_plain_folder_interrupted_and_repeated(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "store, =ü")
    first = start(folder, store.root)
    while not list(store.root.glob("curate/*/manifest.json")):
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    out, err = start(folder, store.root).communicate(timeout=300)
    said = " ".join(out.split())
    page = store.resolve("sheet").out / "index.html"
    assert page.exists() and f"report: {page}" in said, out + err
    assert "next: stepvideo funnel" in said
    curate, tags = store.resolve("curate").out, store.resolve("tags").out
    files = pq.read_table(curate / "files.parquet").to_pylist()
    assert {f["file"]: f["status"] for f in files if f["status"] != "accepted"} == {"empty.mp4": "quarantined"}
    assert len(files) == 5 and sum(f["clips"] or 0 for f in files) == 5
    ids = [r["clip_id"] for r in pq.read_table(curate / "catalog.parquet").to_pylist() if r["kind"] == "clip"]
    assert len(ids) == len(set(ids)) == 5
    for table in ("camera", "copies", "light", "still", "watermark"):
        assert sorted(pq.read_table(tags / f"tables/{table}.parquet")["clip_id"].to_pylist()) == sorted(ids)
    assert len(pq.read_table(store.resolve("subsets").out / "s1.parquet")) == 5
    assert main([*arguments(folder, store.root), "--json"]) == 0
    assert all(row["cached"] for row in json.loads(capsys.readouterr().out))
