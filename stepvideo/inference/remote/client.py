"""Clients of `stepvideo serve`; standard library only.

    video = Client("http://127.0.0.1:8000").generate("一个红色的圆向右移动", seed=7)[0]

Whatever goes wrong is a StepVideoError with the server's own words.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stepvideo.errors import StepVideoError

UNREACHABLE = "is `stepvideo serve` running there?"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The service never redirects; following one would hand the token to somebody else."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Connection:
    """Requests to one server.

    Args:
        url: for example http://127.0.0.1:8000
        token: what the server was started with, if it has one. It travels as it is: beyond this machine use a tunnel
            or an https proxy.
        timeout_s: of silence, before a request is given up.
    """

    def __init__(self, url: str, token: str = "", timeout_s: float = 60.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise StepVideoError(f"{url!r} is no address of a server; give one like http://127.0.0.1:8000")
        if not (token.isascii() and token.isprintable()):  # it would be shown in the error of the header
            raise StepVideoError("the token holds other than ASCII characters, which no header can carry")
        self.url, self.timeout_s = url.rstrip("/"), timeout_s
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)

    @contextmanager
    def open(
        self, method: str, path: str, body: bytes | None = None, kind: str = "", **headers: str
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer to a request, while its body is still to be read."""
        sent = {**self._headers, **headers, **({"Content-Type": kind} if kind else {})}
        where = f"{method} {self.url}{path}"
        try:
            request = urllib.request.Request(self.url + path, body, sent, method=method)
            with self._opener.open(request, timeout=self.timeout_s) as answer:
                yield answer
        except urllib.error.HTTPError as e:
            raise StepVideoError(f"{where}: {_reason(e)}") from None
        except TimeoutError:
            raise StepVideoError(f"{where}: no answer within {self.timeout_s:g} s") from None
        except urllib.error.URLError as e:
            if isinstance(e.reason, TimeoutError):
                raise StepVideoError(f"{where}: no answer within {self.timeout_s:g} s") from None
            if isinstance(e.reason, (BrokenPipeError, ConnectionResetError)):
                size = f"a body of {len(body or b'')} bytes"
                raise StepVideoError(f"{where}: the server hung up on {size}; GET /v1/model tells its limits") from None
            raise StepVideoError(f"{where}: {e.reason}; {UNREACHABLE}") from None
        except ValueError as e:  # an address or a header that HTTP cannot spell
            raise StepVideoError(f"{where}: {e}") from None
        except (http.client.HTTPException, OSError) as e:
            raise StepVideoError(f"{where}: the connection broke ({type(e).__name__}: {e}); {UNREACHABLE}") from None

    def bytes(self, method: str, path: str, body: bytes | None = None, kind: str = "", **headers: str) -> bytes:
        with self.open(method, path, body, kind, **headers) as answer:
            return answer.read()

    def json(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        data = None if body is None else json.dumps(body).encode()
        answer = self.bytes(method, path, data, "application/json" if data else "", **headers)
        try:
            return json.loads(answer)
        except ValueError:
            raise StepVideoError(f"{method} {self.url}{path}: the answer is not JSON; {UNREACHABLE}") from None


def _reason(error: urllib.error.HTTPError) -> str:
    text = error.read(1 << 16).decode(errors="replace")
    try:
        return f"{json.loads(text)['error']} ({error.code})"
    except (ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason} {text[:200]}"


class Client:
    """Videos from a server. Arguments: see `Connection`."""

    def __init__(self, url: str, token: str = "", timeout_s: float = 60.0) -> None:
        self.connection = Connection(url, token, timeout_s)

    def model(self) -> dict[str, Any]:
        """What is served: model, defaults, limits."""
        return self.connection.json("GET", "/v1/model")

    def submit(self, prompt: str, key: str = "", **settings: Any) -> dict[str, Any]:
        """Queue a request; returns its view, with `id`.

        Args:
            key: idempotency key: sent twice, it is one request.
            settings: fields of a request, see `stepvideo.inference.serve.schema.VideoRequest`.
        """
        headers = {"Idempotency-Key": key} if key else {}
        return self.connection.json("POST", "/v1/videos", {"prompt": prompt, **settings}, **headers)

    def status(self, id: str) -> dict[str, Any]:
        return self.connection.json("GET", f"/v1/videos/{id}")

    def cancel(self, id: str) -> dict[str, Any]:
        return self.connection.json("DELETE", f"/v1/videos/{id}")

    def history(self, limit: int = 50) -> list[dict[str, Any]]:
        return self.connection.json("GET", f"/v1/videos?limit={limit}")["videos"]

    def events(self, id: str) -> Iterator[dict[str, Any]]:
        """The view of a request at every change, up to its end."""
        with self.connection.open("GET", f"/v1/videos/{id}/events") as answer:
            for line in answer:
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])

    def download(self, id: str, index: int = 0) -> bytes:
        return self.connection.bytes("GET", f"/v1/videos/{id}/file?index={index}")

    def generate(
        self, prompt: str, on_progress: Callable[[dict[str, Any]], None] | None = None, key: str = "", **settings: Any
    ) -> list[bytes]:
        """Ask for videos and wait for them; the mp4 (PNG for a still) files' bytes.

        Args:
            on_progress: called with the request's view at every change.

        Raises:
            StepVideoError: refused, failed, cancelled, or the server is gone.
        """
        job = self.submit(prompt, key, **settings)
        for view in self.events(job["id"]):
            job = view
            if on_progress is not None:
                on_progress(view)
        if job["state"] != "done":
            reason = job["error"] or ("cancelled" if job["state"] == "cancelled" else "the server stopped meanwhile")
            raise StepVideoError(f"{self.connection.url}: video {job['id']}: {reason}")
        return [self.download(job["id"], i) for i in range(len(job["links"]["files"]))]

    def save(self, path: Path, prompt: str, **settings: Any) -> None:
        """`generate` one video into a file."""
        from stepvideo.storage import write_atomic

        write_atomic(path, self.generate(prompt, **settings)[0])
