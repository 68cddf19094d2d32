"""Strangers, wrong keys, forged headers, frames that are too large: refused, and the pipe goes on."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import zmq

from stepvideo.pipes import keys, wire
from stepvideo.pipes.config import MIB, PipeConfig
from stepvideo.pipes.consumer import Consumer
from stepvideo.pipes.errors import PipeError
from stepvideo.pipes.file_registry import FileRegistry
from stepvideo.pipes.keys import check_address
from stepvideo.pipes.producer import Producer

BEAT = 0.15
HELLO = {"pipe": "pipe", "producer": "evil", "epoch": 1, "instance": "9", "version": wire.VERSION, "frame_bytes": 4096}


@pytest.fixture
def keyfile(tmp_path: Path) -> Path:
    keys.create(tmp_path / "keys")
    return tmp_path / "keys"


def other_keys(folder: Path) -> Path:
    keys.create(folder / "other")
    return folder / "other"


class Stranger:
    """Somebody who speaks ZeroMQ to a consumer's port."""

    def __init__(self, address: str, public: bytes = b"", secret: bytes = b"", server: bytes = b"") -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger = self.socket.sndhwm = 0
        self.socket.reconnect_ivl = -1  # one stranger is one connection
        if public:
            self.socket.curve_publickey, self.socket.curve_secretkey = public, secret
            self.socket.curve_serverkey = server
        self.socket.connect(address)

    def say(self, *parts: bytes) -> None:
        with contextlib.suppress(zmq.Again):  # there is no connection any more
            self.socket.send_multipart(parts, zmq.NOBLOCK)

    def hear(self, timeout_s: float = 10.0) -> tuple[bytes, dict]:
        assert self.socket.poll(timeout_s * 1000), "no answer"
        kind, body = self.socket.recv_multipart()
        return kind, json.loads(body)

    def hears_nothing(self, timeout_s: float = 0.5) -> bool:
        return not self.socket.poll(timeout_s * 1000)

    def close(self) -> None:
        self._context.destroy(linger=0)


class Scene:
    """A consumer with a token on loopback, an honest producer, and strangers."""

    def __init__(self, folder: Path, keyfile: Path, encrypt: bool) -> None:
        self.config = PipeConfig(heartbeat_s=BEAT, frame_bytes=4096, keys=str(keyfile), encrypt=encrypt, crc=True)
        self.registry = FileRegistry(folder / "registry")
        self.consumer = Consumer(self.registry, "pipe", "job", 0, capacity_bytes=MIB, config=self.config)
        (member,) = self.registry.members()
        self.address, self.keys = member.address, keys.load(self.config)
        self._strangers: list[Stranger] = []

    def stranger(self, *curve: bytes) -> Stranger:
        self._strangers.append(Stranger(self.address, *curve))
        return self._strangers[-1]

    def insider(self) -> Stranger:
        """One with the token, and who said hello."""
        evil = self.stranger()
        evil.say(wire.HELLO, json.dumps({**HELLO, "token": self.keys.token}).encode())
        assert evil.hear()[0] == wire.WELCOME
        return evil

    def goes_on(self) -> None:
        with Producer(self.registry, "pipe", "good", config=self.config) as out:
            out.send({"x": torch.arange(3000)}, timeout=20)
            got = self.consumer.receive(timeout=20)
            assert got.producer == "good" and got.tensors["x"].tolist() == list(range(3000))
            self.consumer.ack(got)
            out.flush(20)

    def close(self) -> None:
        for s in self._strangers:
            s.close()
        self.consumer.close()


@pytest.fixture
def scene(tmp_path: Path, keyfile: Path) -> Iterator[Scene]:
    made = Scene(tmp_path, keyfile, encrypt=False)
    yield made
    made.close()


def header(seq: int = 0, nbytes: int = 100) -> bytes:
    return wire.Header(seq, (wire.TensorSpec("x", "uint8", (nbytes,)),), {}).encode()


