"""A run as one file and back: byte for byte, checked, safe to open, nothing half-written."""

from __future__ import annotations

import io
import json
import random
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from kept_store import is_closed, keys

from stepvideo import mirror, storage
from stepvideo.artifact import SCHEMA, Store
from stepvideo.errors import ArtifactError
from tasks.keeping_unarchive import bring_back, check
from tasks.record import records


def archive(mini, path: Path, *args: str) -> Path:
    code, out, err = mini.cli("archive", "--json", "--out", str(path), "--store", str(mini.store.root), *args)
    assert code == 0, err
    assert json.loads(out)["sha256"] == storage.sha256_file(path)
    return path


def refused(mini, *args: str) -> str:
    code, _, err = mini.cli("archive", "--store", str(mini.store.root), *args)
    assert code == 2 and "Traceback" not in err
    return err


def files(root: Path) -> dict[str, str]:
    return {p.relative_to(root).as_posix(): storage.sha256_file(p) for p in sorted(root.glob("[!_]*/*/out/**/*"))}


def test_there_and_back_byte_for_byte(mini, tmp_path: Path) -> None:
    mini.run("stages.fit.fill=100000")
    tar = archive(mini, tmp_path / "run.tar", "--with", "all")
    assert archive(mini, tmp_path / "again.tar", "--with", "all").read_bytes() == tar.read_bytes()
    code, out, _ = mini.cli("archive", "--check", str(tar))
    assert code == 0 and "is whole" in out and "next: stepvideo unarchive" in out
    code, out, _ = mini.cli("unarchive", str(tar), "--store", str(tmp_path / "other"))
    assert code == 0 and "3 artifacts" in out
    assert files(tmp_path / "other") == files(mini.store.root)
    assert mini.ran(f"store={tmp_path / 'other'}", "stages.fit.fill=100000") == []  # a run takes everything from it
    (record, _) = records(Store(tmp_path / "other"))
    assert record.data["id"] == records(mini.store)[0].data["id"] and not record.data["config"]["tracking"]["mlflow"]
    assert not list((tmp_path / "other/_incoming").iterdir())
    with tarfile.open(tar) as opened:
        opened.extractall(tmp_path / "plain", filter="data")
    (folder,) = (tmp_path / "plain").iterdir()
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder).returncode == 0
    assert set(json.loads((folder / "metrics.json").read_text())) == {"noise", "fit", "score"}
    assert (folder / "stages" / "fit" / record.refs["fit"] / "events.jsonl").exists()
    assert "stepvideo unarchive" in (folder / "README.md").read_text()


def test_chosen_artifacts_and_mistakes(mini, tmp_path: Path) -> None:
    mini.run()
    (run,) = records(mini.store)
    assert check(archive(mini, tmp_path / "none.tar")).manifests == {}
    one = check(archive(mini, tmp_path / "one.tar", run.data["id"][-6:], "--with", "score"))
    assert list(one.manifests) == [f"score/{run.refs['score']}"]
    assert "remove it or give another name" in refused(mini, "--out", str(tmp_path / "one.tar"))
    assert "models, videos, all, or stages: noise" in refused(mini, "--out", str(tmp_path / "x"), "--with", "sft")
    assert f"there are: {run.data['id']}" in refused(mini, "nonesuch", "--out", str(tmp_path / "x"))
    model = mini.store.dir("fit", run.refs["fit"]) / "out" / "model.json"
    model.write_bytes(model.read_bytes()[::-1])  # of equal size
    assert "is damaged" in refused(mini, "--out", str(tmp_path / "x"), "--with", "all")
    assert sorted(p.name for p in tmp_path.iterdir() if "." in p.name) == ["none.tar", "one.tar"]  # no half of a file
    run.update(state="running")
    run.data["host"] = "elsewhere"
    run.update()
    assert "is at work" in refused(mini, "--out", str(tmp_path / "x"))


