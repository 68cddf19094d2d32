"""`stepvideo evaluate export-vbench`: nothing that was not measured is in the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from intervals import bare

from stepvideo.cli import main
from stepvideo.data.video_io import write_video
from stepvideo.evaluation.suites.adopt import adopt
from stepvideo.evaluation.suites.schema import Prompt, Suite
from stepvideo.evaluation.vbench import DIMENSIONS, export


@pytest.fixture
def folder(tmp_path) -> Path:
    draw = np.random.default_rng(0)
    for i in range(3):
        frames = np.clip(draw.normal(128, 4 * (i + 1), (9, 32, 32, 3)), 0, 255).astype(np.uint8)
        write_video(tmp_path / f"p{i}.mp4", frames, 8)
    tested = ("temporal_flickering", "dynamic_degree", "dynamic_degree")
    prompts = tuple(Prompt(f"p{i}", en=f"text {i}", dimensions=(d,)) for i, d in enumerate(tested))
    adopt(tmp_path, Suite("three", prompts), "{id}")
    return tmp_path


def test_dimensions_of_their_own_videos(folder, capsys):
    assert main(["evaluate", "videos", str(folder), "--metrics", "flicker,dynamic_degree", "--workers", "1"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "export-vbench", str(folder), "--json", "--check"]) == 1
    told = json.loads(capsys.readouterr().out)
    found = json.loads(Path(told["file"]).read_text())
    scores = [json.loads(line) for line in (folder / "results" / "scores.jsonl").read_text().splitlines()]
    assert set(found) == {"temporal_flickering", "dynamic_degree_dis"}
    mean, videos = found["temporal_flickering"]
    assert videos == [{"video_path": "p0.mp4", "video_results": scores[0]["values"]["temporal_flicker"]}]
    assert mean == videos[0]["video_results"]
    assert [v["video_path"] for v in found["dynamic_degree_dis"][1]] == ["p1.mp4", "p2.mp4"]
    assert told["missing"] == {"dynamic_degree": "VBench asks RAFT for the flow, here it is DIS"}
    values = json.loads((folder / "results" / "results.json").read_text())["values"]["dynamic_degree_dis"]
    said = told["intervals"]["dynamic_degree_dis"]  # over the prompts that test it, as the mean is
    assert said.items() <= values["by_dimension"]["dynamic_degree"].items() and bare(told) == []
    assert said["mean"] == found["dynamic_degree_dis"][0] and told["intervals"]["temporal_flickering"]["low"] is None
    assert main(["evaluate", "export-vbench", str(folder)]) == 0
    text = capsys.readouterr().out
    assert f"{said['mean']:.4f} ({said['low']:.4f} to {said['high']:.4f}) of 2 videos" in text
    assert "(no interval: one prompt) of 1 videos" in text


def test_scores_of_other_videos_are_refused(folder, capsys):
    assert main(["evaluate", "export-vbench", str(folder)]) == 2
    assert "score the videos first" in capsys.readouterr().err
    main(["evaluate", "videos", str(folder), "--metrics", "flicker", "--workers", "1"])
    path = folder / "results" / "scores.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert main(["evaluate", "export-vbench", str(folder)]) == 2
    assert "of other videos" in capsys.readouterr().err


def test_other_suites_are_exported_whole_and_a_null_keeps_a_dimension_out():
    rows = [{"file": f"{i}.mp4", "values": {"temporal_flicker": 0.9 + i / 100, "motion_smoothness_dis": v}}
            for i, v in enumerate((0.5, None))]  # fmt: skip
    found, missing = export(rows, {"0.mp4": (), "1.mp4": ("colour",)})
    assert found["temporal_flickering"][0] == pytest.approx(0.905) and len(found) == 1
    assert set(missing) == set(DIMENSIONS) - {"temporal_flickering"}
    found, missing = export([rows[0], {"file": "1.mp4", "values": {}}], {"0.mp4": (), "1.mp4": ()})
    assert found.keys() == set() and missing["temporal_flickering"] == "1 of 2 videos have no value"
