"""Who may ask, and how much: tokens, the Host and Origin of browsers, sizes. Pure ASGI, in front of all routes."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stepvideo.errors import StepVideoError
from stepvideo.inference.remote.token import TOKEN_VARIABLE

MIN_TOKEN = 16  # characters
SILENCE_S = 60.0  # after which a body that is still to come is given up
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
API = Path(__file__).with_name("page") / "api.js"  # what pages need to ask, with a token if there is one
OPEN_PATHS = ("/", "/api.js", "/page.js", "/page.css", "/v1/health")  # hold nothing of anybody's
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


def read_token(file: Path | None, environment: Mapping[str, str] = os.environ) -> str:
    """The token from a file or from the environment; "" if there is none.

    Raises:
        StepVideoError: the file cannot be read, or the token cannot be sent or is too short to be secret.
    """
    token, source = environment.get(TOKEN_VARIABLE, "").strip(), TOKEN_VARIABLE
    if file is not None:
        source = str(file)
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as e:
            raise StepVideoError(f"--token-file {file} cannot be read: {e}") from e
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise StepVideoError(f"the token in {source} is not one word of ASCII characters, which no header can carry")
    if (file is not None or token) and len(token) < MIN_TOKEN:
        raise StepVideoError(
            f"the token in {source} has {len(token)} characters, {MIN_TOKEN} are needed; make one with: "
            "python3 -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token


def is_local(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Access:
    """Without a token, only this machine may ask, and only by its own name: a web page that rebinds its name to
    127.0.0.1 still sends that name as Host."""

    host: str = "127.0.0.1"
    token: str = ""

    def __post_init__(self) -> None:
        if not is_local(self.host) and not self.token:
            raise StepVideoError(
                f"--host {self.host} can be reached from other machines, so it needs a token: set {TOKEN_VARIABLE} or "
                "give --token-file FILE"
            )

    def refusal(self, method: str, path: str, headers: Headers) -> tuple[int, str] | None:
        """Status and reason, or None if the request may pass."""
        host = headers.get("host", "")
        if not self.token and not is_local(place(host).hostname or ""):
            return 403, f"Host {host!r} is not this machine; open http://127.0.0.1 with the server's port"
        origin = headers.get("origin")
        own = origin is None or place(origin.partition("://")[2]).netloc.lower() == host.lower()
        if method not in SAFE_METHODS and not own:
            return 403, f"requests from pages of {origin!r} are not taken"
        if self.token and path not in OPEN_PATHS:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.token.encode()):
                return 401, "a token is needed: send the header Authorization: Bearer TOKEN"
        return None


def place(host: str) -> SplitResult:
    try:
        return urlsplit(f"//{host}")
    except ValueError:
        return urlsplit("")


class Guard:
    """Applies `Access` and the limits of size, and adds the headers of safety to every answer.

    Args:
        sizes: path → bytes that a body there may have; "" for all others.
    """

    def __init__(self, app: ASGIApp, access: Access, sizes: Mapping[str, int]) -> None:
        self.app, self.access, self.sizes = app, access, sizes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close"})  # there are none here

        async def send_safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        if refusal := self.access.refusal(scope["method"], scope["path"], headers):
            status, reason = refusal
            more = {"www-authenticate": "Bearer"} if status == 401 else None
            return await JSONResponse({"error": reason}, status, more)(scope, receive, send_safe)
        limit = self.sizes.get(scope["path"], self.sizes[""])
        await self.app(scope, _bounded(receive, headers, limit), send_safe)


def _bounded(receive: Receive, headers: Headers, limit: int) -> Receive:
    """A `receive` that raises 413 for a body above `limit` bytes, whether its length was declared or not, and 408 for
    one that stops coming."""
    declared = headers.get("content-length", "")
    size, more = 0, True

    async def arrive() -> Message:
        nonlocal size, more
        try:
            message = await asyncio.wait_for(receive(), SILENCE_S if more else None)  # then it waits for the hang-up
        except TimeoutError:
            raise HTTPException(408, f"nothing of the body came for {SILENCE_S:g} s") from None
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
        return message

    async def bounded() -> Message:
        message = await arrive()
        if size > limit or (declared.isdecimal() and int(declared) > limit):
            # What is on its way is read and forgotten: a client that still sends would not see the answer.
            while more and size <= 2 * limit:
                await arrive()
            raise HTTPException(413, f"the body is larger than {limit} bytes, which is this server's limit")
        return message

    return bounded
