"""What HTTP itself could tell of a side, of an id that is another's, or of a model: methods, conditions, ranges,
errors, the work that a request makes, and what the owner's commands print while the study is open."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from answering import Scene, ballot, watch
from made_study import NAMES
from sqlalchemy import event
from starlette.websockets import WebSocketDisconnect

from stepvideo.cli import main

Scenes = Callable[..., Scene]
PLAIN: dict[str, Any] = {"practice": 0, "golds": 0, "alike": 0, "repeats": 0.0}
VALIDATORS = {"etag", "last-modified", "expires", "age", "set-cookie", "vary", "server", "content-disposition", "date"}


@pytest.fixture
def scene(scenes: Scenes) -> Scene:
    return scenes(2, votes=4, raters=2, **PLAIN)


def all_of(answer: Any) -> tuple[int, dict[str, str], bytes]:
    return answer.status_code, dict(answer.headers), answer.content


@contextmanager
def statements(scene: Scene) -> Iterator[list[str]]:
    """SQL that is run meanwhile, without its values."""
    said: list[str] = []

    def note(_c: Any, _k: Any, statement: str, *_: Any) -> None:
        said.append(statement)

    engine = scene.session.store._engine
    event.listen(engine, "before_cursor_execute", note)
    yield said
    event.remove(engine, "before_cursor_execute", note)


def test_no_method_and_no_condition_tells_sides_apart(scene: Scene) -> None:
    client = scene.client()
    left, right = (m["url"] for m in client.post("/api/next", json={}).json()["media"])
    absent = f"/api/media/{uuid.uuid4().hex}"
    for method in ("HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "POST", "TRACE"):
        found = [all_of(client.request(method, url)) for url in (left, right, absent)]
        assert found[0] == found[1] == found[2] and found[0][0] == 405, method
    conditions = (
        {"if-none-match": "*"},
        {"if-modified-since": "Fri, 01 Jan 2100 00:00:00 GMT"},
        {"if-match": '"x"'},
        {"if-unmodified-since": "Thu, 01 Jan 1970 00:00:00 GMT"},
        {"if-range": '"x"', "range": "bytes=0-1"},
        {"accept-encoding": "gzip, br"},
        {"origin": "https://evil.example"},
        {"referer": "https://evil.example/model"},
    )
    for headers in conditions:
        answers = [client.get(url, headers=headers) for url in (left, right)]
        assert [a.status_code for a in answers] == [200, 200], headers  # nothing is known of what a browser has
        assert answers[0].headers == answers[1].headers
        names = {n.lower() for n in answers[0].headers}
        assert not names & (VALIDATORS | {"content-encoding"}) and not [
            n for n in names if n.startswith("access-control")
        ]


def test_several_ranges_are_alike_and_are_not_watching(scene: Scene) -> None:
    client = scene.client()
    given = client.post("/api/next", json={}).json()
    sizes = []
    for m in given["media"]:
        answer = client.get(m["url"], headers={"range": "bytes=0-1,3-"})
        assert answer.status_code == 206
        sizes.append(len(answer.content))
        assert client.get(m["url"], headers={"range": "bytes=3-"}).status_code == 206
        break
    assert client.get(given["media"][1]["url"], headers={"range": "bytes=0-1,3-"}).status_code == 206
    scene.clock.now += 100
    assert client.post("/api/votes", json=ballot(scene, given)).status_code == 422  # the right one was sent in pieces


def test_ids_of_others_are_as_ids_of_nobody(scene: Scene) -> None:
    mine, other = scene.client("p0"), scene.client("p1")
    given = other.post("/api/next", json={}).json()
    done = mine.post("/api/next", json={}).json()
    watch(mine, scene, done)
    assert mine.post("/api/votes", json=ballot(scene, done)).status_code == 201
    foreign, absent, over = given["media"][0]["id"], uuid.uuid4().hex, done["media"][0]["id"]
    with statements(scene) as said:
        found = [all_of(mine.get(f"/api/media/{name}")) for name in (foreign, absent, over)]
    assert found[0] == found[1] == found[2] and found[0][0] == 404
    assert said[: len(said) // 3] * 3 == said  # nor does one take the database longer
    for path in ("votes", "skip"):
        body = ballot(scene, done) if path == "votes" else {"key": str(uuid.uuid4()), "reason": "x"}
        tried = []
        for name in (given["assignment"], absent):
            with statements(scene) as said:
                tried.append(all_of(mine.post(f"/api/{path}", json=body | {"assignment": name})))
            tried.append(list(said))
        assert tried[:2] == tried[2:] and tried[0][0] == 404


def test_both_sides_make_the_server_do_the_same(scene: Scene) -> None:
    client = scene.client()
    given = client.post("/api/next", json={}).json()
    work = []
    for m in given["media"]:
        with statements(scene) as said:
            assert client.get(m["url"]).status_code == 200
        work.append([s.replace("fetched_right", "fetched_left") for s in said])
    assert work[0] == work[1] and len(work[0]) > 2


def test_there_is_nothing_beside_the_pages(scene: Scene) -> None:
    client = scene.client()
    refusals = set()
    for path in ("/favicon.ico", "/robots.txt", "/.git/HEAD", "/votes.db", "/media/", "/exports/votes.csv", "/api/",
                 "/api/media/", "/api/votes.db", "/assets/", "/assets/guide.json",
                 "/assets/%2e%2e/server.py"):  # fmt: skip
        answer = client.get(path)
        assert answer.status_code in (404, 405), path
        refusals.add(answer.content)
        assert answer.headers["cache-control"] == "no-store" and answer.headers["x-content-type-options"] == "nosniff"
    assert len(refusals) <= 2
    for path in ("/", "/api/next", "/api/media/x"):
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(path):
            pass


def test_a_body_without_a_length_is_bounded_too(scene: Scene) -> None:
    client = scene.client()

    def pieces() -> Iterator[bytes]:
        yield b'{"assignment": "'
        for _ in range(70):
            yield b"0" * 1024
        yield b'"}'

    assert client.post("/api/votes", content=pieces()).status_code == 413
    assert client.get("/api/me").json()["done"] == 0


def test_a_key_is_of_one_answer(scene: Scene) -> None:
    client = scene.client()
    given = client.post("/api/next", json={}).json()
    watch(client, scene, given)
    said = ballot(scene, given)
    assert [client.post("/api/votes", json=said).status_code for _ in range(2)] == [201, 200]
    assert client.post("/api/votes", json=said | {"key": said["key"].upper()}).status_code == 200  # written otherwise
    other = client.post("/api/votes", json=said | {"answer": {"choice": "right"}})
    assert other.status_code == 409 and "stands" in other.json()["error"]  # not: taken


def test_the_owners_commands_are_blind_while_it_is_open(scenes: Scenes, capsys: pytest.CaptureFixture[str]) -> None:
    scene = scenes(2, votes=4, practice=1, raters=2)
    for name in ("p0", "p1"):
        client = scene.client(name)
        for _ in range(3):
            given = client.post("/api/next", json={}).json()
            watch(client, scene, given)
            assert client.post("/api/votes", json=ballot(scene, given)).status_code == 201
    folder = str(scene.folder)
    out = f"--out={folder}/out"
    commands = (["status", folder], ["report", folder, "--blind"], ["queue", folder],
                ["report", folder, "--blind", "--json"], ["export", folder, "--to=csv", out])  # fmt: skip
    capsys.readouterr()
    for words in commands:
        assert main(["study", *words]) == 0, words
        text = "".join(capsys.readouterr())
        assert text and not [n for n in NAMES if n in text], words
    for path in scene.folder.rglob("*"):
        if path.is_file() and path.name not in ("study.json", "export.key.json") and "media" not in path.parts:
            assert not [n for n in NAMES if n.encode() in path.read_bytes()], path
    for words in (["report", folder], ["pairs", folder, "--out", str(scene.folder / "p.jsonl")]):
        assert main(["study", *words]) == 2
        assert not [n for n in NAMES if n in "".join(capsys.readouterr())]
