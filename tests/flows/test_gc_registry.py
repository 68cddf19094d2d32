"""gc asks the registry, or refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from kept_store import NOW, gc, keys

from stepvideo import storage
from tasks import keeping_named
from tasks.record import records


def test_registered_models_stay_and_a_registry_that_is_silent_stops_it(
    mini, tmp_path: Path, new_mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(new_mlflow, work / "mlflow.db")
    rows = mini.run("tracking.mlflow=true")
    for i in range(20):  # more runs that told the same registry, and more that may go
        again = shutil.copytree(records(mini.store)[0].path.parent, mini.store.root / "_runs" / f"again-{i}")
        storage.write_json(again / "run.json", storage.read_json(again / "run.json") | {"id": again.name})
    asked, ask = [], keeping_named._versions
    monkeypatch.setattr(keeping_named, "_versions", lambda uri: asked.append(uri) or ask(uri))
    everything = gc(mini, *NOW, "--keep-runs", "0")
    assert len(asked) == 1 and len(everything["items"]) >= 20  # once, not for each
    assert "registered as" in next(r["why"] for r in everything["kept"] if r["stage"] == "score")
    gc(mini, *NOW, "--keep-runs", "0", "--apply")
    assert len(asked) == 2
    assert keys(mini) == {(n, r["key"]) for n, r in rows.items()}
    assert len(records(mini.store)) == 1  # it says which registry is to be asked
    (work / "mlflow.db").rename(tmp_path / "elsewhere.db")
    for args in ((), ("--apply",)):
        error = gc(mini, *NOW, *args, code=2)["error"]
        assert "mlflow.db is missing" in error and "--without-registry" in error
    (record,) = records(mini.store)
    (work / "broken.db").write_bytes(b"no database" * 100)
    record.data["config"]["tracking"]["mlflow_uri"] = f"sqlite:///{work}/broken.db"
    storage.write_json(record.path, record.data)
    assert "cannot be asked: " in gc(mini, *NOW, code=2)["error"]
    gc(mini, *NOW, "--keep-runs", "0", "--without-registry", "--apply")
    assert keys(mini) == set()
