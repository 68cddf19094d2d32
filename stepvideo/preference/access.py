"""In front of a study: by which names it may be called, and who is asking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from stepvideo.errors import StepVideoError
from stepvideo.inference.serve.access import SAFE_METHODS, Access, is_local, place
from stepvideo.preference import tokens
from stepvideo.preference.store import Store

PER_S, BURST = 20.0, 100  # requests of one annotator
WRONG_PER_S, WRONG_BURST = 0.2, 20  # wrong tokens from one address


@dataclass(frozen=True)
class Names(Access):
    """The guard of a study: every request carries a token of its own person, so what is left to check is by which
    name a browser reached this server, and from whose page.

    Attributes:
        allowed: names in Host that are answered, besides this machine's own; those of a proxy in front.

    Raises:
        StepVideoError: other machines can reach the server, and no name is given.
    """

    allowed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not is_local(self.host) and not self.allowed:
            raise StepVideoError(
                f"--host {self.host} can be reached from other machines: say by which name with --as NAME"
            )

    def refusal(self, method: str, path: str, headers: Headers) -> tuple[int, str] | None:
        """Status and reason, or None if the request may pass."""
        host = headers.get("host", "")
        name = place(host).hostname or ""
        if not is_local(name) and name not in map(str.lower, self.allowed):
            return 403, f"Host {host!r} is not a name of this study's server; see --as"
        origin = headers.get("origin")
        if method not in SAFE_METHODS and origin is not None:
            if place(origin.partition("://")[2]).netloc.lower() != host.lower():
                return 403, f"requests from pages of {origin!r} are not taken"
        return None


class Doorman:
    """Tells who asks, by their token, and slows down who asks too often."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store, self._clock = store, clock
        self._rate, self._wrong = tokens.Rate(PER_S, BURST, clock), tokens.Rate(WRONG_PER_S, WRONG_BURST, clock)

    def annotator(self, request: Request) -> str:
        """The annotator's name. Raises HTTPException: 401, 403 or 429."""
        return self._person(request, tokens.ANNOTATOR)

    def admin(self, request: Request) -> str:
        return self._person(request, tokens.ADMIN)

    def _person(self, request: Request, role: str) -> str:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        found = None
        if scheme.lower() == "bearer" and token.strip():
            found = self._store.read(lambda c: tokens.whose(c, token.strip(), self._clock()))
        if found is None:  # a good token is never made to wait for the wrong ones of others at its address
            if wait := self._wrong.spend(request.client.host if request.client else ""):
                raise _slower(wait)
            raise HTTPException(401, "a token of this study is needed", {"www-authenticate": "Bearer"})
        name, own = found
        if own != role:
            raise HTTPException(403, f"this is for the {role}s of the study")
        if wait := self._rate.spend(name):
            raise _slower(wait)
        return name


def _slower(wait_s: float) -> HTTPException:
    return HTTPException(429, "too many requests", {"retry-after": str(max(1, round(wait_s)))})