def told(evil: Stranger, kind: bytes) -> dict:
    """The first answer of this kind."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found, message = evil.hear()
        if found == kind:
            return message
    raise AssertionError("it was not told")


@pytest.mark.parametrize(
    "parts",
    [
        (b"H", b"{}"),
        (b"H", json.dumps({**HELLO, "token": "guessed"}).encode()),
        (b"H", json.dumps({**HELLO, "token": None}).encode()),
        (b"H", b"\xff\x00 no json"),
        (b"D", b"x" * 4096),
        (b"O", header()),
        (b"",),
        (b"H",),
        (b"H", b"{}", b"more"),
        (b"D", b"x", b"y", b"z"),
    ],
)
def test_a_stranger_is_not_let_in(scene: Scene, parts: tuple[bytes, ...]) -> None:
    evil = scene.stranger()
    evil.say(*parts)
    assert evil.hear()[0] == wire.BYE
    evil.say(wire.HELLO, json.dumps({**HELLO, "token": scene.keys.token}).encode())
    assert evil.hears_nothing(), "this connection is over"
    assert scene.consumer.metrics()["refused"] == 1 and scene.consumer.metrics()["producers"] == 0
    scene.goes_on()


@pytest.mark.parametrize(
    "wrong",
    [{"pipe": "other"}, {"version": 99}, {"frame_bytes": 1 << 30}, {"epoch": "1"}, {"producer": 5}, {"instance": None}],
)
def test_a_hello_that_is_wrong(scene: Scene, wrong: dict) -> None:
    evil = scene.stranger()
    evil.say(wire.HELLO, json.dumps({**HELLO, "token": scene.keys.token, **wrong}).encode())
    assert evil.hear()[0] == wire.BYE
    scene.goes_on()


@pytest.mark.parametrize(
    "parts",
    [
        (wire.OFFER, header(nbytes=2 * MIB)),  # above the consumer's memory
        (wire.OFFER, b'{"seq":0,"tensors":[["x","float32",[1048576,1048576,1048576]]],"meta":{}}'),
        (wire.OFFER, b'{"seq":0}'),
        (wire.DATA, b"not asked for"),
        (wire.ACK, b'{"seqs":[1]}'),
        (wire.GRANT, b'{"seq":0}'),
        (wire.PING, b'{"floor":-1}'),
        (wire.PING, b'{"floor":1e9}'),
        (wire.REVOKE, b'{"seqs":"all"}'),
        (b"X", b"{}"),
    ],
)
def test_an_insider_who_forges_is_thrown_out(scene: Scene, parts: tuple[bytes, bytes]) -> None:
    evil = scene.insider()
    evil.say(*parts)
    told(evil, wire.BYE)
    state = scene.consumer.metrics()
    assert (state["refused"], state["producers"], state["used_bytes"], state["received"]) == (1, 0, 0, 0)
    scene.goes_on()


@pytest.mark.parametrize("frame", [b"x" * 99, b"x" * 101, b"x" * 4096, b""])
def test_a_frame_of_another_size_than_announced(scene: Scene, frame: bytes) -> None:
    evil = scene.insider()
    evil.say(wire.OFFER, header(nbytes=100))
    assert told(evil, wire.GRANT)["seq"] == 0
    evil.say(wire.DATA, frame)
    told(evil, wire.BYE)
    assert scene.consumer.metrics()["used_bytes"] == 0 and scene.consumer.metrics()["received"] == 0
    scene.goes_on()


def test_a_damaged_frame(scene: Scene) -> None:
    evil = scene.insider()
    evil.say(wire.OFFER, header(nbytes=100))
    told(evil, wire.GRANT)
    evil.say(wire.DATA + (123).to_bytes(4, "little"), b"x" * 100)
    assert "CRC" in told(evil, wire.BYE)["reason"]
    scene.goes_on()


def test_a_frame_above_the_limit_ends_its_connection_before_it_is_read(scene: Scene) -> None:
    evil = scene.insider()
    evil.say(wire.OFFER, header(nbytes=100))
    told(evil, wire.GRANT)
    evil.say(wire.DATA, b"x" * (8 * MIB))
    time.sleep(2.5 * BEAT)
    while not evil.hears_nothing(BEAT):
        evil.socket.recv_multipart()
    evil.say(wire.PING, b'{"floor":0}')
    assert evil.hears_nothing(), "ZeroMQ closed it: nothing is answered"
    scene.goes_on()


def test_offers_beyond_all_reason(scene: Scene) -> None:
    evil = scene.insider()
    for n in range(20_000):
        evil.say(wire.OFFER, header(n, MIB))
    assert "offers wait" in told(evil, wire.BYE)["reason"]
    scene.goes_on()


def test_bytes_that_are_no_zeromq(scene: Scene) -> None:
    host, _, port = scene.address.removeprefix("tcp://").rpartition(":")
    with socket.create_connection((host, int(port))) as s:
        s.sendall(b"GET / HTTP/1.1\r\n\r\n" + os.urandom(100_000))
    scene.goes_on()


def test_only_who_holds_the_secret_key_is_heard(tmp_path: Path, keyfile: Path) -> None:
    scene = Scene(tmp_path, keyfile, encrypt=True)
    ours = scene.keys
    their = keys.load(PipeConfig(keys=str(other_keys(tmp_path))))
    hello = json.dumps({**HELLO, "token": ours.token}).encode()  # even with the token
    plain = scene.stranger()
    wrong_server = scene.stranger(their.public, their.secret, their.public)
    wrong_client = scene.stranger(their.public, their.secret, ours.public)
    for evil in (plain, wrong_server, wrong_client):
        evil.say(wire.HELLO, hello)
        assert evil.hears_nothing()
    assert scene.consumer.metrics()["producers"] == 0
    scene.goes_on()
    config = PipeConfig(heartbeat_s=BEAT, keys=str(tmp_path / "other"))
    with (
        Producer(scene.registry, "pipe", "outsider", config=config) as out,
        pytest.raises(TimeoutError, match="no job"),
    ):
        out.send({"x": torch.ones(3)}, timeout=4 * BEAT)
    scene.close()


def test_a_producer_with_the_wrong_token_is_told(scene: Scene, tmp_path: Path) -> None:
    config = PipeConfig(heartbeat_s=BEAT, keys=str(other_keys(tmp_path)), encrypt=False)
    with (
        Producer(scene.registry, "pipe", "outsider", config=config) as out,
        pytest.raises(TimeoutError, match="the token is wrong"),
    ):
        out.send({"x": torch.ones(3)}, timeout=4 * BEAT)
    assert scene.consumer.metrics()["refused"] >= 1


@pytest.mark.parametrize("bind", ["tcp://0.0.0.0:0", "tcp://192.0.2.1:5555", "tcp://example.org:1", "tcp://*:0"])
def test_beyond_this_machine_there_are_keys_and_encryption(bind: str, tmp_path: Path, keyfile: Path) -> None:
    for config in (PipeConfig(bind=bind), PipeConfig(bind=bind, keys=str(keyfile), encrypt=False)):
        with pytest.raises(PipeError, match="keys"):
            Consumer(FileRegistry(tmp_path / "r"), "pipe", "job", 0, config=config)
    with pytest.raises(PipeError, match="keys"):
        check_address(bind.replace("*", "0.0.0.0"), PipeConfig(), keys.NO_KEYS)


@pytest.mark.parametrize("bind", ["ipc:///x", "127.0.0.1:0", "tcp://127.0.0.1", "tcp://127.0.0.1:x", ""])
def test_addresses_that_are_none(bind: str, tmp_path: Path) -> None:
    with pytest.raises(PipeError, match="no address"):
        Consumer(FileRegistry(tmp_path), "pipe", "job", 0, config=PipeConfig(bind=bind))


def test_keys_are_kept_from_others(tmp_path: Path, keyfile: Path) -> None:
    assert keyfile.stat().st_mode & 0o777 == 0o600
    with pytest.raises(PipeError, match="exists"):
        keys.create(keyfile)
    assert keys.load(PipeConfig(keys=str(keyfile))).admits(json.loads(keyfile.read_text())["token"])
    keyfile.chmod(0o640)
    with pytest.raises(PipeError, match="0640"):
        keys.load(PipeConfig(keys=str(keyfile)))
    for content in ("", "[]", '{"token": "x"}', '{"token": "", "public": "a", "secret": "b"}'):
        keyfile.write_text(content)
        keyfile.chmod(0o600)
        with pytest.raises(PipeError, match="keys"):
            keys.load(PipeConfig(keys=str(keyfile)))
    with pytest.raises(PipeError, match="cannot read"):
        keys.load(PipeConfig(keys=str(tmp_path / "absent")))
