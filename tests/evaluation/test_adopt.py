"""Videos made elsewhere: found by their names, described by what their files say, and nothing guessed."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from stepvideo.data.video_io import write_video
from stepvideo.errors import ArtifactError, ConfigError
from stepvideo.evaluation import manifest
from stepvideo.evaluation.suites.adopt import adopt
from stepvideo.evaluation.suites.schema import Prompt, Suite

TEXTS = ("a café at night", "a dog and/or a cat", "a café at night", "x" * 60)
SUITE = Suite("given", tuple(Prompt(f"p{i}", en=t) for i, t in enumerate(TEXTS)))


def fill(folder: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        write_video(folder / f"{name}.mp4", np.full((3, 16, 32, 3), 9 * i, np.uint8), 8)
    return folder


def test_what_is_known_goes_in_and_the_rest_is_null(tmp_path):
    found = adopt(fill(tmp_path, "p0", "p1", "p2", "p3"), SUITE, "{id}")
    v = found.videos[1]
    assert (v.name, v.file, v.text, v.source, v.cluster) == ("p1 en 0", "p1.mp4", TEXTS[1], "given", "p1")
    assert (v.frames, v.height, v.width, v.fps, v.codec) == (3, 16, 32, 8.0, "h264")
    assert v.seed is v.steps is v.nfe is v.guidance is v.checkpoint is v.model is v.commit is v.crf is None
    assert manifest.load(tmp_path) == found and manifest.status(tmp_path)["complete"]
    with pytest.raises(ConfigError, match=r"has a plan.json already"):
        adopt(tmp_path, SUITE, "{id}")


def test_names_of_public_tools(tmp_path):
    """VBench names by prompt and number: prompts with the same text share files; letters may lie decomposed."""
    stems = [unicodedata.normalize("NFD", TEXTS[0]), "a dog and_or a cat", TEXTS[3]]
    fill(tmp_path, *(f"{s}-{n}" for s in stems for n in range(2)))
    found = adopt(tmp_path, SUITE, "vbench", samples=2)
    assert len(found.videos) == 8 and found.videos[0].file == found.videos[4].file
    assert found.videos[4].cluster == "p0" and [v.sample for v in found.videos[:2]] == [0, 1]


@pytest.mark.parametrize(
    ("naming", "names"),
    [
        ("{prompt50}", ["a café at night", "a dog and_or a cat", "x" * 50]),
        ("NNNN", ["0000", "0001", "0002", "0003"]),
        ("NNNN", ["0001", "0002", "0003", "0004"]),
        ("output_{number}", ["output_1", "output_2", "output_3", "output_4"]),
    ],
)
def test_patterns(tmp_path, naming, names):
    found = adopt(fill(tmp_path, *names), SUITE, naming)
    assert [v.file for v in found.videos][-1] == f"{names[-1]}.mp4" and not found.missing


def test_missing_videos(tmp_path):
    fill(tmp_path, "p0", "p2", "p3")
    with pytest.raises(ArtifactError, match="no file for 1 of 4 videos: p1 en 0; the first would be p1.mp4"):
        adopt(tmp_path, SUITE, "{id}")
    assert not (tmp_path / manifest.PLAN).exists()
    found = adopt(tmp_path, SUITE, "{id}", partial=True)
    assert found.missing == ["p1 en 0"] and len(found.videos) == 3
    with pytest.raises(ArtifactError, match="1 of 4 videos are missing: p1 en 0"):
        manifest.load(tmp_path)


@pytest.mark.parametrize(
    ("names", "naming", "more", "error", "message"),
    [
        (["p0", "p1", "p2", "p3", "new"], "{id}", {}, ArtifactError, "no prompt for new.mp4"),
        (["0000", "0004"], "NNNN", {"partial": True}, ConfigError, "do not say where they count from"),
        (["p0"], "{id}", {"samples": 2}, ConfigError, "would share a name"),
        (["p0"], "{name}", {}, ConfigError, "give a pattern with some of"),
        (["p0"], "same", {}, ConfigError, "give a pattern"),
        (["en"], "{lang}", {}, ConfigError, "gives prompts p0 and p1 one name: en"),
        (["q"], "{id}", {"partial": True}, ArtifactError, "no file for 4 of 4"),
        ([], "{id}", {}, ArtifactError, "holds no video"),
    ],
)
def test_mistakes(tmp_path, names, naming, more, error, message):
    with pytest.raises(error, match=message):
        adopt(fill(tmp_path, *names), SUITE, naming, **more)
    assert not (tmp_path / manifest.PLAN).exists()


def test_a_file_that_is_no_video(tmp_path):
    fill(tmp_path, "p0", "p1", "p2")
    (tmp_path / "p3.mp4").write_bytes(b"no video")
    with pytest.raises(ArtifactError, match="p3.mp4 cannot be read as video"):
        adopt(tmp_path, SUITE, "{id}")
