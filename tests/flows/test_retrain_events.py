"""What leaves a reason to retrain: a gate that sees drift or fails, new labels. Once, and retrained is what they touch.

New data published, and all of it down to a decision: tests/soak/test_retrain_events_soak.py.
"""

from __future__ import annotations

import csv
from pathlib import Path

from retraining import Place, gated, triggers

from stepvideo import storage
from stepvideo.curation.labelling.questions import PASS, QUESTIONS, SLOTS


def test_a_gate_that_sees_drift_or_fails_is_a_reason_once(place: Place, monkeypatch) -> None:
    gated(place, monkeypatch)
    place.new_data(0.7)
    for _ in range(2):
        assert place.mini.cli("run", "--until", "data", *place.args())[0] == 0
    (left,) = triggers(place)
    assert (left["reason"], left["detail"], left["overrides"]) == ("drift", "data has drifted: tag_blur", [])
    place.raw = place.raw.with_name("fails")
    place.new_data(0.97)
    for _ in range(2):
        assert place.mini.cli("run", "--until", "data", *place.args())[0] == 2
    assert sorted(t["detail"] for t in triggers(place)) == ["data failed its gate", "data has drifted: tag_blur"]


def answered(folder: Path) -> list[str]:
    """A clip that somebody approved, as arguments of `label import`."""
    clip = "0" * 32
    storage.write_json(folder / "tasks.json", [{"data": {"clip_id": clip} | {f"current_{s}": "" for s in SLOTS}}])  # type: ignore[arg-type]
    with (folder / "answers.csv").open("w", newline="") as f:
        row = {"clip_id": clip, "annotator": "Li", **dict.fromkeys(QUESTIONS, PASS)}
        writer = csv.DictWriter(f, [*row])
        writer.writeheader()
        writer.writerow(row)
    return ["label", "import", str(folder / "answers.csv"), "--tasks", str(folder), "--out", str(folder / "l.parquet")]


def test_new_labels_train_what_reads_them(place: Place, tmp_path: Path) -> None:
    said = [place.cli(*answered(tmp_path)) for _ in range(2)]
    assert "a reason to retrain" in said[0] and "told before" in said[1]
    assert triggers(place)[0]["overrides"] == [f"labels={tmp_path / 'l.parquet'}"]
    found = place.retrain("--triggered")
    assert found["state"] == "promoted" and found["affected"] == ["fit", "evaluate.fit"]
