"""The videos of a suite: any number of parts, killed or not, give the same folder; everything wrong in it is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stepvideo import storage
from stepvideo.data.video_io import read_image, write_image
from stepvideo.errors import ArtifactError, ConfigError, StepVideoError
from stepvideo.evaluation import manifest
from stepvideo.evaluation.suites import generation
from stepvideo.evaluation.suites.generation import Wanted, generate_suite, part_of, requests_of
from stepvideo.evaluation.suites.schema import Prompt, Suite
from stepvideo.inference.outputs import Encoding
from stepvideo.inference.pipeline import StepVideoPipeline
from stepvideo.parallel.config import ParallelConfig

SUITE = Suite(
    "tiny",
    (
        Prompt("a", zh="一个红色的大圆向右移动", en="a red circle", category="one"),
        Prompt("b", zh="一个蓝色的圆", en="a blue circle", category="two", aux={"seeds": [5]}),
        Prompt("c", zh="一个红色的大圆向右移动", en="a red circle", category="two"),
    ),
)
WANTED = Wanted(("zh", "en"), seeds=2, options={"num_inference_steps": 1, "guidance_scale": 1.0})


def quiet(_text: str) -> None: ...


@pytest.fixture(scope="module")
def pipe(tiny_models) -> StepVideoPipeline:
    return StepVideoPipeline.from_pretrained(tiny_models, device="cpu")


@pytest.fixture(autouse=True)
def commit(monkeypatch) -> None:
    """Others may be editing this checkout."""
    monkeypatch.setattr(generation, "code_version", lambda: "abc")


@pytest.fixture(scope="module")
def whole(pipe, tmp_path_factory) -> Path:
    """All in one part. Tests that change it take a copy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "code_version", lambda: "abc")
        folder = tmp_path_factory.mktemp("whole")
        assert generate_suite(pipe, SUITE, WANTED, folder, lineage={"model": "tiny"}, say=quiet)
        return folder


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "copy")


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in storage.tree(folder)}


def test_a_row_says_how_a_video_was_made(whole, pipe):
    found = manifest.load(whole)
    assert [v.name for v in found.videos] == [
        *("a zh 0", "a zh 1", "a en 0", "a en 1", "b zh 0", "b en 0", "c zh 0", "c zh 1", "c en 0", "c en 1")
    ]
    v = found.videos[4]
    assert (v.file, v.seed, v.steps, v.nfe, v.guidance, v.time_shift) == ("b-zh-s5.mp4", 5, 1, 1, 1.0, 2.0)
    assert (v.frames, v.height, v.width, v.fps, v.crf, v.pix_fmt, v.codec) == (17, 32, 32, 25.0, 12, "yuv420p", "h264")
    assert (v.suite, v.checkpoint, v.model, v.commit, v.source) == (
        SUITE.digest,
        pipe.digest,
        "model tiny",
        "abc",
        "generated",
    )
    assert v.sha256 == storage.sha256_file(whole / v.file) and v.text == "一个蓝色的圆"
    assert v.ranks == {"tensor": 1, "ulysses": 1, "cfg": 1}
    assert [v.cluster for v in found.videos if v.id == "c"] == ["a"] * 4
    assert found.suite["suite"] == "tiny" and manifest.status(whole)["complete"]


def test_parts_give_what_the_whole_gives(pipe, whole, tmp_path):
    done = [
        generate_suite(pipe, SUITE, WANTED, tmp_path, (i, 3), lineage={"model": "tiny"}, say=quiet) for i in (3, 1, 2)
    ]
    assert done == [False, False, True]
    assert content(tmp_path) == content(whole)


def test_ended_anywhere_and_begun_again(pipe, whole, tmp_path):
    """By an exception that nobody catches: a fork of this process may not compute. tests/soak kills with -9."""
    said: list[str] = []

    def fall(text: str) -> None:
        said.append(text)
        if len(said) == 4:
            raise SystemExit

    with pytest.raises(SystemExit):
        generate_suite(pipe, SUITE, WANTED, tmp_path, lineage={"model": "tiny"}, say=fall)
    found = manifest.status(tmp_path)
    assert found["videos"] == 4 and not found["complete"] and not found["orphans"]
    with pytest.raises(ArtifactError, match="6 of 10 videos are missing: b zh 0, b en 0, c zh 0"):
        manifest.load(tmp_path)
    some = manifest.load(tmp_path, partial=True)
    assert len(some.videos) == 4 and len(some.missing) == 6
    (tmp_path / manifest.ROWS / "a-zh-s1.mp4.json").unlink()  # as if killed between the video and its row
    assert generate_suite(pipe, SUITE, WANTED, tmp_path, lineage={"model": "tiny"}, say=quiet)
    assert content(tmp_path) == content(whole)


