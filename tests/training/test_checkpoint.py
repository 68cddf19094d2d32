"""Training checkpoints of one process: whole or not chosen, written while training goes on, within their space."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from stepvideo import storage
from stepvideo.errors import StepVideoError
from stepvideo.training import checkpoint_files as files
from stepvideo.training.checkpoint import Checkpointer, State, size
from stepvideo.training.state import generators, set_generators

ALONE = SimpleNamespace(rank=0)


def toy(value: float, n: int = 3) -> State:
    tensors = {f"model/net/{i}.weight": torch.full((16, 8), float(value + i)) for i in range(n)}
    tensors["model/net/scale"] = torch.tensor(value, dtype=torch.bfloat16)
    return State(tensors=tensors, shared={"done": int(value), "curve": [[0, 1.0, value]]}, own={"seen": value})


def keeper(folder: Path, keep: int = 2, sink=None) -> Checkpointer:
    return Checkpointer(folder, ALONE, keep, sink)


def saved(folder: Path, *steps: int, keep: int = 2) -> Checkpointer:
    checkpoints = keeper(folder, keep)
    for step in steps:
        checkpoints.save(step, toy(step))
    checkpoints.wait()
    return checkpoints


def test_what_was_saved_comes_back_in_place(tmp_path):
    checkpoints = saved(tmp_path, 3, 5)
    state = toy(0.0)
    before = dict(state["tensors"])
    checkpoints.load(5, state)
    assert all(state["tensors"][n] is t and torch.equal(t, toy(5)["tensors"][n]) for n, t in before.items())
    assert state["shared"] == toy(5)["shared"] and state["own"] == {"seen": 5}
    assert keeper(tmp_path).newest() == 5 and keeper(tmp_path / "elsewhere").newest() is None


def test_tensors_may_change_as_soon_as_save_returns(tmp_path, monkeypatch):
    go, written_by = threading.Event(), files.written_by
    monkeypatch.setattr(files, "written_by", lambda *a: go.wait(20) and written_by(*a))
    checkpoints, state = keeper(tmp_path), toy(1)
    checkpoints.save(1, state)
    for tensor in state["tensors"].values():
        tensor.fill_(99)
    state["shared"]["curve"].append([1, 2.0, 3.0])
    assert keeper(tmp_path / "other").newest() is None and not files.step_folder(tmp_path, 1).exists()
    go.set()
    checkpoints.save(2, state)  # waits for the first
    assert files.step_folder(tmp_path, 1).exists()
    checkpoints.load(1, state)
    assert all(torch.equal(t, toy(1)["tensors"][n]) for n, t in state["tensors"].items())
    assert state["shared"] == toy(1)["shared"]


def test_retention_and_what_is_rolled_back(tmp_path):
    checkpoints = saved(tmp_path, 1, 2, 3)
    assert files.steps(tmp_path) == [2, 3]
    checkpoints.save(2, toy(7))  # trained on from an earlier step: the newer one is another run's
    checkpoints.wait()
    assert files.steps(tmp_path) == [2] and checkpoints.newest() == 2
    state = toy(0)
    checkpoints.load(2, state)
    assert state["own"] == {"seen": 7}
    assert saved(tmp_path / "one", 1, 2, keep=1).newest() == 2 and files.steps(tmp_path / "one") == [2]
    with pytest.raises(ValueError, match="keep=0"):
        keeper(tmp_path, keep=0)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


DAMAGES = {
    "flipped tensor": lambda f: flip(f / "__0_0.distcp", 700),
    "truncated": lambda f: (f / "__0_0.distcp").write_bytes((f / "__0_0.distcp").read_bytes()[:-1]),
    "missing tensors": lambda f: (f / "__0_0.distcp").unlink(),
    "missing index": lambda f: (f / ".metadata").unlink(),
    "missing rank": lambda f: (f / files.own(0)).unlink(),
    "flipped numbers": lambda f: flip(f / files.SHARED, 100),
    "missing manifest": lambda f: (f / files.MANIFEST).unlink(),
    "half a manifest": lambda f: (f / files.MANIFEST).write_text((f / files.MANIFEST).read_text()[:40]),
    "empty manifest": lambda f: (f / files.MANIFEST).write_text("[]"),
    "empty folder": lambda f: [p.unlink() for p in f.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_torn_checkpoint_is_never_chosen(tmp_path, damage, caplog):
    saved(tmp_path, 1, 2)
    DAMAGES[damage](files.step_folder(tmp_path, 2))
    heard = []
    sink = SimpleNamespace(event=lambda name, **fields: heard.append((name, fields["step"])))
    with caplog.at_level(logging.WARNING):
        checkpoints = keeper(tmp_path, sink=sink)
        assert checkpoints.newest() == 1
    assert heard == [("checkpoint_damaged", 2)] and "step-0000002 is damaged" in caplog.text
    checkpoints.save(3, toy(3))
    assert checkpoints.newest() == 3
    assert files.steps(tmp_path) == [1, 3], "a damaged one is not one of those kept"


def test_no_byte_of_it_is_unseen(tmp_path):
    saved(tmp_path, 1)
    folder = files.step_folder(tmp_path, 1)
    for path in folder.iterdir():
        if path.name == files.MANIFEST:
            continue
        good = path.read_bytes()
        for at in range(0, len(good), max(1, len(good) // 23)):
            flip(path, at)
            assert files.damage(folder), f"{path.name}, byte {at}"
        path.write_bytes(good)
    assert files.damage(folder) == ""


def test_leftovers_of_killed_saves_go(tmp_path):
    saved(tmp_path, 1)
    for name in ("step-0000002.tmp", "step-0000001.old.tmp"):
        shutil.copytree(files.step_folder(tmp_path, 1), tmp_path / name)
    assert keeper(tmp_path).newest() == 1
    assert [p.name for p in tmp_path.iterdir()] == ["step-0000001"]


def die_saving(folder: Path, module, name: str, call: int, step: int) -> None:
    """Save `step`, and kill -9 this process at the `call`-th call of `module.name`."""
    real, calls = getattr(module, name), []

    def last(*args):
        calls.append(args)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)

    checkpoints = keeper(folder)
    setattr(module, name, last)
    checkpoints.save(step, toy(step + 0.5))
    checkpoints.wait()


@pytest.mark.parametrize("step", [3, 2], ids=["new", "again"])
@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        (files, "written_by", 1),  # no manifest yet
        (files, "sync", 1),  # a manifest, not yet the name
        (files, "sync", 2),  # the name
        (storage, "remove", 2),  # the one before it, of that name or too many, not yet removed
        (os, "fsync", 1),
        (os, "fsync", 2),
    ],
    ids=lambda v: getattr(v, "__name__", str(v)),
)
def test_killed_while_saving(tmp_path, module, name, call, step):
    saved(tmp_path, 1, 2)
    child = multiprocessing.get_context("fork").Process(target=die_saving, args=(tmp_path, module, name, call, step))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    checkpoints, state = keeper(tmp_path), toy(0)
    newest = checkpoints.newest()
    assert newest in (2, step)
    checkpoints.load(newest, state)
    assert state["own"]["seen"] in (2, step + 0.5)
    assert torch.equal(state["tensors"]["model/net/0.weight"], torch.full((16, 8), state["own"]["seen"]))
    assert not list(tmp_path.glob("*.tmp"))


@pytest.fixture
def file_limit():
    """`file_limit(bytes)`: no file may grow larger; a write that would is an error, as on a full disk."""
    former, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda n: resource.setrlimit(resource.RLIMIT_FSIZE, (n, former[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, former)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("limit", [0, 600, 1500, 2500])
def test_a_full_disk_while_saving_is_told_and_costs_nothing(tmp_path, file_limit, limit):
    checkpoints = saved(tmp_path, 1)
    file_limit(limit)
    checkpoints.save(2, toy(2))
    with pytest.raises(StepVideoError, match=r"checkpoint 2 was not written \(.*File too large.*earlier ones are inta"):
        checkpoints.wait()
    assert [p.name for p in tmp_path.iterdir()] == ["step-0000001"] and checkpoints.newest() == 1
    file_limit(resource.RLIM_INFINITY)
    checkpoints.save(3, toy(3))
    assert checkpoints.newest() == 3


def test_an_error_is_raised_by_the_next_save(tmp_path, monkeypatch):
    checkpoints = keeper(tmp_path)
    monkeypatch.setattr(files, "seal", lambda *a: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    checkpoints.save(1, toy(1))
    with pytest.raises(StepVideoError, match="checkpoint 1 was not written .Permission denied"):
        checkpoints.save(2, toy(2))
    monkeypatch.undo()
    checkpoints.save(2, toy(2))
    assert checkpoints.newest() == 2


def test_space_is_looked_at_before_the_first_step(tmp_path, monkeypatch):
    checkpoints, state = keeper(tmp_path, keep=2), toy(1, n=40)
    needed = 3 * size(state)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    with pytest.raises(StepVideoError, match=f"{tmp_path}: 2 checkpoints .* {needed} bytes more, {needed - 1} are"):
        checkpoints.check_space(state)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed))
    checkpoints.check_space(state)
    checkpoints.save(1, state)
    checkpoints.wait()
    there = sum(p.stat().st_size for p in files.step_folder(tmp_path, 1).iterdir())
    assert there < size(state) + 4096, "more than was foreseen"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - there))
    checkpoints.check_space(state)  # what is there already makes room


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    checkpoints, other = saved(tmp_path, 1), toy(0)
    other["tensors"]["model/net/0.weight"] = torch.zeros(4, 4)
    with pytest.raises(StepVideoError, match=r"net/0.weight \(here \[4, 4\] torch.float32, there \[16, 8\] "):
        checkpoints.load(1, other)
    other["tensors"]["model/net/0.weight"] = torch.zeros(16, 8, dtype=torch.bfloat16)
    with pytest.raises(StepVideoError, match=r"here \[16, 8\] torch.bfloat16, there \[16, 8\] torch.float32"):
        checkpoints.load(1, other)
    with pytest.raises(StepVideoError, match=r"1 of 5 tensors do not fit, such as model/net/3.weight .* there absent"):
        checkpoints.load(1, toy(0, n=4))


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("bomb"),))


def test_nothing_that_is_read_can_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints = saved(tmp_path / "run", 1)
    folder = files.step_folder(tmp_path / "run", 1)
    with pytest.raises(TypeError, match="numbers, texts, tensors, lists and dicts only"):
        checkpoints.save(2, State(tensors={}, shared={"a": Bomb()}, own={}))
    for name in (".metadata", files.SHARED):
        good = (folder / name).read_bytes()
        (folder / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(pickle.UnpicklingError):
            checkpoints.load(1, toy(0))
        (folder / name).write_bytes(good)
    assert not Path("bomb").exists()


def test_generators_go_on_where_they_were(tmp_path):
    import random

    import numpy as np

    def draw():
        return random.random(), float(np.random.rand()), torch.rand(3).tolist()

    checkpoints, state = keeper(tmp_path), toy(1)
    state["own"] = generators()
    checkpoints.save(1, state)
    expected = draw()
    checkpoints.load(1, state)
    set_generators(state["own"])
    assert draw() == expected


def test_the_manifest_lists_every_file(tmp_path):
    saved(tmp_path, 1)
    folder = files.step_folder(tmp_path, 1)
    listed = json.loads((folder / files.MANIFEST).read_text())["files"]
    assert set(listed) | {files.MANIFEST} == {p.name for p in folder.iterdir()}