def test_passwords_stay_at_home(mini, tmp_path: Path) -> None:
    mini.run()
    (run,) = records(mini.store)
    run.data["config"]["tracking"]["mlflow_uri"] = "postgresql://writer:hunter2@127.0.0.1/mlflow"
    run.update(overrides=["tracking.mlflow_uri=postgresql://writer:hunter2@127.0.0.1/mlflow"])
    manifest = mini.store.dir("fit", run.refs["fit"]) / "manifest.json"
    data = storage.read_json(manifest)
    data["lineage"]["uri"] = "http://me:hunter2@127.0.0.1:5000"
    storage.write_json(manifest, data)
    raw = archive(mini, tmp_path / "run.tar", "--with", "all").read_bytes()
    assert b"hunter2" not in raw and b"postgresql://***@127.0.0.1/mlflow" in raw
    assert check(tmp_path / "run.tar").manifests


def test_damage_and_cuts_are_told(mini, tmp_path: Path) -> None:
    mini.run()
    whole = archive(mini, tmp_path / "run.tar", "--with", "all").read_bytes()
    said = check(tmp_path / "run.tar")
    chance, path, noticed = random.Random(1), tmp_path / "bad.tar", 0
    for _ in range(25):
        place = chance.randrange(len(whole))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            assert check(path) == said  # in the padding between files, nothing is damaged
        except ArtifactError:
            noticed += 1
        path.write_bytes(whole[: chance.randrange(len(whole.rstrip(b"\0")))])
        with pytest.raises(ArtifactError):
            bring_back(path, Store(tmp_path / "never"))
    assert noticed > 8 and not list((tmp_path / "never").glob("*"))
    with pytest.raises(ArtifactError, match="is missing"):
        check(tmp_path / "absent.tar")


def rewritten(source: Path, target: Path, change) -> Path:
    """The archive with its members changed: change(name, data) → data."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            data = change(member.name, old.extractfile(member).read())
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    return target


def test_strange_archives_are_refused(mini, tmp_path: Path) -> None:
    mini.run()
    good = archive(mini, tmp_path / "run.tar", "--with", "all")
    kinds = {"link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "device": tarfile.CHRTYPE, "fifo": tarfile.FIFOTYPE}
    for name, kind in {"../../evil": tarfile.REGTYPE, "/tmp/evil": tarfile.REGTYPE, **kinds}.items():
        path = Path(shutil.copy(good, tmp_path / "strange.tar"))
        with tarfile.open(path, "a") as tar:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        with pytest.raises(ArtifactError, match="no plain file|out of its place"):
            bring_back(path, Store(tmp_path / "never"))
    forged = rewritten(good, tmp_path / "forged.tar", lambda n, d: d.replace(b'"state"', b'"State"'))
    with pytest.raises(ArtifactError, match="checksum"):
        check(forged)
    (tmp_path / "text").write_text("no tar")
    with pytest.raises(ArtifactError, match="cannot be read as a tar"):
        check(tmp_path / "text")
    run = records(mini.store)[0]
    storage.write_json(run.path, {**run.data, "schema": SCHEMA})
    newer = archive(mini, tmp_path / "newer.tar")
    sums = {}

    def lifted(name: str, data: bytes) -> bytes:
        import hashlib

        if name.endswith("/run.json"):
            old, data = hashlib.sha256(data).hexdigest(), data.replace(b'"schema": %d' % SCHEMA, b'"schema": 99')
            sums[old] = hashlib.sha256(data).hexdigest()
        for old, new in sums.items():
            data = data.replace(old.encode(), new.encode())
        return data

    with pytest.raises(ArtifactError, match="newer stepvideo"):
        check(rewritten(newer, tmp_path / "lifted.tar", lifted))
    assert not list((tmp_path / "never").glob("*"))


def test_an_interrupted_one_leaves_whole_artifacts_and_goes_on(mini, tmp_path: Path, monkeypatch) -> None:
    mini.run()
    tar = archive(mini, tmp_path / "run.tar", "--with", "all")
    other, settle, count = Store(tmp_path / "other"), mirror.settle, 0

    def once(*args):
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return settle(*args)

    monkeypatch.setattr(mirror, "settle", once)
    with pytest.raises(KeyboardInterrupt):
        bring_back(tar, other)
    assert len(other.artifacts()) == 2 and records(other) == [] and not list((other.root / "_incoming").iterdir())
    bring_back(tar, other)
    mini.store = other
    assert len(keys(mini)) == 3 and is_closed(mini) and len(records(other)) == 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    with pytest.raises(ArtifactError, match="free"):
        bring_back(tar, Store(tmp_path / "full"))
