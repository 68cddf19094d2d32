"""Nothing that a study sends tells whose a video is: a crawl of every page, header, file and byte of media.

The names are drawn anew each time and stand wherever a user's own names do: folders, files, tags of the mp4, rows of
the prompts, the study's own name.
"""

from __future__ import annotations

import json
import re
import string
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from answering import ANSWERS, URL, Clock
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from stepvideo.data.video_io import write_video
from stepvideo.preference import tokens
from stepvideo.preference.access import Names
from stepvideo.preference.build import create
from stepvideo.preference.config import StudyConfig
from stepvideo.preference.server import PAGES, create_app
from stepvideo.preference.session import Session
from stepvideo.preference.sources import from_folder, read_prompts
from stepvideo.preference.store import Store

LINK = re.compile(r"""(?:src|href|from|import)\s*[=(]?\s*["']([^"'#:]+)["']""")
NAME = st.text(string.ascii_letters, min_size=8, max_size=12).map("q7{}".format)  # no word of a page, such as language
SEED = st.integers(10**11, 10**12)
SECRETS = st.lists(NAME, min_size=5, max_size=5, unique_by=str.lower)


def sources(folder: Path, names: list[str], seed: int) -> Path:
    """Videos of two models for two prompts, with names in every place that a user fills."""
    one, other, prompt_id, category, extra = names
    lines = []
    for n in range(2):
        for model in (one, other):
            picture = np.random.default_rng(n).integers(0, 255, (6, 16, 16, 3)).astype(np.uint8)
            tags = {"title": model, "comment": f"seed={seed} {one}", "artist": other, "encoder": model}
            write_video(folder / model / f"{prompt_id}{n}-{seed}.mp4", picture, 8.0, metadata=tags)
        row = {"id": f"{prompt_id}{n}", "zh": f"第{n}个", "en": f"number {n}", "category": category, "note": extra}
        lines.append(json.dumps(row | {"model": one, "seed": seed}) + "\n")
    (folder / "prompts.jsonl").write_text("".join(lines))
    return folder / "prompts.jsonl"


def crawl(client: TestClient) -> Iterator[httpx.Response]:
    """Every page that links lead to, and every file of the pages' folder."""
    queue, seen = ["/", "/admin", *(f"/assets/{p.name}" for p in PAGES.iterdir())], set()
    while queue:
        path = queue.pop()
        if path in seen:
            continue
        seen.add(path)
        answer = client.get(path)
        yield answer
        if answer.status_code == 200:
            base = httpx.URL(path)
            queue += [str(base.join(link)) for link in LINK.findall(answer.text) if "//" not in link]


def answered(client: TestClient, clock: Clock, length_s: float, kind: str) -> Iterator[httpx.Response]:
    """Everything an annotator is sent from the first item to the last, mistakes too."""
    yield client.get("/api/study")
    while True:
        clock.now += 10
        yield (next_ := client.post("/api/next", json={}))
        given = next_.json()
        if given.get("done"):
            break
        for media in given["media"]:
            yield client.get(media["url"])
            yield client.get(media["url"], headers={"range": "bytes=0-99"})
            yield client.get(media["url"] + "0")
        clock.now += length_s
        body = {"assignment": given["assignment"], "key": str(uuid.uuid4()), "answer": ANSWERS[kind], "dwell_s": 1.0}
        yield client.post("/api/votes", json=body | {"watched": [], "key": "x"})
        yield (taken := client.post("/api/votes", json=body | {"watched": [length_s] * len(given["media"])}))
        assert taken.status_code == 201
    for path in ("/api/me", "/api/admin/progress", "/study.json", "/media/", "/nothing", "/api/media/x"):
        yield client.get(path)
    yield client.post("/api/undo")


def said(answer: httpx.Response) -> bytes:
    """All that went over the line, lower case: status line, headers, body."""
    headers = b"".join(k + b": " + v + b"\n" for k, v in answer.headers.raw)
    return (headers + answer.content).lower()


@settings(max_examples=2)
@given(names=SECRETS, seed=SEED, kind=st.sampled_from(["compare", "rate"]))
def test_a_crawl_finds_no_name_seed_path_or_side(tmp_path_factory, names: list[str], seed: int, kind: str) -> None:
    must_be_blind(tmp_path_factory.mktemp("blind"), names, seed, kind)


@pytest.mark.soak
@settings(max_examples=40)
@given(names=SECRETS, seed=SEED, kind=st.sampled_from(["compare", "rate", "prefer", "label"]))
def test_no_crawl_of_forty_finds_any(tmp_path_factory, names: list[str], seed: int, kind: str) -> None:
    must_be_blind(tmp_path_factory.mktemp("blind"), names, seed, kind)


def must_be_blind(folder: Path, names: list[str], seed: int, kind: str) -> None:
    prompts = read_prompts(sources(folder, names, seed))
    videos = [s for model in names[:2] for s in from_folder(model, folder / model, prompts)]
    study = create(folder / names[4], names[0], StudyConfig(kind=kind, practice=1, raters=1), videos)
    clock = Clock()
    session = Session(study, Store(folder / names[4], "x"), clock)
    people = {
        role: session.store.write(lambda c, r=role: tokens.add(c, r, 1.0, r, clock()))
        for role in ("annotator", "admin")
    }
    app = create_app(session, folder / names[4], Names())
    forbidden = [n.lower().encode() for n in [*names, str(seed), *folder.parts[-2:]]]
    forbidden += [i.item.encode() for i in study.items] + [study.secret.encode()]
    forbidden += [s.media.removesuffix(".mp4").encode() for i in study.items for s in (i.a, i.b) if s]
    sent: list[bytes] = []
    with TestClient(app, URL, raise_server_exceptions=False) as client:
        sent += [said(a) for a in crawl(client)]
        for role in people:
            client.headers["authorization"] = f"Bearer {people[role]}"
            clock.now += 100
            if role == "annotator":
                sent += [said(a) for a in answered(client, clock, study.length_s, kind)]
            sent += [said(client.get(p)) for p in ("/api/admin/progress", "/api/study", "/admin")]
    session.store.close()
    assert len(sent) > 20
    assert (folder / names[4]).stat().st_mode & 0o077 == 0  # nobody else on this machine can look
    for text in sent:
        assert not [f for f in forbidden if f in text]
    for text in sent:
        if text.find(b"application/json") >= 0 and b'"feedback"' not in text:
            assert not re.search(rb'"(a|b|left|truth|expected|role|model|item|seed|treatment|repeat_of)"\s*:', text)
