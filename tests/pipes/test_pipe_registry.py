"""Both registries: leases, names that are taken over, forgery, absence."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stepvideo.pipes import keys
from stepvideo.pipes.command import add_arguments
from stepvideo.pipes.config import PipeConfig
from stepvideo.pipes.errors import PipeError, Replaced
from stepvideo.pipes.file_registry import FileRegistry
from stepvideo.pipes.member import CONSUMER, PRODUCER, Member, Registry, new_instance
from stepvideo.pipes.presence import Presence
from stepvideo.pipes.registry import open_registry
from stepvideo.pipes.registry_server import RegistryServer


def member(name: str = "a", role: str = CONSUMER, **more) -> Member:
    return Member(**({"pipe": "pipe", "role": role, "name": name, "instance": new_instance(), "lease_s": 0.4} | more))


class Running:
    """A registry server in a thread."""

    def __init__(self, config: PipeConfig) -> None:
        self.server, self._stop = RegistryServer(config), threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stop.is_set():
            self.server.serve(0.05)
        self.server.close()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture(params=["folder", "server"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    if request.param == "folder":
        yield open_registry(str(tmp_path / "pipes"))
        return
    keys.create(tmp_path / "keys")
    config = PipeConfig(keys=str(tmp_path / "keys"))
    running = Running(config)
    client = open_registry(running.server.address, config)
    yield client
    client.close()
    running.close()


def test_members_are_found_by_pipe_while_their_lease_runs(registry: Registry) -> None:
    a, b, other = member("a", job="j", rank=1, metrics={"n": 1}), member("b", PRODUCER), member("c", pipe="other/πpe")
    for m in (a, b, other):
        registry.put(m)
    assert registry.members("pipe") == [a, b] and registry.members() == [other, a, b]
    end = time.monotonic() + 1.2
    while time.monotonic() < end:
        registry.put(renewed := replace(a, metrics={"n": 2}))
        time.sleep(0.1)
    assert registry.members() == [renewed], "the silent are gone"
    registry.drop(a)
    assert registry.members() == []


def test_a_later_life_takes_the_name_and_the_earlier_is_told(registry: Registry) -> None:
    first = member()
    registry.put(first)
    second = member()
    registry.put(second)
    with pytest.raises(Replaced, match="'a'"):
        registry.put(first)
    registry.drop(first)
    assert registry.members() == [second]


@pytest.mark.parametrize(
    "wrong",
    [
        *({"name": ""}, {"name": "x" * 200}, {"pipe": "a\nb"}, {"role": "king"}, {"rank": "0"}, {"instance": 7}),
        *({"lease_s": lease_s} for lease_s in ("soon", float("inf"), float("nan"), -1, None)),
        *({"policy": "never"}, {"address": None}, {"capacity_bytes": 1.5}),
    ],
)
def test_members_that_are_none(wrong: dict) -> None:
    with pytest.raises(PipeError, match="member|name"):
        member(**wrong)
    with pytest.raises(PipeError):
        Member.from_dict({**member().to_dict(), **wrong})
    with pytest.raises(PipeError):
        Member.from_dict(["no", "dict"])
    assert Member.from_dict({**member().to_dict(), "of_a_later_version": 1}).name == "a"


def test_a_member_that_is_none_ends_no_server(tmp_path: Path) -> None:
    running = Running(PipeConfig())
    client = open_registry(running.server.address)
    for wrong in ({"instance": []}, {"lease_s": "soon"}, {"lease_s": 1e9}):
        with pytest.raises(PipeError, match="member"):
            client._ask(put={**member().to_dict(), **wrong})  # type: ignore[attr-defined]
    assert client.members() == []
    client.close()
    running.close()


def test_files_of_others_are_passed_by_and_forgotten_ones_removed(tmp_path: Path) -> None:
    registry = FileRegistry(tmp_path)
    registry.put(old := member("old"))
    for content in ("", "{", "[]", json.dumps({"pipe": 1}), json.dumps({**old.to_dict(), "lease_s": "soon"})):
        (tmp_path / f"{len(content)}.json").write_text(content)
    (tmp_path / "strange").mkdir()
    assert registry.members() == [old]
    for path in tmp_path.glob("*.json"):
        os.utime(path, (0, 0))
    assert registry.members() == [] and not list(tmp_path.glob("*.json"))
    registry.close()
    assert not list(tmp_path.glob(".clock*"))


def test_a_clock_that_is_wrong_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = FileRegistry(tmp_path)
    registry.put(m := member())
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert registry.members() == [m]


def test_a_server_admits_who_has_its_keys(tmp_path: Path) -> None:
    for name in ("ours", "theirs"):
        keys.create(tmp_path / name)
    ours = PipeConfig(keys=str(tmp_path / "ours"), encrypt=False)
    running = Running(ours)
    address = running.server.address
    for wrong in (PipeConfig(keys=str(tmp_path / "theirs"), encrypt=False), PipeConfig()):
        with pytest.raises(PipeError, match="token"):
            open_registry(address, wrong).members()
    good = open_registry(address, ours)
    with pytest.raises(PipeError, match="name|member"):
        good._ask(put={"pipe": ""})  # type: ignore[attr-defined]
    assert good.members() == []
    running.close()


def test_presence_survives_a_registry_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepvideo.pipes.registry_client.PATIENCE_S", 0.2)
    running = Running(PipeConfig())
    address, me, seen = running.server.address, member(lease_s=5.0), []
    client = open_registry(address)
    presence = Presence(client, lambda: me, seen.append, pytest.fail, every_s=0.1)  # type: ignore[arg-type]
    assert seen == [[me]]
    running.close()
    end = time.monotonic() + 60
    while not presence.failures and time.monotonic() < end:
        time.sleep(0.02)
    assert presence.failures
    again = Running(PipeConfig(bind=address))
    other = open_registry(address)
    while not other.members() and time.monotonic() < end:
        time.sleep(0.05)
    assert other.members() == [me]
    presence.close()
    assert other.members() == []
    again.close()


def run(*arguments: str) -> int:
    import argparse

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(arguments)
    return args.call(args)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("keys", str(tmp_path / "keys")) == 0
    folder = str(tmp_path / "pipes")
    with pytest.raises(PipeError, match="no folder"):
        run("ls", folder)
    registry = FileRegistry(folder)
    flow = {"produced": 9, "acked": 7, "in_flight": 2, "dropped": 0, "discrepancy": 0, "acked_per_s": 3.5}
    registry.put(member("vae-0", PRODUCER, lease_s=60, metrics={"jobs": {"t2vi": {**flow, "blocked_s_per_s": 0.4}}}))
    registry.put(member("0", job="t2vi", lease_s=60, metrics={"starved_s_per_s": 0.0, "received_bytes_per_s": 2e6}))
    capsys.readouterr()
    assert run("ls", folder) == 0
    listed = capsys.readouterr().out
    assert "vae-0" in listed and "job t2vi rank 0" in listed
    assert run("top", folder, "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["acked"], row["lost"], row["verdict"]) == (7, 0, "producers wait for training")
    assert run("top", folder) == 0
    assert "producers wait for training" in capsys.readouterr().out
    assert run("ls", folder, "--pipe", "other") == 0
    assert "nobody" in capsys.readouterr().err
