"""An S3 server in this process: moto, with the faults that a test asks for in front of it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import unquote

from werkzeug.serving import WSGIRequestHandler, make_server

ERROR = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>no</Message></Error>'


class Quiet(WSGIRequestHandler):
    def log(self, *args: Any) -> None: ...


class S3Server:
    """A context manager. Names in the faults are ends of paths.

    Attributes:
        refuse: name → status of every answer to a GET of it.
        busy: name → how many times it is answered 503 first.
        cut: name → after how many bytes each of the first answers breaks off.
        spoil: names of which a byte is changed on its way.
        slow: seconds before every 64 KiB.
        gets: how often each path was asked for.
    """

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app

        self.refuse: dict[str, int] = {}
        self.busy: dict[str, int] = {}
        self.cut: dict[str, list[int]] = {}
        self.spoil: dict[str, int] = {}
        self.slow = 0.0
        self.gets: Counter[str] = Counter()
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs; nothing of the machine's own is left to find."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "testkey",
            "AWS_SECRET_ACCESS_KEY": "testsecret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }

    def heal(self) -> None:
        for faults in (self.refuse, self.busy, self.cut, self.spoil):
            faults.clear()
        self.slow = 0.0

    def __enter__(self) -> S3Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        path = unquote(environ["PATH_INFO"].encode("latin1").decode())
        if environ["REQUEST_METHOD"] != "GET":
            return self._app(environ, start)
        self.gets[path] += 1

        def of(faults: dict[str, Any]) -> str | None:
            return next((name for name in faults if path.endswith(name)), None)

        if name := of(self.refuse):
            return _error(start, self.refuse[name], "AccessDenied" if self.refuse[name] == 403 else "InternalError")
        if (name := of(self.busy)) and self.busy[name] > 0:
            self.busy[name] -= 1
            return _error(start, 503, "SlowDown")
        body = b"".join(self._app(environ, start))
        if (name := of(self.spoil)) and self.spoil[name] > 0:
            self.spoil[name] -= 1
            body = bytes([body[0] ^ 1]) + body[1:]
        name = of(self.cut)
        return self._sent(body, self.cut[name].pop(0) if name and self.cut[name] else None)

    def _sent(self, body: bytes, stop: int | None) -> Iterator[bytes]:
        for i in range(0, len(body) if stop is None else stop, 1 << 16):
            time.sleep(self.slow)
            yield body[i : i + (1 << 16)][: None if stop is None else stop - i]
        if stop is not None:
            raise ConnectionAbortedError


def forget_clients() -> None:
    """fsspec keeps clients with the credentials of their first use, and pools keep the environment of theirs."""
    from multiprocessing import forkserver

    import fsspec

    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def _error(start: Any, status: int, code: str) -> list[bytes]:
    body = ERROR.format(code=code).encode()
    start(f"{status} no", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]
