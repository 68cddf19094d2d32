"""A registry at the end of a connection."""

from __future__ import annotations

import threading
import time
from typing import Any

from stepvideo.pipes import keys, wire
from stepvideo.pipes.config import PipeConfig
from stepvideo.pipes.errors import PipeError, Replaced
from stepvideo.pipes.member import Member
from stepvideo.pipes.transport import Peer
from stepvideo.pipes.zmq_transport import ZmqTransport

PATIENCE_S = 2.0


class TcpRegistry:
    """`stepvideo pipes registry` at `address`. Every question has its own time limit, and a new connection after it."""

    def __init__(self, address: str, config: PipeConfig) -> None:
        self._address, self._token = address, keys.load(config).token
        self._hub = ZmqTransport().dial(config)
        self._peer: Peer | None = None
        self._number, self._lock = 0, threading.Lock()

    def put(self, member: Member) -> None:
        self._ask(put=member.to_dict())

    def drop(self, member: Member) -> None:
        self._ask(drop=member.to_dict())

    def members(self, pipe: str | None = None) -> list[Member]:
        return [Member.from_dict(raw) for raw in self._ask(pipe=pipe)]

    def close(self) -> None:
        self._hub.close()

    def _ask(self, **question: Any) -> list[dict[str, Any]]:
        with self._lock:
            self._number += 1
            if self._peer is None:
                self._peer = self._hub.connect(self._address)
            body = wire.encode({**question, "number": self._number, "token": self._token})
            self._hub.send(self._peer, wire.HELLO, body)
            until = time.monotonic() + PATIENCE_S
            while (left := until - time.monotonic()) > 0:
                for event in self._hub.receive(left):
                    answer = wire.decode(event.body)
                    if answer.get("number") == self._number:
                        return _checked(answer)
            self._hub.disconnect(self._peer)
            self._peer = None
        raise PipeError(f"the registry at {self._address} does not answer; start it with: stepvideo pipes registry")


def _checked(answer: dict[str, Any]) -> list[dict[str, Any]]:
    if "error" in answer:
        raise (Replaced if answer.get("replaced") else PipeError)(str(answer["error"])[:300])
    found = answer.get("members")
    if not isinstance(found, list):
        raise PipeError("the registry's answer has the wrong form")
    return found
