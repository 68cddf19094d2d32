"""Fifty annotators at once: no vote is lost, every item gets its raters, everybody's sides are balanced."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import httpx
import postgresql_server
import pytest
from answering import URL, Scene, ballot

from stepvideo.errors import StepVideoError
from stepvideo.evaluation.votes import read_votes
from stepvideo.preference.closing import close
from stepvideo.preference.store import Store

PEOPLE = 50


async def work(scene: Scene, name: str) -> list[str]:
    """Answer until nothing is left; the keys of the votes that were acknowledged."""
    transport = httpx.ASGITransport(scene.app)
    headers, keys = {"authorization": f"Bearer {scene.tokens[name]}"}, []

    async def sent(answer: httpx.Response, *codes: int) -> Any:
        assert answer.status_code in codes, answer.text
        return answer.json() if "json" in answer.headers["content-type"] else None

    async with httpx.AsyncClient(transport=transport, base_url=URL, headers=headers) as client:
        while not (given := await sent(await client.post("/api/next", json={}), 200)).get("done"):
            for media in given["media"]:
                await sent(await client.get(media["url"]), 200)
            body = ballot(scene, given)
            again = 1 + given["number"] % 2  # some are sent twice, at the same time
            codes = await asyncio.gather(*(client.post("/api/votes", json=body) for _ in range(again)))
            assert sorted(c.status_code for c in codes) == [200, 201][-again:]
            keys.append(body["key"])
    return keys


def test_fifty_at_once_lose_nothing(scenes) -> None:
    must_lose_nothing(scenes(PEOPLE, votes=12, golds=1, alike=1, raters=5, practice=0, must_watch=0.0))


@pytest.mark.soak
def test_postgresql_does_the_same(scenes, tmp_path: Path) -> None:
    with postgresql_server.running() as place:
        url = f"postgresql://{postgresql_server.USER}:{postgresql_server.PASSWORD}@{place}"
        scene = scenes(8, votes=6, golds=1, alike=1, raters=5, practice=0, must_watch=0.0, database=url)
        must_lose_nothing(scene)
        (tmp_path / "other").mkdir()
        with pytest.raises(StepVideoError, match="another study's"):
            Store(tmp_path / "other", "other", url)
        with pytest.raises(StepVideoError, match="cannot be opened") as told:
            Store(tmp_path / "other", "other", url.replace("secret", "wrong-word"))
        assert "wrong-word" not in str(told.value)
        scene.close()


def must_lose_nothing(scene: Scene) -> None:
    async def crowd() -> list[list[str]]:
        return await asyncio.gather(*(work(scene, name) for name in scene.tokens))

    keys = [key for keys in asyncio.run(crowd()) for key in keys]
    path = close(scene.session, scene.folder)
    assert path is not None
    votes = read_votes(path)
    assert len(votes.answers) == len(keys) == len(set(keys))
    raters: dict[str, set[str]] = defaultdict(set)
    lefts: dict[str, Counter[str]] = defaultdict(Counter)
    for vote in votes.answers:
        if vote.role in ("vote", "repeat"):
            lefts[vote.annotator][vote.shown_left] += 1
        if vote.role == "vote":
            raters[vote.item].add(vote.annotator)
    assert len(raters) == len(scene.session.study.by_role["vote"]) and all(len(names) == 5 for names in raters.values())
    assert all(abs(count["a"] - count["b"]) <= 1 for count in lefts.values())
    assert len(lefts) > len(scene.tokens) / 2  # many took part
