"""`stepvideo study`: from folders of videos to a closed study, by its commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stepvideo.cli import main
from stepvideo.data.video_io import write_video
from stepvideo.evaluation.votes import read_votes
from stepvideo.preference.study import load


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for model in ("ours", "other"):
        for n in range(3):
            picture = np.random.default_rng(n).integers(0, 255, (4, 16, 16, 3)).astype(np.uint8)
            write_video(tmp_path / model / f"00{n}-0.mp4", picture, 8.0)
            write_video(tmp_path / model / f"00{n}-1.mp4", picture[::-1], 8.0)
    (tmp_path / "prompts.txt").write_text("一个红色的圆\na blue square\nthree balls\n")
    return tmp_path


def create(videos: Path, *more: str, models: tuple[str, ...] = ("ours", "other"), prompts: bool = True) -> int:
    sources = [word for m in models for word in ("--videos", f"{m}={videos / m}")]
    told = ["--prompts", str(videos / "prompts.txt")] if prompts else []
    return main(["study", "create", str(videos / "study"), *sources, *told, *more])


def test_a_study_from_folders_to_its_end(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert create(videos, "raters=2", "practice=1", "gold=0.1") == 0
    folder = videos / "study"
    study = load(folder)
    votes = study.by_role["vote"]
    assert all(i.b and {i.a.model, i.b.model} == {"ours", "other"} for i in votes)
    assert [set(i.prompt) for i in votes[::2]] == [{"zh"}, {"en"}, {"en"}]
    assert len(study.by_role["gold"]) == 1 and len(study.by_role["practice"]) == 1
    assert (folder / "study.json").stat().st_mode & 0o777 == 0o600
    names = {s.media for i in study.items for s in (i.a, i.b) if s}
    assert names == {p.name for p in (folder / "media").iterdir()} and len(names) == 2 * len(study.items)
    assert create(videos) == 2 and "already" in capsys.readouterr().err
    assert main(["study", "add-annotator", str(folder), "wang"]) == 0
    token = capsys.readouterr().out.splitlines()[1]
    assert len(token) == 43
    assert main(["study", "status", str(folder), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["items"], said["wanted"], said["voted"], said["closed"]) == (6, 12, 0, False)
    assert said["annotators"][0]["name"] == "wang" and said["agreement"] == []
    assert main(["study", "add-annotator", str(folder), "wang", "--revoke"]) == 0
    assert main(["study", "close", str(folder)]) == 0
    assert read_votes(folder / "exports" / "votes.csv").answers == []


def test_samples_of_one_model_are_pairs(videos: Path) -> None:
    assert create(videos, "--kind", "prefer", "practice=0", "gold=0", "aa=0", models=("ours",)) == 0
    pairs = [(i.a.seed, i.b.seed if i.b else None) for i in load(videos / "study").items]
    assert len(pairs) == 3 and all(sorted(p) == [0, 1] for p in pairs)


@pytest.mark.parametrize(
    ("more", "why"),
    [(("gold=2",), "gold"), (("nonsense=1",), "nonsense"), (("media.height=15",), "even"), (("--kind", "prefer"), "")],
)
def test_mistakes_are_told(videos: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], why: str) -> None:
    (videos / "other" / "002-0.mp4").unlink()
    (videos / "other" / "002-1.mp4").unlink()
    assert create(videos, *more) == 2
    assert (why or "has no video for 1 prompts, such as 002") in capsys.readouterr().err
    assert not (videos / "study" / "study.json").exists()


def test_without_prompts_a_manifest_is_needed(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert create(videos, prompts=False) == 2 and "manifest" in capsys.readouterr().err
    assert main(["study", "serve", str(videos)]) == 2 and "study create" in capsys.readouterr().err
