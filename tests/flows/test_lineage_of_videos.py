"""`stepvideo lineage` from a video file to its model and to the raw clips behind it."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from made_data import model
from made_runs import MadeRuns

from flows.lineage_clips import NOT_RECORDED, clips_behind
from stepvideo import cli, storage
from stepvideo.inference.outputs import write_output

RUN = "20261101-120000-aaaaaa"
FRAMES = np.random.default_rng(0).integers(0, 255, (17, 32, 32, 3)).astype(np.uint8)


@pytest.fixture
def made(tmp_path: Path) -> MadeRuns:
    runs = MadeRuns(tmp_path)
    runs.run(RUN)
    return runs


@pytest.fixture
def lineage(made: MadeRuns, capsys: pytest.CaptureFixture[str]):
    def call(*args: str, code: int = 0) -> str:
        capsys.readouterr()
        assert cli.main(["lineage", *args, *made.at]) == code
        said = capsys.readouterr()
        return said.out if code == 0 else said.err

    return call


def test_of_a_generated_video(made: MadeRuns, lineage, tmp_path: Path) -> None:
    sft = model(made)
    name = f"sft.1/{sft.manifest['key'][:8]}"
    weights = storage.sampled_digest([sft.out / "transformer"])
    about = {"prompt": "a red circle", "seed": 7, "steps": 2, "model": name, "weights": weights}
    write_output(tmp_path / "red.mp4", FRAMES, about, 25, preview="gif")
    for file in ("red.mp4", "red.gif"):
        out = lineage(str(tmp_path / file))
        assert f"model: {name}" in out and "weights: the same" in out and "curate/" in out and "raw/" in out
        assert f"stepvideo generate 'a red circle' --model {name} --seed 7 --steps 2 --out again.mp4" in out
    write_output(tmp_path / "other.mp4", FRAMES, {**about, "weights": "another"}, 25)
    assert "weights: others" in lineage(str(tmp_path / "other.mp4"))
    write_output(tmp_path / "away.mp4", FRAMES, {**about, "model": "sft.1/ffffffff"}, 25)
    assert "sft.1/ffffffff, which is not in" in lineage(str(tmp_path / "away.mp4"), code=2)


def test_of_a_video_of_an_evaluation_wherever_it_was_copied(made: MadeRuns, lineage, tmp_path: Path) -> None:
    (kept,) = made.store.root.glob("evaluate.sft.1/*/out/samples/main/0001.mp4")
    shutil.copy(kept, tmp_path / "mailed.mp4")
    for path in (kept, tmp_path / "mailed.mp4"):
        found = json.loads(lineage(str(path), "--json"))
        assert found["video"]["settings"]["prompt"] == "a red square <1>" and found["video"]["weights"] == "the same"
        assert [a["stage"] for a in found["artifacts"]] == ["sft.1", "captions", "raw"]


def test_of_a_video_of_a_suite(made: MadeRuns, lineage, tmp_path: Path) -> None:
    sft = model(made)
    folder = tmp_path / "suite"
    folder.mkdir()
    write_output(folder / "a.mp4", FRAMES, {}, 25)
    row = {"text": "a prompt", "sha256": storage.sha256_file(folder / "a.mp4"), "seed": 3}
    row["model"] = f"model sft.1/{sft.manifest['key'][:8]}, vae vae2/0123"  # as `suite generate` words it
    storage.write_atomic(folder / "manifest.jsonl", json.dumps(row) + "\n")
    out = lineage(str(folder / "a.mp4"))
    assert "a row of the manifest.jsonl" in out and "prompt: a prompt" in out and "curate/" in out


def test_what_nobody_knows_is_an_error_that_says_where_was_looked(made: MadeRuns, lineage, tmp_path: Path) -> None:
    write_output(tmp_path / "strange.mp4", FRAMES, {}, 25)
    said = lineage(str(tmp_path / "strange.mp4"), code=2)
    assert "carries no metadata" in said and "no artifact of" in said and "--store" in said
    (tmp_path / "torn.mp4").write_bytes((tmp_path / "strange.mp4").read_bytes()[:100])
    assert "torn.mp4 cannot be read" in lineage(str(tmp_path / "torn.mp4"), code=2)
    (kept,) = made.store.root.glob("evaluate.sft.1/*/out/samples/main/0001.mp4")
    kept.write_bytes(kept.read_bytes() + b"x")
    assert "its sha256 is another" in lineage(str(kept), code=2)


def test_the_raw_files_behind_a_model(made: MadeRuns, lineage) -> None:
    sft = model(made)
    found = json.loads(lineage(f"sft.1/{sft.manifest['key']}", "--clips", "--json"))["clips"]
    assert found["clips"] == 6  # 0, 1, 2 and 3, 6, 9
    assert {s["stage"]: (s["subsets"], s["clips"]) for s in found["stages"]} == {
        "sft.1": (["sft_1"], 3),
        "t2i": (["images"], 4),
    }
    rows = {f["file"]: (f["clips"], f["catalogued"], f["size"], f["seconds"], f["licence"]) for f in found["files"]}
    assert rows == {
        "f0.mp4": (1, 3, 0, 2.0, "CC-BY-4.0"),
        "f1.mp4": (2, 3, 1, 4.0, "CC-BY-4.0"),
        "f2.mp4": (2, 3, 2, 4.0, NOT_RECORDED),
        "f3.mp4": (1, 3, 3, 2.0, NOT_RECORDED),
    }
    out = lineage(f"sft.1/{sft.manifest['key']}", "--clips")
    assert "4 raw files, 6 clips" in out and "sft.1/" in out and "3 clips of sft_1" in out
    assert "4 raw files, 12 clips" in lineage("curate", "--clips")


def test_the_page_has_the_video_and_pictures_of_the_clips(made: MadeRuns, lineage, tmp_path: Path) -> None:
    write_output(tmp_path / "clip.mp4", FRAMES, {}, 25)
    sft = model(made, media=(tmp_path / "clip.mp4").read_bytes())
    about = {"prompt": "a <red> circle", "seed": 7, "model": f"sft.1/{sft.manifest['key'][:8]}"}
    write_output(tmp_path / "red.mp4", FRAMES, about, 25)
    assert "next: open file://" in lineage(str(tmp_path / "red.mp4"), "--html", str(tmp_path / "red.html"))
    html = (tmp_path / "red.html").read_text()
    assert html.count("data:video/mp4;base64,") == 1 and html.count("data:image/jpeg;base64,") == 6
    assert "a &lt;red&gt; circle" in html and "f3.mp4<small>raw, 1 of 3 clips" in html and "CC-BY-4.0" in html
    assert html.count("<b>curate</b>") == 1 and "above" in html and "stepvideo generate" in html
    for media in made.store.root.glob("curate/*/out/media/*"):
        media.unlink()
    lineage(f"sft.1/{sft.manifest['key']}", "--html", str(tmp_path / "red.html"))
    html = (tmp_path / "red.html").read_text()
    assert "image/jpeg" not in html and html.count("its clips have no media here") == 4


def test_a_hundred_thousand_clips(made: MadeRuns) -> None:
    sft = model(made, clips=100_000, files=20_000)
    started = time.process_time()
    found = clips_behind(made.store, sft)
    spent = time.process_time() - started
    print(f"{spent:.2f} s of processor time")
    assert found.clips == 33_336 and len(found.files) == 20_000 and spent < 10
