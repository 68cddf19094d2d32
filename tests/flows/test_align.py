"""Preference training that waits for people: a study a judged stage, taken up again, and votes that go on into DPO."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from flows.align import Asked, align, is_closed
from flows.compose import compose
from stepvideo.data.video_io import read_video, write_video
from stepvideo.errors import ConfigError
from stepvideo.preference import tokens
from stepvideo.preference.closing import close
from stepvideo.preference.session import Session
from stepvideo.preference.simulated import Annotator
from stepvideo.preference.simulated_client import Direct, take_part
from stepvideo.preference.store import Store
from stepvideo.preference.study import load

SIMULATED = ["simulated=true", "raters=1", "gold=0", "aa=0", "repeats=0", "practice=0", "must_watch=0"]


class Interrupted(Exception):
    pass


def brightness(_prompt, film: bytes) -> float:
    path = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(".")
    file = path / f"align-{time.monotonic_ns()}.mp4"
    try:
        file.write_bytes(film)
        return float(read_video(file).mean()) / 255
    finally:
        file.unlink()


def people_vote(folder: Path) -> None:
    study = load(folder)
    session = Session(study, Store(folder, study.opaque("database")))
    session.store.write(lambda c: tokens.add(c, "made", 1.0, tokens.ANNOTATOR, time.time()))
    person = Annotator("made", noise=0.0, tie=0.05, flip=0.0)
    assert take_part(Direct(session, folder, "made"), person, brightness) == 4
    close(session, folder)
    session.store.close()


def test_studies_are_made_waited_for_and_their_votes_go_on(tmp_path: Path) -> None:
    ran: list[tuple[str | None, list[str]]] = []
    waited: list[str] = []
    key = ["first"]

    def run(overrides: list[str], until: str | None):
        """What the stage makes with save_videos: of every prompt but the last sample 1 is the bright one."""
        ran.append((until, overrides[1:]))
        made = tmp_path / "made"
        if until in ("pairs", "fresh.2") and not made.exists():
            (made / "videos").mkdir(parents=True)
            for n in range(4):
                for k in range(2):
                    frames = np.full((9, 32, 32, 3), 40 + (150 if n < 3 else 4) * k, np.uint8)
                    write_video(made / "videos" / f"p{n:04d}-{k}.mp4", frames, 25)
            rows = [{"id": f"p{n:04d}", "zh": f"第{n}个", "category": "made"} for n in range(4)]
            (made / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        return [{"stage": until or "turbo", "path": str(made), "key": key[0]}]

    def wait(name: str, folder: Path) -> None:
        assert not is_closed(folder)
        waited.append(name)
        if waited == ["pairs"]:
            raise Interrupted  # the driver is killed while people are at it
        people_vote(folder)

    asked = Asked(["profile=smoke", "on_policy_rounds=2"], str(tmp_path / "studies"), "", SIMULATED)
    with pytest.raises(Interrupted):
        align(asked, run, wait, print)
    said: list[str] = []
    rows = align(Asked([*asked.overrides], asked.studies, "", SIMULATED), run, wait, said.append)
    assert rows[-1]["stage"] == "turbo" and waited == ["pairs", "pairs", "fresh.2"]
    votes = [f"only.{n}.runtime.votes={tmp_path}/studies/{n}.jsonl" for n in ("pairs", "fresh.2")]
    rounds = "on_policy_rounds=2"
    assert ran[:1] * 2 == ran[:2] and ran[1:] == [
        ("pairs", [rounds, "only.pairs.save_videos=true"]),
        ("fresh.2", [rounds, votes[0], "only.fresh.2.save_videos=true"]),
        (None, [rounds, *votes]),
    ]
    told = "3 preferences; no preference: 1 ties, 0 undecided, not trained on"
    assert [line for line in said if "preferences" in line] == [f"pairs: {told}", f"fresh.2: {told}"]
    *found, tie = (json.loads(line) for line in (tmp_path / "studies" / "pairs.jsonl").read_text().splitlines())
    assert tie["outcome"] == "tie" and sorted(tie["samples"]) == ["p0003-0", "p0003-1"]  # sides are drawn
    assert [(r["winner"], r["loser"]) for r in found] == [(f"p{n:04d}-1", f"p{n:04d}-0") for n in range(3)]
    assert all(r["simulated"] for r in found)

    align(asked, run, wait, print)  # everything is there: nobody is asked
    assert len(waited) == 3 and ran[-1] == (None, [rounds, *votes])
    key[0] = "second"  # something before the study has changed: its votes are on other videos
    with pytest.raises(ConfigError, match="shows videos of the artifact first, stage pairs now makes second"):
        align(asked, run, wait, print)
    (tmp_path / "studies" / "pairs.key").unlink()
    with pytest.raises(ConfigError, match="artifact an unknown key"):
        align(asked, run, wait, print)


def test_a_folder_of_any_name_reaches_the_config(tmp_path: Path) -> None:
    odd = tmp_path / "it's, (a=b) {c}"
    votes = odd / "pairs.jsonl"
    asked: list[list[str]] = []

    def run(overrides: list[str], _until: str | None):
        asked.append(overrides)
        return [{"stage": "pairs", "path": "", "key": "k"}]

    odd.mkdir()
    for path, text in ((votes, "{}"), (odd / "pairs.key", "k")):
        path.write_text(text)
    align(Asked(["profile=smoke"], str(odd)), run, lambda *_: None, print)
    assert compose(asked[-1])["only"]["pairs"]["runtime"]["votes"] == str(votes)


def test_a_cascade_that_ends_before_anything_is_judged(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="until=t2i: no stage before it is judged by people"):
        align(Asked(["profile=smoke"], str(tmp_path), "t2i"), lambda *_: [], lambda *_: None, print)