def _change(folder: Path) -> None:
    with (folder / "a-en-s1.mp4").open("ab") as f:
        f.write(b"!")


def _drop_row(folder: Path) -> None:
    path = folder / manifest.MANIFEST
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    shutil.rmtree(folder / manifest.ROWS)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "b-zh-s5.mp4").unlink(), "1 of 10 videos are missing: b zh 0; generate them"),
        (lambda f: (f / "x.mp4").write_bytes(b""), "in no row of the manifest: x.mp4"),
        (_change, "changed since they were made: a-en-s1.mp4"),
        (_drop_row, "1 of 10 videos are missing: c en 1"),
        (lambda f: [(f / name).unlink() for name in ("plan.json", "manifest.jsonl")], "has no manifest.jsonl"),
    ],
)
def test_nothing_wrong_passes(copy, harm: Callable[[Path], Any], message):
    harm(copy)
    with pytest.raises(ArtifactError, match=message):
        manifest.load(copy)


def test_a_changed_video_is_not_taken_for_the_one_that_was_made(pipe, copy):
    """mp4 players ignore what follows the last box, and so does the reader of its metadata."""
    _change(copy)
    with pytest.raises(ArtifactError, match="a-en-s1.mp4 was changed after it was made"):
        generate_suite(pipe, SUITE, WANTED, copy, lineage={"model": "tiny"}, say=quiet)


@pytest.mark.parametrize(
    ("suite", "wanted", "message"),
    [
        (
            SUITE,
            Wanted(("zh", "en"), 2, options={"num_inference_steps": 2}),
            r"other settings \(guidance, nfe, steps\)",
        ),
        (SUITE, Wanted(("zh",), 2, options=WANTED.options), "10 videos of other seeds or languages, not 5"),
        (SUITE, Wanted(("zh", "en"), 2, 1, options=WANTED.options), "other seeds or languages"),
        (Suite("tiny", SUITE.prompts[:2]), WANTED, "another suite"),
        (SUITE, Wanted(("zh", "en"), 2, options=WANTED.options, encoding=Encoding(0)), r"other settings \(crf\)"),
    ],
)
def test_a_folder_holds_one_set_of_settings(pipe, copy, suite, wanted, message):
    before = content(copy)
    with pytest.raises(StepVideoError, match=message):
        generate_suite(pipe, suite, wanted, copy, lineage={"model": "tiny"}, say=quiet)
    assert content(copy) == before


def test_a_folder_is_of_one_number_of_ranks(pipe, copy, monkeypatch):
    """Two ranks round differently from one."""
    before = content(copy)
    ranks = SimpleNamespace(config=ParallelConfig(cfg=2), is_main=True, agree=lambda found: found())
    monkeypatch.setattr(pipe, "ranks", ranks)
    with pytest.raises(StepVideoError, match=r"other settings \(ranks\)"):
        generate_suite(pipe, SUITE, WANTED, copy, lineage={"model": "tiny"}, say=quiet)
    assert content(copy) == before


def test_a_plan_of_before_ranks_were_recorded_goes_on(pipe, copy):
    plan = json.loads((copy / manifest.PLAN).read_text())
    for row in plan["videos"]:
        del row["ranks"]
    (copy / manifest.PLAN).write_text(json.dumps(plan))
    assert generate_suite(pipe, SUITE, WANTED, copy, lineage={"model": "tiny"}, say=quiet)
    plan["videos"][0]["crf"] = 1
    (copy / manifest.PLAN).write_text(json.dumps(plan))
    with pytest.raises(StepVideoError, match=r"other settings \(crf"):
        generate_suite(pipe, SUITE, WANTED, copy, lineage={"model": "tiny"}, say=quiet)


