"""A client of any OpenAI-compatible server (vLLM and others): one chat completion at a time, patiently.

    408, 425, 429, 5xx, lost connections, timeouts   tried again with exponential back-off; a Retry-After is honoured,
                                                     and holds back every other request too
    401, 403, 404, redirects                         nobody's clip is to blame: `StepVideoError` at once
    other 4xx                                        `Rejected`: the server does not want this request

The API key comes from an environment variable, goes into one header, and appears in no message of ours.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from stepvideo.curation.captioning.config import CaptionsRuntime
from stepvideo.errors import ConfigError, StepVideoError

AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
CONFIGURED_WRONG = frozenset({301, 302, 307, 308, 401, 403, 404, 405})


@dataclass(frozen=True)
class Reply:
    """What came back. Token counts are None where the server gives none."""

    text: str
    finish: str  # "stop", "length", "content_filter", …
    tokens_in: int | None
    tokens_out: int | None


class Rejected(Exception):
    """The server refuses this one request; another may do."""


class Unanswered(Exception):
    """All attempts failed; the request may do later."""


class ServerGone(StepVideoError):
    """Request after request failed: no use to go on."""


class Server:
    """Use as an async context manager. `complete` may be called by any number of tasks.

    Raises (when it is made):
        ConfigError: `runtime.url` is empty.
    """

    def __init__(self, runtime: CaptionsRuntime) -> None:
        if not runtime.url:
            raise ConfigError(
                "captions: model.name asks for a server and runtime.url is empty; nothing is sent without an address"
            )
        self._runtime = runtime
        self._key = os.environ.get(runtime.key_variable, "")
        self._chance = random.Random()  # spreads retries; results do not depend on it
        self._resume_at = 0.0  # monotonic clock; no request is sent before
        self._lost_in_a_row = 0
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=None,  # `complete` bounds the whole request
            limits=httpx.Limits(max_connections=runtime.in_flight),
            trust_env=False,  # pictures go to the address in the config, not by way of some proxy of the machine
        )

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def complete(self, body: Mapping[str, Any]) -> Reply:
        """POST `body` to /chat/completions until it is answered.

        Raises:
            Rejected: a 4xx for this request, or an answer that is no chat completion.
            Unanswered: every attempt failed.
            ServerGone: so did `give_up_after` requests in a row.
            StepVideoError: wrong address, model or key.
        """
        fault = ""
        for attempt in range(self._runtime.retries + 1):
            if attempt:
                await asyncio.sleep(self._backoff(attempt))
            while (wait := self._resume_at - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            try:
                async with asyncio.timeout(self._runtime.request_timeout_s):
                    response = await self._http.post(f"{self._runtime.url.rstrip('/')}/chat/completions", json=body)
            except TimeoutError:
                fault = f"a timeout after {self._runtime.request_timeout_s:g} s"
                continue
            except httpx.TransportError as e:
                fault = f"{type(e).__name__}: {e}".rstrip(": ")
                continue
            if response.status_code in AGAIN:
                fault = self._said(response)
                self._hold(response)
                continue
            self._lost_in_a_row = 0
            return self._reply(response)
        self._lost_in_a_row += 1
        message = f"{self._runtime.url}: no answer in {self._runtime.retries + 1} attempts, at last {fault}"
        if self._lost_in_a_row >= self._runtime.give_up_after:
            raise ServerGone(f"{message}; {self._lost_in_a_row} requests in a row. Start the server, then run it again")
        raise Unanswered(message)

    def _backoff(self, attempt: int) -> float:
        """Seconds before the n-th retry: doubling, ± half, so that tasks do not come back together."""
        return min(self._runtime.backoff_s * 2 ** (attempt - 1), self._runtime.max_wait_s) * self._chance.uniform(
            0.5, 1.5
        )

    def _hold(self, response: httpx.Response) -> None:
        wait = min(retry_after(response.headers.get("retry-after", "")), self._runtime.max_wait_s)
        self._resume_at = max(self._resume_at, time.monotonic() + wait)

    def _reply(self, response: httpx.Response) -> Reply:
        if response.status_code in CONFIGURED_WRONG:
            raise StepVideoError(
                f"{self._runtime.url} answers {self._said(response)}; check runtime.url (with its /v1), model.name, "
                f"and the key in ${self._runtime.key_variable}"
            )
        if not response.is_success:
            raise Rejected(self._said(response))
        try:
            body = response.json()
            choice = body["choices"][0]
            message = choice["message"]
            usage = body.get("usage") or {}
            return Reply(
                message.get("content") or message.get("refusal") or "",
                "refusal" if message.get("refusal") else str(choice.get("finish_reason") or "stop"),
                usage.get("prompt_tokens"),
                usage.get("completion_tokens"),
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as e:
            raise Rejected(f"no chat completion ({type(e).__name__}: {e})") from e

    def _said(self, response: httpx.Response) -> str:
        """Status and beginning of the body, without the key, which some servers repeat."""
        text = " ".join(response.text.split())[:300]
        return f"{response.status_code} {text.replace(self._key, '***') if self._key else text}".rstrip()


def retry_after(header: str) -> float:
    """Seconds that a Retry-After header asks for, given as a number or as a date; 0 without one that makes sense."""
    try:
        return max(float(header), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(header).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError):
        return 0.0
