"""What an annotator, or who knows this source, may try to learn or to count twice."""

from __future__ import annotations

import argparse
import json
import random
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from answering import Scene, ballot, watch
from made_study import session, study
from sqlalchemy import select
from starlette.testclient import TestClient

from stepvideo.errors import StepVideoError
from stepvideo.preference import exchange_command
from stepvideo.preference.access import Names
from stepvideo.preference.assign import Given, choose
from stepvideo.preference.exchange import key, plain
from stepvideo.preference.exchange.form import Answer
from stepvideo.preference.store import assignments

Scenes = Callable[..., Scene]
PLAIN: dict[str, Any] = {"practice": 0, "golds": 0, "alike": 0, "repeats": 0.0, "raters": 1}


def skip(client: TestClient, given: dict[str, Any]) -> int:
    body = {"assignment": given["assignment"], "key": str(uuid.uuid4()), "reason": "x"}
    return client.post("/api/skip", json=body).status_code


def taken(scene: Scene, name: str) -> dict[str, Any]:
    """An item that this annotator was given and has watched."""
    client = scene.client(name)
    given = client.post("/api/next", json={}).json()
    watch(client, scene, given)
    return given


def test_a_late_vote_on_a_filled_item_is_refused(scenes: Scenes) -> None:
    scene = scenes(2, votes=1, lease_s=60.0, **PLAIN)
    slow, quick = scene.client("p0"), scene.client("p1")
    first = taken(scene, "p0")
    scene.clock.now += 61
    second = taken(scene, "p1")
    assert slow.post("/api/votes", json=ballot(scene, first)).status_code == 409  # without asking for the next before
    assert quick.post("/api/votes", json=ballot(scene, second)).status_code == 201
    assert slow.post("/api/votes", json=ballot(scene, first)).status_code == 409


def test_a_late_vote_that_is_needed_is_taken(scenes: Scenes) -> None:
    scene = scenes(1, votes=1, lease_s=60.0, **PLAIN)
    given = taken(scene, "p0")
    scene.clock.now += 61
    assert scene.client().post("/api/votes", json=ballot(scene, given)).status_code == 201


def test_what_was_skipped_and_filled_is_not_opened_again(scenes: Scenes) -> None:
    scene = scenes(2, votes=1, **PLAIN)
    first, other = taken(scene, "p0"), scene.client("p1")
    assert skip(scene.client("p0"), first) == 201
    assert other.post("/api/votes", json=ballot(scene, taken(scene, "p1"))).status_code == 201
    assert scene.client("p0").post("/api/undo").status_code == 409
    assert scene.client("p0").post("/api/votes", json=ballot(scene, first)).status_code == 409


def test_sides_stay_balanced_through_skips_and_undoing(scenes: Scenes) -> None:
    scene, draw, undone = scenes(votes=9, **PLAIN), random.Random(0), 0
    client = scene.client()
    for _ in range(25):
        given = client.post("/api/next", json={}).json()
        if given.get("done"):
            break
        watch(client, scene, given)
        what = draw.choice(["vote", "skip", "undo"])
        if what == "vote":
            assert client.post("/api/votes", json=ballot(scene, given)).status_code == 201
        elif what == "skip":
            assert skip(client, given) == 201
        else:
            undone += client.post("/api/undo").status_code == 200
        rows = scene.session.store.read(lambda c: c.execute(select(assignments.c.left, assignments.c.state)).all())
        assert sum(r.state == "open" for r in rows) <= 1
        assert abs(sum((r.left == "a") - (r.left == "b") for r in rows if r.state in ("open", "voted"))) <= 1
    assert undone > 2


def test_counts_do_not_tell_checks_from_votes(scenes: Scenes) -> None:
    scene = scenes(votes=8, practice=0, golds=3, alike=3, raters=1, gold=0.2, aa=0.1)
    client, roles = scene.client(), []
    while True:
        before = client.get("/api/me").json()["remaining"]
        given = client.post("/api/next", json={}).json()
        assert (before == 0) == ("done" in given)
        if "done" in given:
            break
        assert client.get("/api/me").json()["remaining"] == before
        named = select(assignments.c.role).where(assignments.c.assignment == given["assignment"])
        roles.append(scene.session.store.read(lambda c, n=named: c.execute(n).scalar_one()))
        watch(client, scene, given)
        assert client.post("/api/votes", json=ballot(scene, given)).status_code == 201
    assert "vote" in roles and {"gold", "aa"} & set(roles)


def test_the_public_seed_tells_no_side_and_no_place_of_a_check() -> None:
    def course(secret: str) -> list[tuple[str, str]]:
        made, mine = study(votes=20, practice=0), []
        made = replace(made, secret=secret)
        for n in range(1, 21):
            c = choose(made, 1, mine, {}, "me")
            assert c is not None
            mine.append(Given(str(n), n, c.item.item, c.role, c.left, "voted", c.repeat_of))
        return [(g.role, g.left) for g in mine]

    one, other = course("11" * 32), course("22" * 32)
    assert one == course("11" * 32)
    assert [left for _, left in one] != [left for _, left in other]


def test_nobody_votes_twice_by_way_of_another_tool(tmp_path: Path) -> None:
    made = study(practice=0, golds=0, alike=0, repeats=0.25)
    found, _ = session(made, tmp_path, ["w"])
    given = found.next("w")
    for m in given["media"]:
        found.media("w", m["id"], lambda _: True)
    found.vote("w", given["assignment"], "k", {"choice": "left"}, [1.0, 1.0], 2.0)
    found.store.close()
    rows = key.entries(made, name="x")
    places = {(e.item, e.role): n for n, e in enumerate(rows)}
    again = [n for (item, role), n in places.items() if role == "repeat" and n > places[item, "vote"]]
    assert len(again) == 2 and again != [len(rows) - 2, len(rows) - 1]  # repeats are not told by their place
    key.save_key(tmp_path, "x", rows)
    args = argparse.Namespace(
        study=tmp_path, database="", answers=tmp_path / "x.csv", source="csv", name="x", simulated=False
    )

    def take(name: str) -> int:
        args.answers.write_text(plain.answered(key.tasks(made, rows), [Answer(e.task, name, "left") for e in rows]))
        return exchange_command._import(args)

    with pytest.raises(StepVideoError, match="'w' item i0000"):
        take("w")
    assert take("other") == take("other") == 0  # the same file again replaces the first


def test_a_refused_or_a_last_range_is_no_fetching(scenes: Scenes) -> None:
    scene = scenes(votes=1, **PLAIN)
    client = scene.client()
    given = client.post("/api/next", json={}).json()
    for asked in ("items=-", "bytes=-", "bytes=-1", "bytes=99999-", "bytes=0-1,-1"):
        for media in given["media"]:
            client.get(media["url"], headers={"range": asked})
        scene.clock.now += 100
        assert client.post("/api/votes", json=ballot(scene, given)).status_code == 422


def test_half_a_surrogate_pair_is_no_text(scenes: Scenes) -> None:
    scene = scenes(kind="label", votes=2, **PLAIN)
    given = taken(scene, "p0")
    body = ballot(scene, given)
    body = body | {"answer": {"labels": body["answer"]["labels"] | {"note": "\ud800"}}}
    sent = {"content": json.dumps(body), "headers": {"content-type": "application/json"}}
    assert scene.client().post("/api/votes", **sent).status_code == 422


def test_names_of_hosts_have_no_case() -> None:
    names = Names(allowed=("Study.Example",))
    assert names.refusal("GET", "/", {"host": "study.example"}) is None  # type: ignore[arg-type]
