"""Who may use the service, and what it answers to the rest."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `serve` extra")
from served import TOKEN, URL

from stepvideo.errors import StepVideoError
from stepvideo.inference.serve.access import Access, read_token


def test_a_token_is_asked_for_and_compared(start):
    server = start(Access("0.0.0.0", TOKEN))
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}, {"authorization": "Bearer ü"}):
        answer = server.post("x", {k: v.encode("latin-1") for k, v in headers.items()})  # type: ignore[misc]
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert TOKEN not in answer.text
    good = {"authorization": f"Bearer {TOKEN}", "host": "studio.example:8000"}
    job = server.post("x", good).json()
    for path in (job["links"]["self"], job["links"]["events"], "/v1/videos", "/v1/model", "/v1/openapi.json"):
        assert server.http.get(path).status_code == 401
        assert server.http.get(path, headers=good).status_code == 200
    for path in ("/", "/api.js", "/page.js", "/page.css", "/v1/health"):
        assert server.http.get(path).status_code == 200


def test_a_token_is_needed_beyond_this_machine(tmp_path):
    for host in ("0.0.0.0", "192.168.0.7", "::", "studio.example"):
        with pytest.raises(StepVideoError, match="needs a token"):
            Access(host)
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert read_token(file, {}) == TOKEN == read_token(None, {"STEPVIDEO_TOKEN": TOKEN})
    assert read_token(None, {}) == ""
    for content in ("", "short"):
        file.write_text(content)
        with pytest.raises(StepVideoError, match="16 are needed"):
            read_token(file, {"STEPVIDEO_TOKEN": TOKEN})
    for content in (f"{TOKEN}\n{TOKEN}", f"{TOKEN} {TOKEN}", "密码" * 10):
        file.write_text(content)
        with pytest.raises(StepVideoError, match="not one word of ASCII") as error:
            read_token(file, {})
        assert TOKEN not in str(error.value)
    with pytest.raises(StepVideoError, match="cannot be read"):
        read_token(tmp_path / "nothing", {})


def test_other_peoples_pages_get_nothing(start):
    """A rebound name sends itself as Host; a foreign page that posts sends its Origin."""
    server = start()
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[::1", ""):
        assert server.http.get("/v1/videos", headers={"host": host}).status_code == 403
    for host in ("127.0.0.1:8000", "127.0.0.2:8000", "localhost:1", "[::1]:8000"):
        assert server.http.get("/v1/videos", headers={"host": host}).status_code == 200
    for origin in ("https://evil.example", "null", "http://127.0.0.1:9999", "http://[", ""):
        assert server.post("x", {"origin": origin}).status_code == 403
        assert server.http.delete("/v1/videos/x", headers={"origin": origin}).status_code == 403
    assert server.post("x", {"origin": URL}).status_code == 202
    assert (
        server.http.post("/v1/videos", content=b'{"prompt": "x"}', headers={"content-type": "text/plain"}).status_code
        == 422
    )


def test_answers_tell_browsers_to_trust_nothing_else(start):
    answer = start().http.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert "http://" not in answer.text and "https://" not in answer.text


def test_an_unforeseen_error_is_an_error_with_the_same_headers(start, monkeypatch):
    server = start()
    monkeypatch.setattr(server.videos, "recent", lambda *_: 1 / 0)
    answer = server.http.get("/v1/videos")
    assert answer.status_code == 500 and "ZeroDivisionError" in answer.json()["error"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_body_that_stops_coming_is_given_up(start, monkeypatch):
    server = start()
    monkeypatch.setattr("stepvideo.inference.serve.access.SILENCE_S", 0.1)
    sent: list[dict[str, Any]] = []

    async def request() -> None:
        head = {"host": "127.0.0.1", "content-type": "application/json", "content-length": "100"}
        parts = [{"type": "http.request", "body": b'{"prompt":', "more_body": True}]

        async def receive() -> dict[str, Any]:
            return parts.pop() if parts else await asyncio.sleep(30, {"type": "http.disconnect"})

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "path": "/v1/videos", "raw_path": b"/v1/videos", "query_string": b"",
            "headers": [(k.encode(), v.encode()) for k, v in head.items()], "http_version": "1.1",
        }  # fmt: skip
        await server.app(scope, receive, send)

    asyncio.run(request())
    assert sent[0]["status"] == 408 and b"nothing of the body came" in sent[1]["body"]


def test_unknown_paths_answer_in_the_same_form(start):
    server = start()
    for path in ("/v1/nothing", "/v1/videos/..%2f..%2fetc%2fpasswd/file", "/page/../app.py"):
        answer = server.http.get(path)
        assert answer.status_code == 404 and answer.json()["error"]
    assert server.http.put("/v1/videos").status_code == 405
