"""Films that are fetched before their item is shown: nobody may vote on them yet, and nothing else changes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from answering import Scene, ballot, watch
from sqlalchemy import select
from test_study_attacks import skip

from stepvideo.preference.store import assignments

Scenes = Callable[..., Scene]
PLAIN: dict[str, Any] = {"practice": 0, "golds": 0, "alike": 0, "repeats": 0.0}


def rows(scene: Scene) -> list[Any]:
    return list(scene.session.store.read(lambda c: c.execute(select(assignments)).all()))


def test_what_was_fetched_early_is_shown_next_and_must_be_watched_then(scenes: Scenes) -> None:
    scene = scenes(2, votes=4, raters=1, **PLAIN)
    client, other = scene.client("p0"), scene.client("p1")
    assert client.post("/api/ahead").json() == {"media": []}  # nothing is open
    first = client.post("/api/next", json={}).json()
    ahead = client.post("/api/ahead", json={}).json()
    assert set(ahead) == {"media"} and ahead == client.post("/api/ahead").json()
    assert not {m["id"] for m in ahead["media"]} & {m["id"] for m in first["media"]}
    assert [set(m) for m in ahead["media"]] == [{"id", "url"}] * 2
    assert [other.get(m["url"]).status_code for m in ahead["media"]] == [404, 404]
    assert [client.get(m["url"]).status_code for m in ahead["media"]] == [200, 200]
    assert client.post("/api/next", json={}).json() == first  # the open one stays the open one
    hidden = next(r for r in rows(scene) if r.state == "ahead")
    assert client.post("/api/votes", json=ballot(scene, first | {"assignment": hidden.assignment})).status_code == 409
    assert skip(client, {"assignment": hidden.assignment}) == 409
    watch(client, scene, first)
    scene.clock.now += 1000
    assert client.post("/api/votes", json=ballot(scene, first)).status_code == 201
    second = client.post("/api/next", json={}).json()
    assert second["media"] == ahead["media"] and second["number"] == 2
    assert client.post("/api/votes", json=ballot(scene, second)).status_code == 422  # fetched long ago, shown just now
    scene.clock.now += scene.session.study.length_s
    assert client.post("/api/votes", json=ballot(scene, second)).status_code == 201


def test_not_fetched_early_is_not_watched(scenes: Scenes) -> None:
    scene = scenes(votes=2, raters=1, **PLAIN)
    client = scene.client()
    watch(client, scene, first := client.post("/api/next", json={}).json())
    client.post("/api/ahead")
    assert client.post("/api/votes", json=ballot(scene, first)).status_code == 201
    second = client.post("/api/next", json={}).json()
    scene.clock.now += 100
    assert client.post("/api/votes", json=ballot(scene, second)).status_code == 422


def test_a_prepared_item_keeps_its_place_until_its_lease_ends(scenes: Scenes) -> None:
    scene = scenes(2, votes=2, raters=1, lease_s=60.0, **PLAIN)
    slow, quick = scene.client("p0"), scene.client("p1")
    first = slow.post("/api/next", json={}).json()
    ahead = slow.post("/api/ahead").json()["media"]
    assert quick.post("/api/next", json={}).json() == {"done": True}
    scene.clock.now += 61
    for _ in range(2):
        taken = quick.post("/api/next", json={}).json()
        watch(quick, scene, taken)
        assert quick.post("/api/votes", json=ballot(scene, taken)).status_code == 201
    assert slow.post("/api/votes", json=ballot(scene, first)).status_code in (409, 422)
    assert slow.post("/api/next", json={}).json() == {"done": True}
    assert slow.get(ahead[0]["url"]).status_code == 404
    assert sum(r.state == "voted" for r in rows(scene)) == 2


def test_sides_and_counts_are_as_without_it(scenes: Scenes) -> None:
    settings = {"votes": 7, "golds": 2, "alike": 2, "practice": 1, "raters": 1, "gold": 0.2, "aa": 0.1}
    with_it, without = scenes(**settings), scenes(**settings)
    plain, early = without.client(), with_it.client()
    while True:
        a, b = plain.post("/api/next", json={}).json(), early.post("/api/next", json={}).json()
        assert a.get("done") == b.get("done")
        if "done" in a:
            break
        before = early.get("/api/me").json()["remaining"]
        early.post("/api/ahead")
        assert early.get("/api/me").json()["remaining"] == before == plain.get("/api/me").json()["remaining"]
        assert (a["prompt"], a["number"], a["total"]) == (b["prompt"], b["number"], b["total"])
        for client, scene, given in ((plain, without, a), (early, with_it, b)):
            watch(client, scene, given)
            assert client.post("/api/votes", json=ballot(scene, given)).status_code == 201
    assert [(r.item, r.role, r.left) for r in rows(with_it)] == [(r.item, r.role, r.left) for r in rows(without)]


def test_sides_stay_balanced_whatever_becomes_of_the_open_one(scenes: Scenes) -> None:
    scene, draw, done = scenes(votes=16, raters=1, **PLAIN), random.Random(1), {"vote": 0, "skip": 0, "undo": 0}
    client = scene.client()
    for _ in range(24):
        given = client.post("/api/next", json={}).json()
        if given.get("done"):
            break
        watch(client, scene, given)
        for m in client.post("/api/ahead").json()["media"]:
            assert client.get(m["url"]).status_code == 200
        what = draw.choice(["vote", "vote", "skip", "undo"])
        if what == "vote":
            assert client.post("/api/votes", json=ballot(scene, given)).status_code == 201
        elif what == "skip":
            assert skip(client, given) == 201
        else:
            client.post("/api/undo")
        done[what] += 1
        found = rows(scene)
        assert sum(r.state == "open" for r in found) <= 1 and sum(r.state == "ahead" for r in found) <= 1
        assert what != "skip" or not any(r.state == "ahead" for r in found)
        stand = [r.left for r in found if r.state in ("open", "ahead", "voted")]
        assert abs(stand.count("a") - stand.count("b")) <= 1
    assert min(done.values()) > 1


def test_a_closed_study_prepares_nothing(scenes: Scenes) -> None:
    from stepvideo.preference.closing import close

    scene = scenes(votes=3, raters=1, **PLAIN)
    client = scene.client()
    client.post("/api/next", json={})
    assert client.post("/api/ahead").json()["media"]
    close(scene.session, scene.folder)
    assert client.post("/api/ahead").json() == {"media": []}
