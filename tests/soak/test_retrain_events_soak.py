"""From each event to a decision: data published, a gate that sees drift, a run of somebody; only what is touched runs.

New labels: tests/flows/test_retrain_events.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import toy_champion
from fixtures import toys  # noqa: F401
from made_versions import checkout_of
from retraining import Place, gated, triggers

from flows import data

pytestmark = pytest.mark.soak


def test_a_published_version_is_trained_on_wherever_its_data_lie(place: Place, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(data, "ROOT", checkout_of(tmp_path / "origin", tmp_path / "remote"))
    new = toy_champion.say(tmp_path / "new clips", 0.97)
    code, _, err = place.mini.cli("run", "--until", "data", *place.args(f"raw='{new}'"))
    assert code == 0, err
    place.cli("data", "publish", "data", "-m", "more clips")
    assert triggers(place)[0]["overrides"] == [f"raw='{new}'"]
    found = place.retrain("--triggered")  # whose own settings name the old folder
    assert found["state"] == "promoted" and found["affected"] == found["ran"] == ["fit", "evaluate.fit"]
    assert "retrain, because: data (version v1)" in place.said and triggers(place, "done")[0]["outcome"] == "promoted"


def test_drift_is_trained_on_and_a_worse_model_is_not_promoted(place: Place, monkeypatch) -> None:
    gated(place, monkeypatch)
    place.new_data(0.7)
    assert place.mini.cli("run", "--until", "data", *place.args())[0] == 0
    found = place.retrain("--triggered")
    assert found["state"] == "not promoted" and found["ran"] == ["fit", "evaluate.fit"]
    assert place.aliases()["champion"] == 1 and place.retrain("--triggered")["state"] == "nothing due"
    place.raw = place.raw.with_name("fails")
    place.new_data(0.97)
    for _ in range(2):  # retraining with such data serves no reason, and is no new one
        assert place.mini.cli("retrain", *place.args())[0] == 2
    assert [t["detail"] for t in triggers(place)] == ["data failed its gate"]


def test_a_model_that_a_run_has_made_is_judged_and_triggers_that_no_run_can_serve_stop_nothing(place: Place) -> None:
    place.new_data(0.97)
    assert place.mini.cli("run", *place.args())[0] == 0
    place.cli("trigger", "data", "raww=/nowhere")
    place.cli("trigger", "data", f"store={place.mini.folder / 'other'}")
    place.cli("trigger", "data", "stages.fit.spoil=0.4")
    place.cli("trigger", "labels", "stages.fit.spoil=0")
    found = place.retrain("--triggered")
    assert found["state"] == "promoted" and found["ran"] == [] and "what is left is to judge" in place.said
    assert "raww" in place.said and "it belongs to" in place.said
    assert len(triggers(place, "refused")) == 2 and not triggers(place)
    (late, served) = triggers(place, "done")
    assert served["outcome"] == "promoted" and "stages.fit.spoil=0 of" in late["outcome"]
    assert place.retrain()["state"] == "nothing affected"
