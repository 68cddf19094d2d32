"""Retraining from an event to a promotion, on a cascade whose model is as skilled as its data say."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from retraining import Place, at

from flows import retrain_schedule, retrain_triggers
from flows.retrain_command import _plainly
from flows.retrain_verdict import Outcome
from flows.retrain_work import Asked, retrain
from flows.screen import console
from stepvideo import storage
from stepvideo.errors import ConfigError, StepVideoError


def test_new_data_to_a_promoted_model_and_back(place: Place) -> None:
    place.publish(0.97)
    found = place.retrain("--triggered")
    assert found["state"] == "promoted" and found["said"].startswith("Promoted: all attributes right: +")
    assert found["affected"] == found["ran"] == ["data", "fit", "evaluate.fit"]  # and codec is not
    assert "3 of 4 stages are affected" in place.said and "data: content" in place.said
    assert place.aliases() == {"candidate": 2, "champion": 2, "previous": 1}
    first, second = place.records()
    assert first["forced"] == "the first champion" and second["decision"] == found["decision"]
    assert (second["from"], second["version"], second["state"], second["forced"]) == (1, 2, "done", "")
    folder = place.store.root / "_promotions" / "0002"
    assert set(second["evidence"]) == {"decision.json", "evidence.html"}
    for name, digest in second["evidence"].items():
        assert storage.sha256_file(folder / name) == digest
    version = place.client.get_model_version("stepvideo-t2v", "2")
    run_id, _, path = version.tags["evidence"].removeprefix("runs:/").partition("/")
    assert {Path(f.path).name for f in place.client.list_artifacts(run_id, path)} == set(second["evidence"])
    (trigger,) = (place.store.root / "_triggers" / "done").glob("*.json")
    assert storage.read_json(trigger)["outcome"] == "promoted"
    html = (folder / "evidence.html").read_text()
    assert "data: content" in html and "stepvideo-t2v version 2 against stepvideo-t2v version 1" in html

    assert place.retrain("--triggered")["state"] == "nothing due"
    again = place.retrain()
    assert (
        again["state"] == "nothing affected" and again["ran"] == [] and "all 4 stages are in the store" in again["said"]
    )

    assert "version 1 again, it was version 2" in place.cli("rollback", "--reason", "people dislike it")
    assert place.aliases() == {"candidate": 2, "champion": 1}
    assert "people dislike it" in place.client.get_model_version("stepvideo-t2v", "2").tags["rolled_back"]


def test_two_triggers_at_once_train_once(place: Place) -> None:
    place.publish(0.97)
    ran: list[list[str]] = []
    begun = threading.Event()

    def slow(overrides: list[str], until: str | None) -> Any:
        begun.set()
        time.sleep(0.5)
        ran.append(overrides)
        return _plainly(overrides, until)

    outcomes: list[Outcome] = []

    def go(triggered: bool) -> None:
        outcomes.append(retrain(Asked(place.args(), triggered=triggered), slow, console(stderr=True)))

    first = threading.Thread(target=go, args=(True,))
    first.start()
    assert begun.wait(60)
    place.mini._capsys.readouterr()
    others = [threading.Thread(target=go, args=(t,)) for t in (True, False)]
    for t in others:
        t.start()
    for t in (first, *others):
        t.join()
    states = [o.state for o in outcomes]
    assert states[0] == "promoted" and sorted(states[1:]) == ["attached", "attached"] and len(ran) == 1
    assert all("promoted" in o.said for o in outcomes[1:])
    assert "another retraining is at it" in place.mini._capsys.readouterr().err
    assert len(place.records()) == 2 and place.aliases()["champion"] == 2


def test_late_runs_of_a_schedule_find_it_served(mini, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as below, without training anything."""
    import toy_champion

    monkeypatch.setenv("STEPVIDEO_KINDS", toy_champion.KINDS)
    monkeypatch.setattr("flows.retrain_work._work", lambda *_: Outcome("promoted", "made"))
    place = Place(mini)
    place.new_data(0.97)

    def wake(now: float) -> str:
        return retrain(Asked(place.args(), cron="0 3 * * *"), _plainly, console(stderr=True), now=lambda: now).state

    assert [wake(at(2)), wake(at(2, 3, 1)), wake(at(3, 2, 59))] == ["promoted", "nothing due", "nothing due"]
    assert [wake(at(6, 9)) for _ in range(3)] == ["promoted", "nothing due", "nothing due"]


@pytest.mark.parametrize(
    ("cron", "zone", "said"),
    [
        ("nonsense", "UTC", "has 1 fields; give five"),
        ("61 * * * *", "UTC", "Bad minute"),
        ("0 3 31 2 *", "UTC", "Bad day-of-month"),
        ("0 3 * * *", "Mars/Olympus", "'Mars/Olympus' is unknown"),
    ],
)
def test_schedules_that_make_no_sense(cron: str, zone: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        retrain_schedule.newest_slot(cron, zone)


def test_schedules_follow_their_zone() -> None:
    berlin = retrain_schedule.newest_slot("0 3 * * *", "Europe/Berlin", at(22, 4))
    assert berlin == at(22, 2) and retrain_schedule.next_slot("0 3 * * *", "UTC", at(22)) == at(23)
    assert [retrain_schedule.newest_slot("0 3 * * *", "UTC", at(22) + d) for d in (-0.5, 0, 0.5)] == [
        at(21),
        at(22),
        at(22),
    ]


def test_triggers_of_others_and_broken_ones(mini) -> None:
    folder = mini.store.root / "_triggers"
    storage.write_json(folder / "data-v2.json", {"kind": "data_version", "name": "v2", "parent": "v1", "time": 1.0})
    (folder / "a.json").write_text("{")
    storage.write_json(folder / "b.json", {"reason": "data", "colour": "red"})
    storage.write_json(folder / "c.json", {"reason": "boredom"})
    storage.write_json(folder / "d.json", ["data"])
    retrain_triggers.leave(mini.store, "labels", "500 votes", ["labels=x"])
    found = [t for _, t in retrain_triggers.waiting(mini.store)]
    assert sorted(map(str, found)) == ["data (version v2 after v1)", "labels (500 votes)"]
    assert len(retrain_triggers.waiting(mini.store)) == 2  # and they are still there
    said = "\n".join(retrain_triggers.refused(mini.store))
    assert "a.json" in said and "colour" in said and "choose one of data, drift, labels, manual" in said
    assert "no trigger" in said
    with pytest.raises(StepVideoError, match="boredom"):
        retrain_triggers.leave(mini.store, "boredom")
    code, _, err = mini.cli("trigger", "data", "nonsense", "--store", str(mini.store.root))
    assert code == 2 and "settings are written key=value" in err
