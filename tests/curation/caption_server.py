"""A server that speaks OpenAI's chat completions as far as captions need it, and misbehaves as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]
USAGE = (1000, 101)  # tokens in and out of every answer


@dataclass
class Given:
    """What the server sends back; a text is wrapped as a chat completion."""

    text: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    delay_s: float = 0.0
    finish: str = "stop"
    usage: tuple[int, int] | None = USAGE


@dataclass
class Fake:
    """The running server and what it saw."""

    url: str
    bodies: list[Body] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    at_once: int = 0  # the most requests that were in work together
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)


def words(body: Body) -> str:
    """The instruction of a request; of a repair, its last message."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def pictures(body: Body) -> list[str]:
    return [p["image_url"]["url"] for p in body["messages"][0]["content"] if p["type"] == "image_url"]


def language(body: Body) -> str:
    return "zh" if "JSON 对象" in words(body) else "en"


def kinds(body: Body) -> list[str]:
    return body["response_format"]["json_schema"]["schema"]["required"]


def good(body: Body) -> Given:
    """A usable answer; its texts follow from the pictures, so that equal requests get equal answers."""
    mark = sum(map(ord, pictures(body)[0])) % 100000
    texts = {
        "zh": {
            "short": f"编号{mark}的球在滚动",
            "dense": f"编号{mark}的球在草地上慢慢滚动。" * 3,
            "title": f"球{mark}",
        },
        "en": {
            "short": f"ball {mark} rolls over grass",
            "dense": f"ball {mark} rolls slowly. " * 9,
            "title": f"Ball {mark}",
        },
    }[language(body)]
    return Given(json.dumps({k: texts[k] for k in kinds(body)}, ensure_ascii=False))


@contextmanager
def serve(answer: Callable[[Body], Given] = good) -> Iterator[Fake]:
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with fake._lock:
                fake.bodies.append(body)
                fake.headers.append(dict(self.headers))
                fake.times.append(time.monotonic())
                fake._now += 1
                fake.at_once = max(fake.at_once, fake._now)
            try:
                given = answer(body) if self.path == "/v1/chat/completions" else Given("", 404)
                closing.wait(given.delay_s)
            finally:
                with fake._lock:
                    fake._now -= 1
            self._send(given)

        def _send(self, given: Given) -> None:
            message = {"message": {"role": "assistant", "content": given.text}, "finish_reason": given.finish}
            usage = given.usage and {"usage": dict(zip(("prompt_tokens", "completion_tokens"), given.usage))}
            data = given.raw if given.raw is not None else json.dumps({"choices": [message], **(usage or {})}).encode()
            try:
                self.send_response(given.status)
                for name, value in {"content-length": str(len(data)), **given.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)
            except OSError:
                pass  # the client did not wait

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake = Fake(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
