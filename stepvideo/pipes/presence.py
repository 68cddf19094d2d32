"""A member's life in the registry: renewed every heartbeat by a thread, so that a slow registry holds no tensor up."""

from __future__ import annotations

import threading
from collections.abc import Callable

from stepvideo.pipes.errors import PipeError, Replaced
from stepvideo.pipes.member import Member, Registry


class Presence:
    """member: says who it is now, with metrics; see: is given all members of the pipe; replaced: another took the name.

    The registry may be away for any time: connections that exist go on, `failures` counts.
    """

    def __init__(
        self,
        registry: Registry,
        member: Callable[[], Member],
        see: Callable[[list[Member]], None] | None,
        replaced: Callable[[Replaced], None],
        every_s: float,
    ) -> None:
        self._registry, self._member, self._see, self._replaced = registry, member, see, replaced
        self._every_s = every_s
        self._ended = threading.Event()
        self.failures = 0
        self._beat()  # found as soon as it exists
        self._thread = threading.Thread(target=self._run, name="pipes-presence", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        member = self._member()
        try:
            self._registry.put(member)
            if self._see is not None:
                self._see(self._registry.members(member.pipe))
        except Replaced as e:
            self._ended.set()
            self._replaced(e)
        except (PipeError, OSError):
            self.failures += 1

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            self._beat()

    def close(self, last_words: Member | None = None) -> None:
        """Leave the registry; what is given stays there in the place of this member until its lease ends."""
        self._ended.set()
        self._thread.join()
        try:
            self._registry.put(last_words) if last_words else self._registry.drop(self._member())
        except (PipeError, OSError):
            self.failures += 1