def test_seeds(tmp_path):
    assert Wanted(("zh",), 3, 7).seeds_of(SUITE.prompts[0]) == [7, 8, 9]
    assert Wanted(("zh",), 3, 7).seeds_of(SUITE.prompts[1]) == [5]
    own = Wanted(("zh",), 2, own_noise=True)
    a, c = own.seeds_of(SUITE.prompts[0]), own.seeds_of(SUITE.prompts[2])
    assert len({*a, *c}) == 4 and a == Wanted(("zh",), 1, own_noise=True).seeds_of(SUITE.prompts[0]) + a[1:]
    with pytest.raises(ConfigError, match="seeds=0: give 1 or more"):
        Wanted(("zh",), 0)


def test_first_frames_must_be_those_of_the_suite(tmp_path):
    import numpy as np

    write_image(tmp_path / "i.png", np.zeros((8, 8, 3), np.uint8))
    assert read_image(tmp_path / "i.png").shape == (8, 8, 3)
    digest = storage.sha256_file(tmp_path / "i.png")
    prompts = [Prompt(f"p{d[:2]}", zh="x", aux={"image": "i.png", "image_sha256": d}) for d in (digest, "00", "")]
    wanted = Wanted(("zh",), images=tmp_path)
    (found,) = requests_of(Suite("s", (prompts[0],)), wanted, tmp_path)
    assert found[3].image == str(tmp_path / "i.png")
    with pytest.raises(ArtifactError, match="first frames are missing, or not those .*: p00, p"):
        requests_of(Suite("s", tuple(prompts)), wanted, tmp_path)
    with pytest.raises(ArtifactError, match="give --images"):
        requests_of(Suite("s", (prompts[0],)), Wanted(("zh",)), tmp_path)


def test_without_some_first_frames(pipe, tmp_path):
    lost = Prompt("lost", zh="一个红色的圆", aux={"image": "i.png", "image_sha256": ""})
    suite = Suite("s", (Prompt("there", zh="一个红色的圆"), lost))
    wanted = Wanted(("zh",), options=WANTED.options, partial=True)
    for part in ((1, 2), (2, 2)):
        assert not generate_suite(pipe, suite, wanted, tmp_path, part, say=quiet)
    assert manifest.status(tmp_path)["missing"] == ["lost zh 0"]
    assert [v.id for v in manifest.load(tmp_path, partial=True).videos] == ["there"]


@pytest.mark.parametrize(
    ("text", "environment", "part"),
    [
        ("", {}, (1, 1)),
        ("2/8", {}, (2, 8)),
        ("", {"ID": "0", "COUNT": "4", "MIN": "0", "STEP": "1"}, (1, 4)),
        ("", {"ID": "9", "COUNT": "3", "MIN": "5", "STEP": "2"}, (3, 3)),
        ("1/2", {"ID": "9", "COUNT": "3"}, (1, 2)),
    ],
)
def test_parts_of_people_and_of_slurm(text, environment, part):
    assert part_of(text, {f"SLURM_ARRAY_TASK_{k}": v for k, v in environment.items()}) == part


@pytest.mark.parametrize(
    ("text", "environment"), [("0/2", {}), ("3/2", {}), ("x", {}), ("", {"ID": "9", "COUNT": "2"})]
)
def test_impossible_parts(text, environment):
    with pytest.raises(ConfigError, match="part"):
        part_of(text, {f"SLURM_ARRAY_TASK_{k}": v for k, v in environment.items()})


def test_the_command(tiny_models, tmp_path, capsys):
    from stepvideo.cli import main

    (tmp_path / "p.txt").write_text("一个红色的圆\n", encoding="utf-8")
    assert main(["suite", "import", "lines", str(tmp_path / "p.txt"), "--out", str(tmp_path / "s.jsonl")]) == 0
    make = ["suite", "generate", str(tmp_path / "s.jsonl"), "--out", str(tmp_path / "v"), "--seeds", "2", "--json"]
    make += ["--model", str(tiny_models), "--device", "cpu", "--steps", "1", "--cfg", "1"]
    capsys.readouterr()
    assert main([*make, "--part", "1/2"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "out": str(tmp_path / "v"),
        "part": [1, 2],
        "complete": False,
        "videos": 2,
    }
    assert main(["suite", "status", str(tmp_path / "v")]) == 1
    assert "1 of 2 videos" in (out := capsys.readouterr().out) and "missing: 0001 zh 1" in out
    assert main([*make, "--lang", "en"]) == 2 and "has a text in en" in capsys.readouterr().err
