"""What cannot be forged, leaked, run or changed after the fact around a study."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from answering import Scene, ballot, watch
from made_study import NAMES, SECRET, session, study
from starlette.testclient import TestClient

from stepvideo.errors import StepVideoError
from stepvideo.evaluation import csv_cells
from stepvideo.evaluation.votes import read_votes, write_votes
from stepvideo.preference import build, command, exchange_command, private, rules, tokens
from stepvideo.preference.adjudicate import Decision
from stepvideo.preference.closing import close
from stepvideo.preference.config import StudyConfig
from stepvideo.preference.exchange import key, plain
from stepvideo.preference.exchange.form import Answer, Task
from stepvideo.preference.pairs_table import pairs, write_pairs
from stepvideo.preference.report import report
from stepvideo.preference.report_page import html
from stepvideo.preference.session import Session
from stepvideo.preference.sources import Source
from stepvideo.preference.study import FILE, load
from stepvideo.preference.table import vote_rows
from stepvideo.training.pairs_votes import read_votes as read_pairs

Scenes = Callable[..., Scene]
PLAIN: dict[str, Any] = {"practice": 0, "golds": 0, "alike": 0, "repeats": 0.0, "raters": 1}


def test_either_model_may_be_side_a() -> None:
    config = StudyConfig(kind="compare")
    sources = [Source(m, Path(f"{m}/{n}.mp4"), f"p{n}", f"p{n:03d}", {"en": "x"}) for n in range(64) for m in NAMES]
    made = [list(build._votes(config, sources, 1, build._Namer(s))) for s in (SECRET, SECRET, "22" * 32)]
    first = [[i.a.model for i in items] for items in made]
    assert 16 < first[0].count(NAMES[0]) < 48
    assert first[0] == first[1] != first[2]
    assert all(i.b and {i.a.model, i.b.model} == set(NAMES) for items in made for i in items)


def test_decisions_count_for_the_model_whichever_side_it_was(tmp_path: Path) -> None:
    made = study(votes=4, **{k: v for k, v in PLAIN.items() if k != "raters"}, raters=1)
    turned = [replace(i, a=i.b, b=i.a) if n % 2 else i for n, i in enumerate(made.items) if i.b]
    made = replace(made, items=tuple(turned))
    found, _ = session(made, tmp_path, ["w"])
    while not (given := found.next("w")).get("done"):
        for m in given["media"]:
            found.media("w", m["id"], lambda _: True)
        row = [r for r in found.study.items if given["prompt"] == r.prompt][0]
        left = found.store.read(lambda c, a=given["assignment"]: _left(c, a))
        better = "a" if row.a.model == NAMES[0] else "b"
        choice = "left" if left == better else "right"
        found.vote("w", given["assignment"], given["assignment"], {"choice": choice}, [9.0, 9.0], 2.0)
    close(found, tmp_path)
    said = report(found, tmp_path).results
    assert said is not None
    ((names, score),) = said.decided.items()
    assert (score.wins, score.losses) == ((4, 0) if names == NAMES else (0, 4))


def _left(connection: Any, assignment: str) -> str:
    from sqlalchemy import select

    from stepvideo.preference.store import assignments

    return connection.execute(select(assignments.c.left).where(assignments.c.assignment == assignment)).scalar_one()


@pytest.mark.parametrize(("proxies", "trusted"), [([], False), (["127.0.0.1"], True), (["10.0.0.9"], False)])
def test_a_forwarded_address_is_believed_from_a_named_proxy_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxies: list[str], trusted: bool
) -> None:
    session(study(votes=1, **PLAIN), tmp_path)[0].store.close()
    seen: list[uvicorn.Config] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, _: seen.append(self.config))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    parser = argparse.ArgumentParser()
    command._serve_arguments(parser)
    told = [w for p in proxies for w in ("--proxy", p)]
    assert command._serve(parser.parse_args([str(tmp_path), "--port", "0", *told])) == 0
    (config,) = seen
    config.load()
    asked: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["client"][0])

    layers: Any = config.loaded_app
    if config.proxy_headers:
        layers.app = app  # the outermost layer is the one that believes headers
    scope = {
        "type": "http",
        "scheme": "http",
        "client": ("127.0.0.1", 9),
        "headers": [(b"x-forwarded-for", b"6.6.6.6")],
    }
    import asyncio

    if config.proxy_headers:
        asyncio.run(layers(scope, None, None))
        assert asked == ["6.6.6.6" if trusted else "127.0.0.1"]
    else:
        assert not proxies and not trusted


def test_cells_that_a_spreadsheet_would_run_are_text_and_come_back(tmp_path: Path) -> None:
    bad = ["=HYPERLINK(1)", "+1+cmd", "-2+3", "@SUM(1)", "\tx", "'=already", "＝1", "=1\n=2"]
    for text in bad:
        assert csv_cells.safe(text)[0] == "'" and csv_cells.plain(csv_cells.safe(text)) == text
    for text in ("-1", "+1.5", "plain", "'quoted'", "", "1e5", -1, None):
        assert csv_cells.safe(text) == text and (text is None or csv_cells.plain(str(text)) == str(text))
    made = study(votes=2, **PLAIN)
    found, _ = session(made, tmp_path, ["w"])
    given = found.next("w")
    found.skip("w", given["assignment"], "k", "=cmd|' /C calc'!A0")
    rows = vote_rows(found, tmp_path)
    write_votes(tmp_path / "v.csv", rows)
    cells = [c for line in csv.reader(io.StringIO((tmp_path / "v.csv").read_text())) for c in line]
    assert "'=cmd|' /C calc'!A0" in cells and not any(c.startswith(("=", "+", "@")) for c in cells)
    assert read_votes(tmp_path / "v.csv").skipped[0].skipped == "=cmd|' /C calc'!A0"
    task = Task("t", ("l.mp4", "r.mp4"), {"en": "=1+1"})
    assert "'=1+1" in plain.tasks([task])
    (tmp_path / "a.csv").write_text(plain.answered([task], [Answer("t", "w", "left", skipped="@x")]), encoding="utf-8")
    assert plain.read(tmp_path / "a.csv")[0].skipped == "@x"


def test_rules_cannot_be_rewritten_with_their_digest(scenes: Scenes, tmp_path: Path) -> None:
    scene = scenes(votes=1, **PLAIN)
    folder, digest = scene.folder, scene.session.study.rules_sha256
    assert scene.client().get("/api/study").json()["rules"] == digest
    said = json.loads((folder / FILE).read_text())
    said["config"]["rules"]["gold_right"] = 0.1
    other = load_rules(said)
    said["rules_sha256"] = other
    (folder / FILE).write_text(json.dumps(said))
    changed = load(folder)  # agrees with itself …
    with pytest.raises(StepVideoError, match=f"{digest[:12]}.*{other[:12]}"):  # … but not with the votes' database
        Session(changed, scene.session.store)


def load_rules(said: dict[str, Any]) -> str:
    return rules.digest(rules.Rules(**said["config"]["rules"]))


def test_the_report_states_the_whole_digest_and_who_is_simulated(scenes: Scenes) -> None:
    scene = scenes(votes=1, simulated=True, **PLAIN)
    given = scene.client().post("/api/next", json={}).json()
    watch(scene.client(), scene, given)
    assert scene.client().post("/api/votes", json=ballot(scene, given)).status_code == 201
    page = html(report(scene.session, scene.folder, blind=True))
    assert scene.session.study.rules_sha256 in page and "SIMULATED ANNOTATORS" in page


def test_a_closed_study_takes_no_files_of_votes(tmp_path: Path) -> None:
    made = study(votes=2, **PLAIN)
    found, _ = session(made, tmp_path)
    rows = key.entries(made, name="x")
    key.save_key(tmp_path, "x", rows)
    assert (tmp_path / "exports" / "x.key.json").stat().st_mode & 0o777 == 0o600
    answers = tmp_path / "x.csv"
    answers.write_text(plain.answered(key.tasks(made, rows), [Answer(e.task, "w", "left") for e in rows]), "utf-8")
    args = argparse.Namespace(study=tmp_path, database="", answers=answers, source="csv", name="x", simulated=False)
    assert exchange_command._import(args) == 0
    close(found, tmp_path)
    before = vote_rows(found, tmp_path, blind=False)
    assert len(before) == 2
    with pytest.raises(StepVideoError, match="closed"):
        exchange_command._import(args)
    imported = tmp_path / "imported" / "x.jsonl"
    kept = imported.read_bytes()
    (imported.parent / "more.jsonl").write_bytes(kept.replace(b'"w"', b'"v"'))
    with pytest.raises(StepVideoError, match=r"more\.jsonl.*closed"):
        vote_rows(found, tmp_path)
    (imported.parent / "more.jsonl").unlink()
    imported.write_bytes(kept.replace(b'"outcome": 1', b'"outcome": 0'))
    with pytest.raises(StepVideoError, match=r"x\.jsonl.*closed"):
        report(found, tmp_path)
    imported.write_bytes(kept)
    assert vote_rows(found, tmp_path, blind=False) == before


def test_private_files_are_never_readable_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    replace_file = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (modes.append(Path(a).stat().st_mode & 0o777), replace_file(a, b)))
    before = os.umask(0)
    try:
        private.write_json(tmp_path / "new" / "study.json", {"secret": 1})
        (tmp_path / "new" / "study.json").chmod(0o644)  # an older one with wider permissions is replaced
        private.write_json(tmp_path / "new" / "study.json", {"secret": 2})
    finally:
        os.umask(before)
    assert modes == [0o600, 0o600]
    assert (tmp_path / "new" / "study.json").stat().st_mode & 0o777 == 0o600
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["study.json"]


def test_ranges_are_answered_as_http_says(scenes: Scenes) -> None:
    scene = scenes(votes=1, **PLAIN)
    client = scene.client()
    url = client.post("/api/next", json={}).json()["media"][0]["url"]
    whole = client.get(url).content
    size = len(whole)
    assert size == len("0001a.mp4")
    for asked, part in (
        ("8-", slice(8, None)),
        ("0-3", slice(0, 4)),
        ("-3", slice(-3, None)),
        ("2-999", slice(2, None)),
        ("-999", slice(None)),
    ):
        answer = client.get(url, headers={"range": f"bytes={asked}"})
        start, stop, _ = part.indices(size)
        assert (answer.status_code, answer.content) == (206, whole[part]), asked
        assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
        assert answer.headers["content-length"] == str(stop - start)
    for asked in (f"{size}-", "99999-", "-0"):
        answer = client.get(url, headers={"range": f"bytes={asked}"})
        assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{size}"), asked


def test_an_admin_closes_a_study_by_a_word(scenes: Scenes) -> None:
    scene = scenes(votes=1, **PLAIN)
    admin = scene.client(token=scene.token("boss", tokens.ADMIN))

    def ask(client: TestClient, **body: Any) -> int:
        return client.post("/api/admin/close", json=body).status_code

    assert ask(scene.client(), confirm="close") == 403
    assert ask(admin) == ask(admin, confirm="yes") == ask(admin, confirm="close", more=1) == 422
    assert not admin.get("/api/admin/progress").json()["closed"]
    assert ask(admin, confirm="close") == ask(admin, confirm="close") == 200
    assert admin.get("/api/admin/progress").json()["closed"]
    assert scene.client().post("/api/next", json={}).json() == {"done": True, "closed": True}
    assert (scene.folder / "exports" / "votes.csv").exists()


def test_ties_stay_in_the_table_and_dpo_passes_over_them(tmp_path: Path) -> None:
    made = study("prefer", votes=3, **PLAIN)
    items = made.by_role["vote"]
    decided = [
        Decision(items[0].item, 1, "majority", (), ""),
        Decision(items[1].item, 0, "majority", (), ""),
        Decision(items[2].item, None, "undecided", (), ""),
    ]
    rows, left_out = pairs(made, decided)
    assert left_out == {"ties": 1, "undecided": 1}
    assert [r.get("outcome") for r in rows] == [None, "tie"] and "winner" not in rows[1]
    assert len(rows[1]["samples"]) == 2 and rows[1]["prompt"]
    texts = ["a", "b"]
    table = [{"winner": "p0000-0", "loser": "p0000-1", "prompt": "a", "votes": [1]}, rows[1]]
    write_pairs(tmp_path / "p.jsonl", table)
    assert [n for n, _ in read_pairs(tmp_path / "p.jsonl", texts, 2)] == [0]
    write_pairs(tmp_path / "p.jsonl", [rows[1]])
    with pytest.raises(StepVideoError, match="ties"):
        read_pairs(tmp_path / "p.jsonl", texts, 2)
