"""The API of a study: what it gives, what it refuses, and that nothing is lost or counted twice."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable

import pytest
from answering import ANSWERS, Scene, ballot, watch

from stepvideo.errors import StepVideoError
from stepvideo.evaluation.votes import read_votes
from stepvideo.preference import access, tokens
from stepvideo.preference.access import Names
from stepvideo.preference.closing import close
from stepvideo.preference.study import load, save

Scenes = Callable[..., Scene]


@pytest.fixture
def scene(scenes: Scenes) -> Scene:
    return scenes(2, practice=0, golds=0, alike=0, repeats=0.0, raters=2)


@pytest.mark.parametrize("kind", sorted(ANSWERS))
def test_a_study_is_answered_to_its_end_and_closed(scenes: Scenes, kind: str) -> None:
    scene = scenes(kind=kind, votes=4, practice=1, raters=1)
    client, seen = scene.client(), []
    about = client.get("/api/study").json()
    assert about["kind"] == kind and about["total"] == 4 and set(about["title"]) == {"zh", "en"}
    assert ("scales" in about, "questions" in about) == (kind == "rate", kind == "label")
    while not (given := client.post("/api/next", json={}).json()).get("done"):
        assert client.post("/api/next", json={}).json() == given  # until it is answered
        assert given["number"] == len(seen) + 1 <= given["total"]
        assert given["practice"] == (not seen)
        assert len(given["media"]) == (2 if kind in ("compare", "prefer") else 1)
        assert (given["fps"], given["frames"]) == (10.0, 5)
        watch(client, scene, given)
        assert client.post("/api/votes", json=ballot(scene, given)).status_code == 201
        seen.append(given["assignment"])
    assert len(set(seen)) == len(seen) >= 5
    assert client.get("/api/me").json()["done"] == len(seen)
    path = close(scene.session, scene.folder)
    assert client.post("/api/next", json={}).json() == {"done": True, "closed": True}
    assert (path is None) == (kind == "label")
    if path:
        votes = read_votes(path)
        assert len(votes.answers) == len(seen) and len(votes.counted()) == 4
        assert all(v.model_a or v.model for v in votes.answers)
        assert close(scene.session, scene.folder) == path and read_votes(path) == votes


def test_a_vote_sent_again_is_one_vote(scene: Scene) -> None:
    client = scene.client()
    given = client.post("/api/next", json={}).json()
    watch(client, scene, given)
    body = ballot(scene, given)
    first = client.post("/api/votes", json=body)
    again = client.post("/api/votes", json=body)
    assert (first.status_code, again.status_code) == (201, 200) and first.json() == again.json()
    assert client.post("/api/votes", json=body | {"key": str(uuid.uuid4())}).status_code == 409  # replayed
    other = client.post("/api/next", json={}).json()
    assert client.post("/api/votes", json=ballot(scene, other, key=body["key"])).status_code == 409
    assert client.get("/api/me").json()["done"] == 1


def test_a_vote_waits_for_both_videos_and_their_length(scene: Scene) -> None:
    client = scene.client()
    given = client.post("/api/next", json={}).json()
    scene.clock.now += 100

    def status(**other: object) -> int:
        return client.post("/api/votes", json=ballot(scene, given, **other)).status_code

    assert status() == 422
    left, right = (m["url"] for m in given["media"])
    client.get(left)
    client.get(right, headers={"range": "bytes=0-3"})  # not to the end
    scene.clock.now += 100
    assert status() == 422
    client.get(right, headers={"range": "bytes=4-"})
    assert status() == 422
    scene.clock.now += scene.session.study.length_s
    assert status(watched=[0.5, 0.1]) == 422 and status(watched=[0.5]) == 422
    assert status() == 201


@pytest.mark.parametrize(
    "change",
    [
        {"answer": {"choice": "a"}}, {"answer": {"choice": 1}}, {"answer": {}}, {"answer": {"scores": {}}},
        {"answer": {"choice": "left", "scores": {}}}, {"extra": 1}, {"key": "mine"}, {"assignment": "x"},
        {"dwell_s": -1}, {"dwell_s": "3"}, {"watched": [1, "1"]}, {"watched": [1e9, 1e9]}, {"watched": []},
    ],
    ids=str,
)  # fmt: skip
def test_another_form_is_refused(scene: Scene, change: dict) -> None:
    client = scene.client()
    given = client.post("/api/next", json={}).json()
    watch(client, scene, given)
    answer = client.post("/api/votes", json=ballot(scene, given, **change))
    assert answer.status_code == 422 and set(answer.json()) <= {"error", "fields"}
    assert client.get("/api/me").json()["done"] == 0


def test_what_is_not_mine_is_refused(scene: Scene) -> None:
    mine, other = scene.client("p0"), scene.client("p1")
    given = mine.post("/api/next", json={}).json()
    watch(mine, scene, given)
    assert other.get(given["media"][0]["url"]).status_code == 404
    assert other.post("/api/votes", json=ballot(scene, given)).status_code == 404
    assert other.post("/api/skip", json={"assignment": given["assignment"], "key": str(uuid.uuid4()), "reason": "x"}
                      ).status_code == 404  # fmt: skip
    assert mine.get(f"/api/media/{'0' * 32}").status_code == 404
    stored = scene.session.study.items[0].a.media
    assert mine.get(f"/api/media/{stored.removesuffix('.mp4')}").status_code == 404
    assert mine.get("/api/media/..%2Fstudy.json").status_code == 404
    assert mine.get("/api/admin/progress").status_code == 403
    assert mine.post("/api/votes", json=ballot(scene, given)).status_code == 201
    assert mine.get(given["media"][0]["url"]).status_code == 404  # it is not open any more


def test_tokens_end_and_are_kept_as_hashes(scene: Scene) -> None:
    client = scene.client()
    assert client.get("/api/me").status_code == 200
    for wrong in ("", "x", scene.tokens["p0"][:-1], scene.tokens["p0"].upper()):
        said = scene.client(token=wrong).get("/api/me")
        assert said.status_code == 401 and said.headers["www-authenticate"] == "Bearer"
    assert client.get("/api/me", headers={"authorization": scene.tokens["p0"]}).status_code == 401
    kept = b"".join(p.read_bytes() for p in scene.folder.glob("*") if p.is_file())
    assert scene.tokens["p0"].encode() not in kept
    renewed = scene.token("p0")
    assert client.get("/api/me").status_code == 401
    scene.session.store.write(lambda c: tokens.revoke(c, "p0"))
    assert scene.client(token=renewed).get("/api/me").status_code == 401
    scene.clock.now += 2 * 86400
    assert scene.client("p1").get("/api/me").status_code == 401
    admin = scene.client(token=scene.token("boss", tokens.ADMIN))
    assert admin.get("/api/admin/progress").status_code == 200 and admin.get("/api/me").status_code == 403
    for name, days in (("a b", 1.0), ("boss", 1.0), ("c", 0.0)):
        with pytest.raises(StepVideoError):
            scene.token(name, days=days)


def test_who_asks_too_often_waits(scenes: Scenes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "BURST", 10)
    scene = scenes(2)
    client = scene.client()
    assert [client.get("/api/me").status_code for _ in range(11)] == [200] * 10 + [429]
    assert int(client.get("/api/me").headers["retry-after"]) >= 1
    scene.clock.now += 1
    assert client.get("/api/me").status_code == 200
    wrong = scene.client(token="guess")
    assert [wrong.get("/api/me").status_code for _ in range(21)][-2:] == [401, 429]
    assert scene.client("p1").get("/api/me").status_code == 200  # from the same address, with a good token


def test_other_pages_and_other_names_are_refused(scene: Scene) -> None:
    client = scene.client()
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9", "https://127.0.0.1.evil.example"):
        assert client.post("/api/next", json={}, headers={"origin": origin}).status_code == 403
    assert client.post("/api/next", json={}, headers={"origin": "http://127.0.0.1:8020"}).status_code == 200
    assert client.get("/api/study", headers={"host": "study.evil.example"}).status_code == 403
    assert client.post("/api/next", content=b"{" + b" " * (1 << 16) + b"}").status_code == 413
    assert client.post("/api/votes", content=b"{", headers={"content-type": "application/json"}).status_code == 400
    assert client.post("/api/undo", json={"x": 1}).status_code == 422
    assert client.get("/openapi.json").status_code == client.get("/docs").status_code == 404
    assert client.get("/study.json").status_code == client.get("/assets/..%2f..%2fstudy.json").status_code == 404
    with pytest.raises(StepVideoError, match="--as"):
        Names("0.0.0.0")
    assert Names("0.0.0.0", allowed=("study.example",)).host == "0.0.0.0"


def test_undo_and_skip(scene: Scene) -> None:
    client = scene.client()
    assert client.post("/api/undo").status_code == 409
    first = client.post("/api/next", json={}).json()
    watch(client, scene, first)
    client.post("/api/votes", json=ballot(scene, first))
    second = client.post("/api/next", json={}).json()
    assert client.post("/api/undo").json() == client.post("/api/undo", json={}).json()
    again = client.post("/api/next", json={}).json()
    assert (again["assignment"], again["media"]) == (first["assignment"], first["media"])
    watch(client, scene, again)
    changed = ballot(scene, again, answer={"choice": "both_bad"})
    assert client.post("/api/votes", json=changed).status_code == 201
    assert client.post("/api/votes", json=ballot(scene, second)).status_code == 409  # it was released
    second = client.post("/api/next", json={}).json()
    assert (again["number"], second["number"]) == (1, 2)  # what was released is not counted
    skip = {"assignment": second["assignment"], "key": str(uuid.uuid4()), "reason": "broken video: 黑屏"}
    assert [client.post("/api/skip", json=skip).status_code for _ in range(2)] == [201, 200]
    assert client.post("/api/skip", json=skip | {"key": str(uuid.uuid4()), "reason": ""}).status_code == 422
    path = close(scene.session, scene.folder)
    assert path is not None
    votes = read_votes(path)
    assert [(v.outcome, v.note) for v in votes.answers] == [(0, "both bad")]
    assert [v.skipped for v in votes.skipped] == [skip["reason"]]
    for refused in (client.post("/api/undo"), client.post("/api/votes", json=ballot(scene, second))):
        assert refused.status_code == 409 and "closed" in refused.json()["error"]
    assert client.post("/api/votes", json=changed).status_code == 200  # it was taken before


def test_a_lease_that_ended_gives_the_item_to_others(scenes: Scenes) -> None:
    scene = scenes(2, votes=1, practice=0, raters=1, lease_s=60.0, golds=0, alike=0, repeats=0.0)
    slow, quick = scene.client("p0"), scene.client("p1")
    given = slow.post("/api/next", json={}).json()
    assert quick.post("/api/next", json={}).json() == {"done": True}
    scene.clock.now += 61
    taken = quick.post("/api/next", json={}).json()
    watch(quick, scene, taken)
    assert quick.post("/api/votes", json=ballot(scene, taken)).status_code == 201
    assert slow.post("/api/next", json={}).json() == {"done": True}
    assert slow.post("/api/votes", json=ballot(scene, given)).status_code == 409
    assert scene.client("p0").get("/api/me").json()["done"] == 0


def test_both_sides_are_sent_alike(scene: Scene) -> None:
    client = scene.client()
    given = client.post("/api/next", json={}).json()
    for headers in ({}, {"range": "bytes=1-5"}, {"range": "bytes=-3"}, {"range": "bytes=99999-"}):
        left, right = (client.get(m["url"], headers=headers) for m in given["media"])
        assert (left.status_code, left.headers) == (right.status_code, right.headers)
        names = {n.lower() for n in left.headers}
        assert not names & {"etag", "last-modified", "content-disposition", "server", "set-cookie"}
    whole = client.get(given["media"][0]["url"])
    assert whole.headers["accept-ranges"] == "bytes" and whole.headers["content-type"] == "video/mp4"
    for name, value in {"cache-control": "no-store", "referrer-policy": "no-referrer",
                        "x-content-type-options": "nosniff"}.items():  # fmt: skip
        assert whole.headers[name] == client.get("/").headers[name] == client.get("/api/x").headers[name] == value
    assert "default-src 'none'" in client.get("/").headers["content-security-policy"]


def test_rules_that_were_changed_afterwards_are_refused(scene: Scene) -> None:
    save(scene.session.study, scene.folder)
    assert load(scene.folder) == scene.session.study
    said = json.loads((scene.folder / "study.json").read_text())
    said["config"]["rules"]["gold_right"] = 0.6
    (scene.folder / "study.json").write_text(json.dumps(said))
    with pytest.raises(StepVideoError, match="rules"):
        load(scene.folder)


def test_a_failure_names_no_file(scene: Scene) -> None:
    client = scene.client()
    given = client.post("/api/next", json={}).json()
    for item in scene.session.study.items:
        (scene.folder / "media" / item.a.media).unlink()
    codes = [client.get(m["url"]) for m in given["media"]]
    failed = [c for c in codes if c.status_code == 500]
    assert failed and all(str(scene.folder) not in c.text and ".mp4" not in c.text for c in failed)
