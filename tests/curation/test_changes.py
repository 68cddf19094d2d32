"""What changed between two catalogs: every clip has its reason, drift is seen where it is and not where it is not."""

from __future__ import annotations

import json
from pathlib import Path

import made_catalog
import numpy as np
import pytest

from stepvideo.curation import shift
from stepvideo.curation.changes import changes
from stepvideo.curation.changes_page import page
from stepvideo.curation.fates import fates
from stepvideo.errors import StepVideoError


def reasons(side: list[dict]) -> dict[str, int]:
    return {r["reason"]: r["clips"] for r in side}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("old")
    made_catalog.store(root, range(400))
    return fates(root, "v1")


def test_equal_catalogs_do_not_differ(old, tmp_path: Path) -> None:
    made_catalog.store(tmp_path, range(400), order=[3, 1, 0, 4, 2])
    found = changes(old, fates(tmp_path, "v2"))
    assert (found["clips"]["both"], found["clips"]["out"], found["clips"]["in"]) == (400, [], [])
    assert not any(s["out"] or s["in"] for s in found["sets"].values())
    assert max(t["psi"] for t in found["tags"]) == 0 and not found["words"]["rows"]
    assert found["concepts"]["psi"] == 0  # though the clusters have other numbers


def test_every_clip_that_went_or_came_has_its_reason(old, tmp_path: Path) -> None:
    made_catalog.store(tmp_path, [*range(10, 460)], quarantined=[3, 4], again=[20, 21, 22])
    found = changes(old, fates(tmp_path, "v2"))
    out, new = reasons(found["clips"]["out"]), reasons(found["clips"]["in"])
    assert out == {"removed raw file": 8, "cut differently": 3, "quarantined: unreadable": 2}
    assert new == {"added raw file": 60, "cut differently": 3}
    assert found["clips"]["a"] - sum(out.values()) + sum(new.values()) == found["clips"]["b"]
    raw = found["raw"]
    assert (raw["added"], raw["removed"], raw["changed"]) == (60, 8, 0)
    assert raw["quarantined"] == {"unreadable": [0, 2]}
    assert found["clips"]["out"][0]["examples"] == [f"file{i:06d}.mp4" for i in (0, 1, 2, 5, 6)] or set(
        found["clips"]["out"][0]["examples"]
    ) <= {f"file{i:06d}.mp4" for i in range(10)}
    for s in found["sets"].values():
        went, came = (sum(r["clips"] for r in s[k]) for k in ("out", "in"))
        assert s["a"] - went == s["both"] == s["b"] - came


def test_a_stricter_filter_is_named_with_its_set_and_threshold(old, tmp_path: Path) -> None:
    stricter = [made_catalog.FILTERS[0], made_catalog.Filter("motion_mean", "above", [0.3, 0.3, 0.3, 0.4, 0.5, 0.6])]
    made_catalog.store(tmp_path, range(400), made_catalog.settings(caption_sources=["vlm"], filters=stricter))
    new = fates(tmp_path, "v2")
    found = changes(old, new)
    s1 = found["sets"]["s1"]
    assert list(reasons(s1["out"])) == ["dropped: motion_mean ≥ 0.3 (s1)"] and not s1["in"]
    motion = old.numbers["motion_mean"]
    assert s1["out"][0]["clips"] == int(((motion >= 0.1) & (motion < 0.3)).sum())
    back = changes(new, old)["sets"]["s1"]
    assert list(reasons(back["in"])) == ["was dropped: motion_mean ≥ 0.3 (s1)"]
    longer = made_catalog.settings(caption_sources=["vlm"], min_frames=31)
    with pytest.raises(StepVideoError, match="longest"):
        made_catalog.store(tmp_path / "none", range(40), longer)


def test_drift_is_seen_where_it_is(old, tmp_path: Path) -> None:
    made_catalog.store(tmp_path, range(400), slower=0.3, redder=True)
    found = changes(old, fates(tmp_path, "v2"), "all")
    drifted = {t["tag"] for t in found["tags"] if t["drifted"]}
    assert drifted == {"motion_mean"}
    motion = next(t for t in found["tags"] if t["tag"] == "motion_mean")
    assert motion["mean_a"] - motion["mean_b"] == pytest.approx(0.3) and motion["ks"] > 0.25
    assert found["concepts"]["drifted"] and found["concepts"]["rows"][0]["words"].split(", ")[0] in ("circle", "moves")
    words = {r["word"]: r["z"] for r in found["words"]["rows"]}
    assert words["red"] > 3 and words["红色"] > 3 and words["蓝色"] < -3 and "circle" not in words
    text = page({**found, "settings": ["subsets: x 1 → 2"]}, "v1", "<v2>")
    assert "motion_mean" in text and "&lt;v2&gt;" in text and "<v2>" not in text and "<svg" in text
    json.dumps(found, default=float)


def test_two_draws_of_one_law_have_not_drifted(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    wrong = 0
    for n in (30, 100, 1000):
        for _ in range(100):
            row = shift.column("x", draw.normal(size=n), draw.normal(size=n), 0.2)
            assert row
            wrong += row["drifted"]
    assert wrong <= 30  # nearly all of 30 clips, where tenths have 3 clips each
    row = shift.column("x", draw.normal(size=300), draw.normal(1, 1, size=300), 0.2)
    assert row and row["drifted"] and row["shift"] == pytest.approx(1, abs=0.25)
    assert shift.column("x", np.full(5, np.nan), np.ones(5), 0.2) is None


def test_a_set_that_is_not_there(old, tmp_path: Path) -> None:
    with pytest.raises(StepVideoError, match="no set 's9' .* s6, all"):
        changes(old, old, "s9")
