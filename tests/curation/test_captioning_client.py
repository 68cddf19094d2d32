"""The client against a real server on this machine that misbehaves in every way servers do."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate

import pytest
from caption_server import Given, serve

from stepvideo.curation.captioning.client import Rejected, Reply, Server, ServerGone, Unanswered, retry_after
from stepvideo.curation.captioning.config import CaptionsRuntime
from stepvideo.errors import ConfigError, StepVideoError


def runtime(url: str, **options: object) -> CaptionsRuntime:
    return CaptionsRuntime(url=url, **({"backoff_s": 0.01, "retries": 3, "request_timeout_s": 60.0} | options))  # type: ignore


def complete(config: CaptionsRuntime) -> Reply:
    async def go() -> Reply:
        async with Server(config) as server:
            return await server.complete({"n": 0})

    return asyncio.run(go())


def test_an_answer_with_its_tokens() -> None:
    with serve(lambda _: Given("héllo 圆 🎈", usage=(7, 3))) as fake:
        assert complete(runtime(fake.url + "/")) == Reply("héllo 圆 🎈", "stop", 7, 3)
    assert fake.bodies == [{"n": 0}] and "Authorization" not in fake.headers[0]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_faults_of_the_server_are_tried_again(status: int) -> None:
    answers = iter([Given(status=status)] * 2)
    with serve(lambda _: next(answers, Given("at last"))) as fake:
        assert complete(runtime(fake.url)).text == "at last"
    assert len(fake.bodies) == 3


def test_a_request_that_hangs_is_tried_again() -> None:
    answers = iter([Given("late", delay_s=60)])
    with serve(lambda _: next(answers, Given("at last"))) as fake:
        assert complete(runtime(fake.url, request_timeout_s=1.0, retries=9)).text == "at last"
    assert len(fake.bodies) >= 2


def test_backing_off_doubles_the_wait() -> None:
    with serve(lambda _: Given(status=500)) as fake, pytest.raises(Unanswered, match="4 attempts, at last 500"):
        complete(runtime(fake.url, backoff_s=0.1))
    waits = [b - a for a, b in zip(fake.times, fake.times[1:])]
    assert len(waits) == 3 and all(wait >= 0.05 * 2**i for i, wait in enumerate(waits))


def test_a_retry_after_holds_back_every_request() -> None:
    first = iter([Given(status=429, headers={"Retry-After": "0.7"})])

    async def go(url: str) -> None:
        async with Server(runtime(url)) as server:
            one = asyncio.create_task(server.complete({}))
            while not server._resume_at:
                await asyncio.sleep(0.01)
            assert [r.text for r in await asyncio.gather(one, server.complete({}), server.complete({}))] == ["ok"] * 3

    with serve(lambda _: next(first, Given("ok"))) as fake:
        asyncio.run(go(fake.url))
    assert len(fake.times) == 4 and all(t - fake.times[0] >= 0.7 for t in fake.times[1:])


def test_retry_after_as_seconds_date_or_nonsense() -> None:
    assert retry_after("2.5") == 2.5
    assert 8 < retry_after(formatdate(time.time() + 10, usegmt=True)) <= 10
    assert [retry_after(h) for h in ("", "soon", "-3", formatdate(time.time() - 100, usegmt=True))] == [0.0] * 4


def test_a_server_that_is_gone_ends_the_run() -> None:
    config = runtime("http://127.0.0.1:9", retries=0, give_up_after=3)

    async def go() -> None:
        async with Server(config) as server:
            for _ in range(2):
                with pytest.raises(Unanswered):
                    await server.complete({})
            await server.complete({})

    with pytest.raises(ServerGone, match="3 requests in a row.*run it again"):
        asyncio.run(go())


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_the_server_does_not_want_is_not_repeated(status: int) -> None:
    with serve(lambda _: Given(status=status, raw=b"too many pictures")) as fake:
        with pytest.raises(Rejected, match=f"{status} too many pictures"):
            complete(runtime(fake.url))
    assert len(fake.bodies) == 1


@pytest.mark.parametrize("raw", [b"", b"<html>", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{"message": null}]}'])
def test_what_is_no_chat_completion_is_rejected(raw: bytes) -> None:
    with serve(lambda _: Given(raw=raw)) as fake, pytest.raises(Rejected, match="no chat completion"):
        complete(runtime(fake.url))


def test_the_key_comes_from_the_environment_and_is_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPVIDEO_VLM_KEY", "sk-secret")
    with serve(lambda _: Given(status=401, raw=b"no such key: sk-secret")) as fake:
        with pytest.raises(StepVideoError, match=r"401 no such key: \*\*\*.*\$STEPVIDEO_VLM_KEY") as caught:
            complete(runtime(fake.url))
    assert "sk-secret" not in str(caught.value)
    assert fake.headers[0]["Authorization"] == "Bearer sk-secret" and len(fake.bodies) == 1


def test_no_address_no_server() -> None:
    with pytest.raises(ConfigError, match="runtime.url is empty"):
        Server(CaptionsRuntime())


def test_proxies_of_the_machine_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    with serve(lambda _: Given("direct")) as fake:
        assert complete(runtime(fake.url)).text == "direct"
