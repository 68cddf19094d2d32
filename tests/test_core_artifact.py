"""The store: complete or absent, damage found, locks freed by death, references resolved."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stepvideo import artifact, storage
from stepvideo.artifact import Store, content_digest, is_locked, is_running, key_of, lock
from stepvideo.errors import ArtifactError


def make(store: Store, stage: str, key: str, content: str = "data") -> Path:
    directory = store.dir(stage, key)
    (directory / "out" / "sub").mkdir(parents=True)
    (directory / "out" / "sub" / "a.txt").write_text(content)
    files = storage.checksums(directory / "out")
    manifest = {"stage": stage, "key": key, "files": files, "digest": content_digest(files), "finished": time.time()}
    storage.write_json(directory / "manifest.json", manifest)
    return directory


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_absent_incomplete_complete(store: Store) -> None:
    assert store.find("s", "k") is None and store.why_not("s", "k") == "absent"
    store.dir("s", "k").mkdir(parents=True)
    assert store.find("s", "k") is None and store.why_not("s", "k") == "incomplete"
    make(store, "s", "other")
    found = store.find("s", "other")
    assert found and found.out.is_dir() and store.why_not("s", "other") == "ok"


@pytest.mark.parametrize("harm", ["flip", "grow", "cut", "lose", "manifest"])
def test_every_damage_is_found_and_set_aside(store: Store, harm: str) -> None:
    directory = make(store, "s", "k")
    file = directory / "out" / "sub" / "a.txt"
    match harm:
        case "flip":
            stat = file.stat()
            file.write_text("date")  # same size, and the same time: only the content tells
            os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        case "grow":
            file.write_text("data!")
        case "cut":
            file.write_text("")
        case "lose":
            file.unlink()
        case "manifest":
            (directory / "manifest.json").write_text("{")
    assert store.find("s", "k") is None
    reason = store.set_aside_damaged("s", "k")
    assert reason and ("manifest.json" if harm == "manifest" else "sub/a.txt") in reason
    assert store.why_not("s", "k") == "incomplete" and len(list(directory.glob("out.damaged-*"))) == 1


def test_sound_artifacts_are_not_set_aside(store: Store) -> None:
    make(store, "s", "k")
    assert store.set_aside_damaged("s", "k") is None and store.set_aside_damaged("s", "none") is None
    assert store.find("s", "k")


def test_references(store: Store) -> None:
    a, b = make(store, "s", "aa11"), make(store, "s", "aa22")
    os.utime(a / "manifest.json", (1, 1))
    assert store.resolve("s").dir == b and store.resolve("s/aa11").dir == a and store.resolve(str(a)).dir == a
    for ref, said in (("t", "no artifact 't'"), ("s/zz", "no artifact"), ("s/aa", "ambiguous: aa11, aa22")):
        with pytest.raises(ArtifactError, match=said):
            store.resolve(ref)


def test_keys_and_digests_follow_content_only(store: Store) -> None:
    hashed = {"kind": "x", "config": {"lr": 0.1}, "inputs": {"a": "d"}, "code": "c"}
    assert key_of(hashed) == key_of(dict(reversed(hashed.items()))) and len(key_of(hashed)) == 16
    assert len({key_of(hashed | {k: "other"}) for k in hashed} | {key_of(hashed)}) == 5
    first, second = (make(store, s, "k").joinpath("manifest.json") for s in ("s", "t"))
    assert storage.read_json(first)["digest"] == storage.read_json(second)["digest"]


def test_a_lock_is_held_once_and_freed_by_kill_9(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from stepvideo.artifact import lock\n"
    code += f"with lock(Path({str(tmp_path)!r})) as mine: print(mine, flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout and holder.stdout.readline().strip() == "True"
    storage.write_json(tmp_path / "heartbeat.json", {"pid": holder.pid, "host": os.uname().nodename, "time": 0})
    with lock(tmp_path) as mine:
        assert not mine
    assert is_locked(tmp_path) and is_running(tmp_path)
    holder.kill()
    holder.wait()
    assert not is_running(tmp_path)
    with lock(tmp_path) as mine:
        assert mine and is_locked(tmp_path)


def test_a_job_on_another_host_lives_by_its_heartbeat(tmp_path: Path) -> None:
    beat = {"pid": 1, "host": "elsewhere", "time": time.time()}
    storage.write_json(tmp_path / "heartbeat.json", beat)
    assert is_running(tmp_path)
    storage.write_json(tmp_path / "heartbeat.json", beat | {"time": time.time() - 61})
    assert not is_running(tmp_path)


def test_writes_are_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "f.json"
    storage.write_json(target, {"a": 1})

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match="f.json: No space left on device; free space"):
        storage.write_json(target, {"a": 2})
    assert storage.read_json(target) == {"a": 1} and list(tmp_path.iterdir()) == [target]


def test_read_errors_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    for name, said in (("none.json", "is missing"), ("bad.json", "cannot be read as JSON")):
        with pytest.raises(ArtifactError, match=f"{name} {said}"):
            storage.read_json(tmp_path / name)


def test_trees_travel_through_object_stores(tmp_path: Path) -> None:
    source = tmp_path / "a"
    (source / "d").mkdir(parents=True)
    (source / "d" / "x").write_bytes(b"1")
    (source / "manifest.json").write_bytes(b"2")
    assert storage.is_remote("s3://b/k") and not storage.is_remote(str(tmp_path))
    storage.upload(source, "memory://bucket/tree", ["d/x", "manifest.json"])
    storage.download("memory://bucket/tree", tmp_path / "b", storage.checksums(source))
    assert storage.checksums(tmp_path / "b") == storage.checksums(source)


def test_artifacts_are_listed_oldest_first(store: Store) -> None:
    for i, key in enumerate(("c", "a", "b")):
        os.utime(make(store, "s", key) / "manifest.json", (i, i))
    assert [a.manifest["key"] for a in store.artifacts()] == ["c", "a", "b"]
    assert artifact.KEYED == 1
