"""`stepvideo mind` as a person and as Slurm call it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepvideo.cli import main
from stepvideo.mind import node_command
from stepvideo.mind.breaker import Breaker
from stepvideo.mind.faults import Category
from stepvideo.mind.node import stress_lock
from stepvideo.mind.nodes import Kind, State, first_seen, locked
from stepvideo.mind.settings import VARIABLE, Folder
from stepvideo.storage import write_json

XID = "3,1,1,-;NVRM: Xid (PCI:0000:3b:00): 48, pid=1, DBE\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mind"))
    return Folder(tmp_path / "mind")


def out_for_repair(folder: Folder, name: str = "n1") -> None:
    folder.book.update(name, lambda _: first_seen(name, "video", 0.0).into(State.OUT, 1.0, "GPU 3"))


def test_status(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mind", "status"]) == 0 and "no node is known" in capsys.readouterr().out
    out_for_repair(folder)
    write_json(folder.root / "breaker.json", Breaker(open="9 of 9 nodes fail disk").json())
    assert main(["mind", "status"]) == 0
    said = capsys.readouterr().out
    assert "mind admit n1 --repaired replace" in said and "9 of 9 nodes fail disk" in said
    assert main(["mind", "status", "--json", "--check", "--node", "n1"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["nodes"][0]["state"] == "out for repair" and len(found["history"]) == 2
    assert main(["mind", "status", "--node", "n7"]) == 2 and "known: n1" in capsys.readouterr().err


def test_check_as_a_person_and_as_slurm(folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kmsg = tmp_path / "host/dev/kmsg"
    kmsg.parent.mkdir(parents=True)
    kmsg.write_text(XID)
    options = ["--node", "n1", "--overlay", str(tmp_path / "host")]
    assert main(["mind", "check", "kernel", "memory", "--json", *options]) == 1
    kernel, memory = json.loads(capsys.readouterr().out)
    assert (
        kernel["fault"] == "GPU_DBE_ERROR" and kernel["fix"] == "scontrol reboot ASAP n1" and memory["status"] == "ok"
    )
    assert main(["mind", "check", "memory", *options]) == 0 and "memory" in capsys.readouterr().out
    assert not folder.report("checks", "n1")
    assert main(["mind", "check", "kernel", "--slurm", *options]) == 0  # Slurm would make something of another code
    assert folder.report("checks", "n1")["results"][0]["status"] == "fail"
    assert main(["mind", "check", "--list"]) == 0 and "an NVIDIA driver" in capsys.readouterr().out
    assert main(["mind", "check", "nothing"]) == 2


def test_uniformity(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mind", "check", "--uniform", "--node", "n0"]) == 0
    own = folder.report("prints", "n0")
    for i in (1, 2):
        folder.write_report("prints", f"n{i}", own)
    folder.write_report("prints", "n3", {**own, "kernel": "5.4"})
    capsys.readouterr()
    assert main(["mind", "check", "--uniform", "--node", "n0", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert list(found["different"]) == ["n3"] and found["different"]["n3"][0]["own"] == "5.4"


def test_admit(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    out_for_repair(folder)
    assert main(["mind", "admit", "n1", "--repaired", "replace", "--category", "gpu", "--note", "tray 3"]) == 0
    record = folder.book.get("n1")
    assert record and record.state == State.CHECKING
    repair = next(e for e in record.history if e.kind == Kind.REPAIR)
    assert (repair.name, repair.category, repair.detail) == ("replace", Category.GPU, "tray 3")
    capsys.readouterr()
    assert main(["mind", "admit", "n1"]) == 2 and "is checking, not out for repair" in capsys.readouterr().err
    assert main(["mind", "admit"]) == 2 and main(["mind", "admit", "n9"]) == 2
    write_json(folder.root / "breaker.json", Breaker(open="x").json())
    assert main(["mind", "admit", "--close-breaker", "--json"]) == 0 and not folder.breaker().open


def test_stress_is_held_against_what_others_reached(folder, monkeypatch, capsys) -> None:
    import stepvideo.mind.stress.run as stress

    reached = {"gemm_tflops": 100.0, "gemm_repeats": 1.0}
    monkeypatch.setattr(stress, "timed", lambda *_: (reached, 3.0))
    monkeypatch.setattr(stress, "device_kind", lambda _: "H800")
    for i in range(3):
        assert main(["mind", "stress", "--node", f"n{i}"]) == 0
    assert "--learn" in capsys.readouterr().out
    assert main(["mind", "stress", "--learn"]) == 0 and "2 tests from 3 nodes" in capsys.readouterr().out
    reached["gemm_tflops"] = 80.0
    assert main(["mind", "stress", "--node", "n3", "--json"]) == 1
    assert "gemm_tflops 80 (80%)" in json.loads(capsys.readouterr().out)["detail"]
    assert folder.report("stress", "n3")["ok"] is False


def test_a_node_that_is_to_be_stressed_is_stressed_once(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    import stepvideo.mind.stress.run as stress

    runs = []
    monkeypatch.setattr(stress, "timed", lambda *_: (runs.append(1) or {"gemm_repeats": 1.0}, 3.0))
    monkeypatch.setattr(stress, "device_kind", lambda _: "H800")
    for _ in range(2):
        assert main(["mind", "stress", "--node", "n1", "--since", "12.5"]) == 0
    assert len(runs) == 1 and folder.report("stress", "n1")["since"] == 12.5
    with locked(stress_lock(folder.root, "n1")):  # one that is at it, for hours
        assert main(["mind", "stress", "--node", "n1", "--since", "99.0"]) == 0
    assert len(runs) == 1


def test_which_folder(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert main(["mind", "status"]) == 2 and VARIABLE in capsys.readouterr().err
    assert node_command.VARIABLE == VARIABLE
