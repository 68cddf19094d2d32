"""The registry as a server, for nodes that share no folder: `stepvideo pipes registry`. One thread, state in memory.

If it dies the pipes go on; a new one at the same address knows everybody again after a heartbeat.
"""

from __future__ import annotations

import time
from typing import Any

from stepvideo.pipes import keys, wire
from stepvideo.pipes.config import PipeConfig
from stepvideo.pipes.errors import PipeError, Replaced, WireError
from stepvideo.pipes.member import Member, check_newest
from stepvideo.pipes.zmq_transport import ZmqTransport

MAX_MEMBERS = 100_000


class RegistryServer:
    """Listens at `config.bind`; `address` is where. Raises PipeError as a consumer does."""

    def __init__(self, config: PipeConfig) -> None:
        self._keys = keys.load(config)
        self._hub = ZmqTransport().listen(config, lambda _: None)
        self.address = self._hub.address
        self._known: dict[tuple[str, str, str, str], tuple[float, Member]] = {}  # with when the lease ends

    def serve(self, seconds: float = float("inf")) -> None:
        """Answer for so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for event in self._hub.receive(min(1.0, until - time.monotonic())):
                self._hub.send(event.peer, event.kind[:1] or wire.BYE, wire.encode(self._answer(event.body)))

    def close(self) -> None:
        self._hub.close()

    def _answer(self, body: bytes) -> dict[str, Any]:
        number: object = None
        try:
            message = wire.decode(body)
            number = message.get("number")
            if not self._keys.admits(message.get("token")):
                raise WireError("the token is wrong; give every member the file of keys of this registry")
            return {"number": number, "members": self._do(message)}
        except (PipeError, TypeError) as e:
            return {
                "number": number if type(number) is int else 0,
                "error": str(e),
                "replaced": isinstance(e, Replaced),
            }

    def _do(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        now = time.monotonic()
        self._known = {k: (ends, m) for k, (ends, m) in self._known.items() if ends > now}
        if "put" in message:
            member = Member.from_dict(message["put"])
            check_newest(self._of(member), member)
            if len(self._known) >= MAX_MEMBERS:
                raise PipeError(f"this registry has {MAX_MEMBERS} members")
            self._known[member.key] = (now + float(member.lease_s), member)
        elif "drop" in message:
            member = Member.from_dict(message["drop"])
            if (known := self._of(member)) is not None and known.instance == member.instance:
                del self._known[member.key]
        else:
            pipe = message.get("pipe")
            found = [m for _, m in self._known.values() if pipe in (None, m.pipe)]
            return [m.to_dict() for m in sorted(found, key=lambda m: (m.pipe, m.role, m.job, m.rank, m.name))]
        return []

    def _of(self, member: Member) -> Member | None:
        known = self._known.get(member.key)
        return known[1] if known else None
