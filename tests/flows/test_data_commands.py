"""`stepvideo data …`: a fresh clone that reproduces a model, what the commands say, and the event for retraining."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import made_catalog
import pytest
from made_versions import checkout_of
from published import run

from flows import data, data_diff, data_event, data_log
from stepvideo.artifact import Store
from tasks import version_report, versions


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Commands work on the checkout that is given here."""

    def use(root: Path) -> Path:
        for module in (data, data_log, data_diff):
            monkeypatch.setattr(module, "ROOT", root)
        return root

    use(checkout_of(tmp_path / "origin", tmp_path / "remote"))
    return use


def test_a_fresh_clone_reproduces_the_model_from_the_version(mini, at, tmp_path: Path) -> None:
    rows = mini.run()
    store = str(mini.store.root)
    code, out, err = mini.cli("data", "publish", "noise", "--store", store, "-m", "numbers")
    assert code == 0, err
    assert "next: git add versions/v1.dvc versions/.gitignore && git commit" in out
    about = json.loads((mini.store.root / "_triggers" / "data-v1.json").read_text())
    assert {k: about[k] for k in ("kind", "name", "parent")} == {"kind": "data_version", "name": "v1", "parent": None}
    run(tmp_path / "origin", "git", "add", "versions")
    run(tmp_path / "origin", "git", "commit", "-qm", "v1")
    run(tmp_path, "git", "clone", "-q", "origin", "clone")
    shutil.rmtree(tmp_path / "origin")
    clone = at(tmp_path / "clone")
    there = tmp_path / "there"
    code, out, err = mini.cli("data", "checkout", "v1", "--store", str(there))
    assert code == 0 and "next: stepvideo run graph=toy_stages" in out, err
    again = mini.run(f"store={there}")
    assert [name for name, row in again.items() if row["cached"]] == ["noise"]
    assert {n: r["digest"] for n, r in again.items()} == {n: r["digest"] for n, r in rows.items()}
    assert "is this content already" in mini.cli("data", "publish", "noise", "--store", str(there))[1]
    (version,) = versions.every(clone)
    command = "stepvideo data publish noise -m numbers"
    assert (version.meta["command"], version.meta["message"]) == (command, "numbers")
    manifest = Store(there).resolve("noise").dir / "manifest.json"
    said = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**said, "fingerprint": "of other code"}))
    out = mini.cli("data", "checkout", "v1", "--store", str(there))[1]
    assert "the code of noise here is not that which made them" in out and "next: git checkout " in out


def test_log_diff_and_verify(mini, at, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(version_report, "GATED", ())
    assert "no version yet; next: stepvideo data publish" in mini.cli("data", "log")[1]
    first = made_catalog.store(tmp_path / "a", range(60))
    second = made_catalog.store(tmp_path / "b", range(5, 80), slower=0.4)
    assert mini.cli("data", "publish", "--store", str(first.root), "-m", "first")[0] == 0
    code, out, _ = mini.cli("data", "publish", "--store", str(second.root), "-m", "second")
    assert code == 0 and "75 clips" in out and "stepvideo data diff v1 v2" in out
    rows = json.loads(mini.cli("data", "log", "--json")[1])
    assert [(r["name"], r["clips"], r["parent"], r["message"]) for r in rows] == [
        ("v2", 75, "v1", "second"),
        ("v1", 60, None, "first"),
    ]
    assert "second" in mini.cli("data", "log")[1]
    shutil.rmtree(tmp_path / "origin" / ".dvc" / "cache")  # as on a clone: only the tables are fetched
    code, out, err = mini.cli("data", "diff", "v1", "v2", "--set", "all")
    assert code == 0, err
    assert "raw files 60 → 75: 20 added, 5 removed, 0 changed" in out and "drifted" in out
    page = (tmp_path / "origin" / "runs" / "diff-v1-v2.html").read_text()
    assert "removed raw file" in page and "motion_mean" in page
    found = json.loads(mini.cli("data", "diff", "v1", "--store", str(second.root), "--json")[1])
    assert found["to"] is None and found["clips"]["in"][0]["reason"] == "added raw file"
    code, out, _ = mini.cli("data", "verify", "all", "--json")
    assert code == 0 and [v["whole"] for v in json.loads(out)] == [True, True]
    lost = max((p for p in (tmp_path / "remote").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    lost.unlink()
    code, out, _ = mini.cli("data", "verify", "all")
    assert code == 1 and "missing in the remote" in out and "--repair` sends 1 objects again" in out
    assert mini.cli("data", "diff", "v1", "v9")[0] == 2
    assert mini.cli("data", "diff", "v1", "v2", "--threshold", "0")[0] == 2


class Prefect(BaseHTTPRequestHandler):
    """Takes events as Prefect's server does."""

    took: list[dict] = []
    status = 204

    def do_POST(self) -> None:
        self.took += json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(self.status)
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(404 if "csrf" in self.path else 200)  # a server without tokens
        self.end_headers()
        self.wfile.write(b'"3.0.0"')

    def log_message(self, *args) -> None: ...


def test_prefect_is_told_where_there_is_one(tmp_path: Path, monkeypatch) -> None:
    version = versions.Version(
        "v7", tmp_path / "v7.dvc", "0" * 32, meta={"parent": "v6", "time": 5.0, "content": "ab"}, new=True
    )
    store = Store(tmp_path / "store")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert data_event.announce(version, store) == []
    server = HTTPServer(("127.0.0.1", 0), Prefect)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")
    assert data_event.announce(version, store) == ["event stepvideo.data.published sent to Prefect"]
    (event,) = Prefect.took
    assert (
        event["event"] == "stepvideo.data.published" and event["resource"]["prefect.resource.id"] == "stepvideo.data.v7"
    )
    payload = {"kind": "data_version", "name": "v7", "parent": "v6", "time": 5.0, "overrides": [], "digest": "ab"}
    assert event["payload"] == payload
    server.shutdown()
    server.server_close()
    place = data_event.place("v7", store)
    (place.parent / "done").mkdir()
    place.rename(place.parent / "done" / place.name)
    assert data_event.announce(replace(version, new=False), store) == [] and not place.exists()  # it was taken
    (place.parent / "done" / place.name).unlink()
    (note,) = data_event.announce(version, store)
    assert note.startswith("Prefect at PREFECT_API_URL was not told of v7") and data_event.place("v7", store).exists()
