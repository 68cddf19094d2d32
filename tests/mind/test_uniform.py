"""Nodes whose software or firmware differs from most."""

from __future__ import annotations

from pathlib import Path

from stepvideo.mind.checks.host import Host
from stepvideo.mind.uniform import Difference, fingerprint, minority


def test_who_differs_in_what_and_what_is_no_majority() -> None:
    prints = {f"n{i}": {"driver": "570.1", "kernel": "6.8", "bios": "ab"[i % 2]} for i in range(8)}
    prints["n3"]["driver"] = "550.2"
    del prints["n5"]["kernel"]
    different, split = minority(prints)
    assert different == {
        "n3": [Difference("driver", "550.2", "570.1", 7 / 8)],
        "n5": [Difference("kernel", "", "6.8", 7 / 8)],
    }
    assert split == ["bios"]
    assert minority({"n1": {"a": "1"}}) == ({}, [])


def test_a_fingerprint_is_the_machines_and_does_not_change_by_itself(tmp_path: Path) -> None:
    here = fingerprint(Host("here"))
    assert here == fingerprint(Host("elsewhere"))
    assert {"kernel", "python", "package torch", "packages", "memory", "cpu", "sysctl vm/swappiness"} <= set(here)
    firmware = tmp_path / "sys/class/infiniband/mlx5_0/fw_ver"
    firmware.parent.mkdir(parents=True)
    firmware.write_text("28.39\n")
    changed = fingerprint(Host("here", tmp_path))
    assert set(changed.items()) - set(here.items()) == {("port mlx5_0 fw_ver", "28.39")}
