"""Captions of many clips from a server: pictures made by a pool, requests by tasks, answers kept as they come.

An answer is a line of a journal, so a killed run asks again only what it had not heard yet. Every clip and language
gets one request, one more if its answer cannot be used (`reply.parse`), and an `Answer` in any case.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stepvideo.curation.captioning import frames, prompts, reply
from stepvideo.curation.captioning.client import Rejected, Server, Unanswered
from stepvideo.curation.captioning.config import CaptionsConfig
from stepvideo.curation.captioning.facts import Facts
from stepvideo.curation.pool import cores, run_chunks
from stepvideo.data.clips import Clip
from stepvideo.errors import Preempted
from stepvideo.sink import read_events

CHUNK = 4  # clips that a decoder takes at a time
GRACE_S = 20.0  # for requests on their way when the run is asked to stop
UNANSWERED = "unanswered"


@dataclass(frozen=True)
class Order:
    """What is wanted of a clip: language → kinds."""

    clip: Clip
    facts: Facts
    wanted: Mapping[str, Sequence[str]]


@dataclass
class Answer:
    """What came of one clip in one language: texts by kind, or the reason why there are none."""

    clip_id: str
    language: str
    texts: dict[str, str] = field(default_factory=dict)
    reason: str = ""  # unreadable, decoder_crash, decoder_timeout, rejected, refusal, schema, unanswered
    detail: str = ""
    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    @property
    def key(self) -> tuple[str, str]:
        return self.clip_id, self.language


class Journal:
    """Answers by (clip id, language), one JSON line each in a file. What a server left unanswered is not read back."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        found = (Answer(**record) for record in read_events(path)[0])
        self.answers = {a.key: a for a in found if a.reason != UNANSWERED}
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._file.write("\n")  # ends a line that a kill may have torn; readers skip it

    def add(self, answer: Answer) -> None:
        self._file.write(json.dumps(asdict(answer), ensure_ascii=False) + "\n")
        self.answers[answer.key] = answer

    def close(self) -> None:
        self._file.close()


def ask(
    orders: Sequence[Order],
    root: Path,
    config: CaptionsConfig,
    journal: Journal,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Have every order answered, in `journal`.

    Args:
        root: the catalog's directory.
        stop: asked now and then; True lets requests on their way end, and raises Preempted.
        progress: told (answers, total).

    Raises:
        ConfigError, ServerGone, StepVideoError: see `client.Server`. Answers that came before are kept.
    """
    left = [o for o in orders if any((o.clip.clip_id, lang) not in journal.answers for lang in o.wanted)]
    if not left:
        return
    ended = threading.Event()
    pictures = _pictures(left, root, config, ended.is_set)
    total = sum(len(o.wanted) for o in orders)
    by_id = {o.clip.clip_id: o for o in left}
    turn = asyncio.Lock()

    async def worker(server: Server) -> None:
        while not stop():
            async with turn:
                made = await asyncio.to_thread(next, pictures, None)
            if made is None:
                return
            order = by_id[made.clip_id]
            for language, kinds in order.wanted.items():
                if (made.clip_id, language) in journal.answers:
                    continue
                if stop():
                    return
                journal.add(await _answer(server, made, order.facts, kinds, language, config))
                progress(len(journal.answers), total)

    async def everything() -> None:
        try:
            async with Server(config.runtime) as server:
                count = min(config.runtime.in_flight, len(left))
                await _all([asyncio.create_task(worker(server)) for _ in range(count)], stop)
        finally:
            ended.set()  # before the loop waits for the thread that waits for pictures

    try:
        asyncio.run(everything())
    finally:
        ended.set()
        pictures.close()
    if stop():
        raise Preempted


async def _all(tasks: list[asyncio.Task], stop: Callable[[], bool]) -> None:
    """Wait for the tasks; the first that fails ends all. Once `stop()`, they have `GRACE_S` left."""
    pending, last = set(tasks), math.inf
    try:
        while pending and time.monotonic() < last:
            done, pending = await asyncio.wait(pending, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if last == math.inf and stop():
                last = time.monotonic() + GRACE_S
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


async def _answer(
    server: Server, made: frames.Pictures, facts: Facts, kinds: Sequence[str], language: str, config: CaptionsConfig
) -> Answer:
    answer = Answer(made.clip_id, language, reason=made.reason, detail=made.detail)
    if made.reason:
        return answer
    words = prompts.instruction(kinds, language, facts, len(made.urls), config.model.hints)
    chat = prompts.messages(made.urls, words)
    try:
        for _ in range(2):  # as asked, and once more told what was wrong
            came = await server.complete(_body(chat, kinds, config))
            answer.requests += 1
            answer.tokens_in += came.tokens_in or 0
            answer.tokens_out += came.tokens_out or 0
            texts, fault = reply.parse(came.text, kinds)
            declined = reply.refusal([*texts.values()] if texts else [came.text])
            if declined or came.finish in ("refusal", "content_filter"):
                answer.reason, answer.detail = "refusal", declined or came.finish
                return answer
            if came.finish == "length":
                texts, fault = {}, f"the answer was cut off after {config.model.max_tokens} tokens"
            if texts:
                answer.texts = texts
                return answer
            chat = prompts.repair(chat, came.text, fault, kinds, language)
        answer.reason, answer.detail = "schema", fault
    except Rejected as e:
        answer.reason, answer.detail = "rejected", str(e)
    except Unanswered as e:
        answer.reason, answer.detail = UNANSWERED, str(e)
    return answer


def _body(chat: list[dict[str, Any]], kinds: Sequence[str], config: CaptionsConfig) -> dict[str, Any]:
    model = config.model
    form = prompts.response_format(model.response_format, kinds)
    return {
        "model": model.name,
        "messages": chat,
        "temperature": model.temperature,
        "max_tokens": model.max_tokens,
        "seed": config.seed,
    } | ({"response_format": form} if form else {})


def _pictures(
    orders: Sequence[Order], root: Path, config: CaptionsConfig, stop: Callable[[], bool]
) -> Generator[frames.Pictures, None, None]:
    """The pictures of every order's clip, as decoders finish them. Nothing is decoded that nobody waits for."""
    clips = [o.clip for o in orders]
    chunks = [(i, clips[i : i + CHUNK]) for i in range(0, len(clips), CHUNK)]
    made = run_chunks(
        functools.partial(frames.work, root=root, config=config.model),
        chunks,
        on_failure=frames.lost,
        workers=min(config.runtime.workers or cores(), len(chunks)),
        timeout_s=config.health.file_timeout_s,
        memory_mb=config.health.memory_limit_mb,
        stop=stop,
    )
    for _, part in made:
        yield from part
