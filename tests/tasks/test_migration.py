"""A store of schema 1, as it was when schema 2 came, is read, brought up and told from newer ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from stepvideo import cli, storage
from stepvideo.artifact import SCHEMA, NewerStore, Store, damage, key_of
from stepvideo.errors import ArtifactError
from stepvideo.stage import StageSpec
from tasks import migration
from tasks.record import recorded, records

OLD = Path(__file__).parents[1] / "toys" / "store_of_schema_1"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    shutil.copytree(OLD, tmp_path / "store")
    return Store(tmp_path / "store")


def command(capsys, store: Store, *args: str, code: int = 0) -> str:
    capsys.readouterr()
    assert cli.main([*args, "--store", str(store.root)]) == code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return err if code else out


def schemas(store: Store) -> set[int]:
    return {storage.read_json(p).get("schema", 1) for p in migration.papers(store)}


def test_it_is_read_as_it_is_and_its_keys_are_this_versions(store: Store, capsys) -> None:
    assert len(store.artifacts()) == 3 and all(not damage(a.dir, a.manifest) for a in store.artifacts())
    for artifact in store.artifacts():
        spec = StageSpec.read(artifact.dir / "spec.json")
        assert key_of(spec.hashed()) == spec.key == artifact.dir.name  # nobody's store is made anew
        assert store.find(spec.stage, spec.key) and artifact.manifest["schema"] == SCHEMA
    (run,) = json.loads(command(capsys, store, "status", "--all", "--json"))["runs"]
    assert run["state"] == "done" and run["done"] == run["total"] == 3
    assert schemas(store) == {1}


def test_a_dry_run_then_upgrade_and_then_nothing_to_do(store: Store, capsys) -> None:
    before = {p: storage.sha256_file(p) for p in storage.tree(store.root)}
    times = {a.dir: (a.dir / "manifest.json").stat().st_mtime_ns for a in store.artifacts()}
    said = command(capsys, store, "upgrade")
    assert "3 manifest.json of schema 1, 1 run.json of schema 1, 3 spec.json of schema 1" in said and "--apply" in said
    assert {p: storage.sha256_file(p) for p in storage.tree(store.root)} == before
    command(capsys, store, "upgrade", "--apply")
    assert schemas(store) == {SCHEMA} and "nothing to do" in command(capsys, store, "upgrade")
    assert {a.dir: (a.dir / "manifest.json").stat().st_mtime_ns for a in store.artifacts()} == times
    assert all(key_of(StageSpec.read(a.dir / "spec.json").hashed()) == a.dir.name for a in store.artifacts())


def test_an_interrupted_upgrade_goes_on(store: Store, monkeypatch) -> None:
    write, count = storage.write_json, 0

    def failing(path: Path, data) -> None:
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(storage, "write_json", failing)
    with pytest.raises(KeyboardInterrupt):
        migration.migrate(store)
    assert schemas(store) == {1, SCHEMA} and len(store.artifacts()) == 3 and len(records(store)) == 1
    assert sum(migration.migrate(store).values()) == 4 and schemas(store) == {SCHEMA}


def test_live_runs_and_jobs_stop_it(store: Store) -> None:
    with recorded(store, config={}, until=None, nodes=[]):
        with pytest.raises(ArtifactError, match="is at work"):
            migration.migrate(store)
    assert schemas(store) == {1, SCHEMA}  # the new record alone


@pytest.mark.parametrize("name", ["run.json", "manifest.json", "spec.json"])
@pytest.mark.parametrize("schema", [SCHEMA + 1, "two"])
def test_newer_stores_are_refused(store: Store, capsys, name: str, schema: object) -> None:
    path = next(p for p in migration.papers(store) if p.name == name)
    storage.write_json(path, {**storage.read_json(path), "schema": schema})
    if name == "spec.json":
        (path.parent / "manifest.json").unlink()  # begun by a newer version: nobody knows what it needs
    before = {p: storage.sha256_file(p) for p in storage.tree(store.root) if p.name not in ("guard", "lock")}
    if name == "spec.json":
        with pytest.raises(NewerStore, match="written by a newer stepvideo"):
            StageSpec.read(path)
    asked = {
        "run.json": (["status"], ["status", "--all"], ["gc"], ["upgrade", "--apply"]),
        "manifest.json": (["status", "--all"], ["lineage", path.parent.parent.name], ["gc"], ["upgrade", "--apply"]),
        "spec.json": (["upgrade", "--apply"], ["gc", "--apply"]),
    }[name]
    for args in asked:
        error = command(capsys, store, *args, code=2)
        assert str(path) in error and "written by a newer stepvideo; upgrade" in error
    if name == "manifest.json":
        with pytest.raises(NewerStore):  # it is not made again over it
            store.find(path.parent.parent.name, path.parent.name)
    after = {p: storage.sha256_file(p) for p in storage.tree(store.root) if p.name not in ("guard", "lock")}
    assert after == before
