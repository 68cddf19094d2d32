"""`stepvideo evaluate videos`: nothing is scored without its prompt; every way to the scores gives the same bytes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from intervals import bare
from scipy.stats import sem
from scipy.stats import t as student

from stepvideo import storage
from stepvideo.cli import main
from stepvideo.data.video_io import write_video
from stepvideo.errors import ArtifactError
from stepvideo.evaluation import manifest, scoring, summary, videos_page
from stepvideo.evaluation.metrics.base import Scores
from stepvideo.evaluation.metrics.registry import metrics_of
from stepvideo.evaluation.scoring import Choice, score
from stepvideo.evaluation.suites.adopt import adopt
from stepvideo.evaluation.suites.schema import Prompt, Suite

CHEAP = Choice(("flicker", "picture", "oracle"))  # the last knows nothing of these prompts
SUITE = Suite("four", tuple(Prompt(f"p{i}", en=f"text {i % 3}", category="ab"[i % 2]) for i in range(4)))


def videos(folder: Path, noise: float) -> Path:
    """Two samples a prompt, of grey noise."""
    draw = np.random.default_rng(0)
    for i in range(4):
        for n in range(2):
            frames = np.clip(draw.normal(128, 1 + noise * (i + 1), (3, 32, 32, 3)), 0, 255).astype(np.uint8)
            write_video(folder / f"p{i}-{n}.mp4", frames, 8)
    adopt(folder, SUITE, "{id}-{n}", samples=2)
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return videos(tmp_path / "a", 2)


def run(folder: Path, *args: str, workers: int = 1) -> int:
    metrics = ["--metrics", ",".join(CHEAP.names)]
    return main(["evaluate", "videos", str(folder), *metrics, "--workers", str(workers), *args])


def results(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (folder / "results").iterdir()}


def test_every_mean_has_its_interval(folder, capsys):
    assert run(folder) == 0
    out = capsys.readouterr().out
    assert "8 videos of 3 prompts" in out and "not measured on 8: oracle_colour" in out
    found = json.loads((folder / "results" / "results.json").read_text())
    assert found["partial"] is None and found["settings"]["source"] == "given"
    assert bare(found) == [] and "jackknife" in found["intervals"]
    for name, value in found["values"].items():
        groups = [value["all"], *value["by_category"].values()]
        if name.startswith("oracle"):
            assert all(g["mean"] is None and g["n"] == 0 and sum(g["null"].values()) in (8, 4) for g in groups)
        else:
            assert all(g["low"] <= g["mean"] <= g["high"] for g in groups) and value["all"]["n"] == 8
    assert found["values"]["temporal_flicker"]["all"]["prompts"] == 3  # p0 and p3 have one text
    lines = (folder / "results" / "scores.jsonl").read_text().splitlines()
    mean = np.mean([json.loads(line)["values"]["temporal_flicker"] for line in lines])
    assert found["values"]["temporal_flicker"]["all"]["mean"] == pytest.approx(mean, abs=1e-12)
    page = (folder / "results" / "results.html").read_text()
    assert "By category" in page and "http" not in page.replace("http-equiv", "")
    assert "| temporal_flicker ↑ |" in (folder / "results" / "results.md").read_text()


def test_a_run_that_ended_anywhere_goes_on_to_the_same_bytes(folder, tmp_path):
    """By an exception that nobody catches: a fork of this process may not compute. tests/soak kills with -9."""
    clean = shutil.copytree(folder, tmp_path / "clean")
    assert run(clean) == 0
    shutil.rmtree(clean / scoring.CACHE)
    whole = manifest.load(folder)

    def fall(done: int, total: int) -> None:
        if done == 5:
            raise SystemExit

    with pytest.raises(SystemExit):
        score(whole, CHEAP, on_done=fall)
    seen: list[tuple[int, int]] = []
    score(whole, CHEAP, on_done=lambda *n: seen.append(n))
    assert seen == [(5, 8), (6, 8), (7, 8), (8, 8)]
    assert run(folder) == 0 and results(folder) == results(clean)


def test_four_workers_equal_one(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    assert run(folder) == 0 and run(other, workers=4) == 0
    assert results(folder) == results(other)


def test_each_video_is_decoded_once_and_what_is_known_not_at_all(folder, monkeypatch):
    decoded: list[str] = []
    real = scoring.read_video
    monkeypatch.setattr(scoring, "read_video", lambda path: decoded.append(path.name) or real(path))
    whole = manifest.load(folder)
    first = score(whole, CHEAP)
    assert len(decoded) == 8
    assert score(whole, CHEAP) == first and len(decoded) == 8
    more = score(whole, Choice((*CHEAP.names, "cuts")))
    assert len(decoded) == 16 and all(set(m.values) > set(f.values) for m, f in zip(more, first))
    fresh = score(whole, Choice((*CHEAP.names, "cuts")), cache=folder / ".elsewhere")
    assert fresh == more


def test_what_a_metric_was_told_is_part_of_what_is_kept(folder):
    whole = manifest.load(folder)
    flicker, oracle = metrics_of(["flicker", "oracle"])
    v = whole.videos[0]
    other = replace(v, text="another")
    cache = folder / scoring.CACHE
    assert scoring._kept(cache, v, flicker) == scoring._kept(cache, other, flicker)
    assert scoring._kept(cache, v, oracle) != scoring._kept(cache, other, oracle)
    assert scoring._kept(cache, v, flicker) != scoring._kept(cache, replace(v, sha256="0"), flicker)


def test_a_broken_video_is_an_error_and_the_others_are_kept(tmp_path, capsys):
    folder = videos(tmp_path / "a", 1)
    data = (folder / "p2-0.mp4").read_bytes()
    (folder / "p2-0.mp4").write_bytes(data[: data.index(b"mdat") + 40])
    rows = storage.read_json_lines(folder / manifest.MANIFEST)
    made = [manifest.Video(**{**r, "sha256": storage.sha256_file(folder / r["file"])}) for r in rows]
    manifest.write(folder, made)  # as if it had been made like this
    assert run(folder) == 2
    assert "p2-0.mp4 cannot be read as video" in capsys.readouterr().err
    assert not (folder / "results").exists()
    whole = manifest.load(folder)
    jobs = [
        scoring._Job(str(folder / v.file), v, CHEAP, CHEAP.names, str(folder / scoring.CACHE)) for v in whole.videos
    ]
    assert scoring._measure_all(jobs[:1]) == [""]  # what a worker does, and how it tells what is wrong
    assert "p2-0.mp4 cannot be read" in scoring._measure_all([jobs[4]])[0]


def test_partial_is_written_into_every_result(folder, capsys):
    (folder / "p1-1.mp4").unlink()
    assert run(folder) == 2 and "1 of 8 videos are missing: p1 en 1" in capsys.readouterr().err
    assert not (folder / "results").exists()
    assert run(folder, "--partial") == 0
    assert "PARTIAL: 1 of 8 videos are missing" in capsys.readouterr().out
    found = json.loads((folder / "results" / "results.json").read_text())
    assert found["partial"] == {"expected": 8, "missing": ["p1 en 1"]} and found["videos"] == 7
    for ending in ("md", "html"):
        assert "PARTIAL" in (folder / "results" / f"results.{ending}").read_text()


def test_two_models(folder, tmp_path, capsys):
    worse = videos(tmp_path / "b", 8)
    assert run(folder, "--against", str(worse), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pairs"] == 8 and found["unpaired"] == [] and not found["same_seeds"]
    d = found["values"]["temporal_flicker"]["difference"]
    a, b = (json.loads((f / "results" / "results.json").read_text())["values"] for f in (folder, worse))
    means = [v["temporal_flicker"]["all"]["mean"] for v in (a, b)]
    assert d["value"] == pytest.approx(means[0] - means[1], abs=1e-12) and d["low"] <= d["value"] <= d["high"]
    assert found["values"]["oracle_all"]["verdict"] == "not measured" and bare(found) == []
    assert (folder / "results" / "comparison.md").exists()
    assert run(folder, "--against", str(folder)) == 0  # A/A
    text = capsys.readouterr().out
    assert "no difference shown" in text and "a better" not in text and "b better" not in text


def test_what_cannot_be_paired(folder, tmp_path, capsys):
    worse = videos(tmp_path / "b", 8)
    (worse / "p3-1.mp4").unlink()
    assert run(folder, "--against", str(worse), "--partial") == 0
    assert "1 videos have no partner and are left out" in capsys.readouterr().out
    other = tmp_path / "c"
    shutil.copytree(folder, other, ignore=shutil.ignore_patterns("results", "*.json", "*.jsonl", ".scores"))
    adopt(other, Suite("x", tuple(Prompt(f"p{i}", en=f"new {i}") for i in range(4))), "{id}-{n}", samples=2)
    assert run(folder, "--against", str(other)) == 2 and "they are of different suites" in capsys.readouterr().err


def test_differences_that_are_there_are_shown(folder):
    """30 prompts, b one less on every video: interval, sign flips and verdict say so in the better direction."""
    rows = tuple(manifest.Video("s", f"p{i}", f"p{i}", "en", 0, f"{i}.mp4", "t", sha256="x", seed=i) for i in range(30))
    found = manifest.Manifest(folder, {}, rows, [])
    flicker = metrics_of(["flicker"])
    names = [n for m in flicker for n in m.values]
    draw = np.random.default_rng(1)
    a = [Scores({n: float(x) for n in names}, {}) for x in draw.normal(0, 1, 30)]
    b = [Scores({n: s.values[n] - 1 - 0.1 * (i % 3) for n in names}, {}) for i, s in enumerate(a)]
    out = summary.contrast(found, found, a, b, flicker)["values"]["temporal_flicker"]
    assert out["verdict"] == "a better" and 1 < out["difference"]["low"] < out["difference"]["high"] < 1.2
    assert out["p"] < 0.001 and out["p"] <= out["p_holm"]
    assert summary.contrast(found, found, b, a, flicker)["values"]["temporal_flicker"]["verdict"] == "b better"


def test_intervals_over_a_dozen_prompts_are_students(folder):
    """The percentile bootstrap over so few holds the truth in nine of ten."""
    rows = tuple(manifest.Video("s", f"p{i}", f"p{i // 2}", "en", 0, f"{i}.mp4", "t", sha256="x") for i in range(24))
    (flicker,) = metrics_of(["flicker"])
    x = np.random.default_rng(2).normal(0, 1, 24)
    scores = [Scores(dict.fromkeys(flicker.values, float(v)), {}) for v in x]
    values = summary.summary(manifest.Manifest(folder, {}, rows, []), scores, [flicker])["values"]
    found, means = values["temporal_flicker"]["all"], x.reshape(12, 2).mean(1)
    expected = student.interval(0.95, 11, means.mean(), sem(means))
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((x.mean(), *expected))


def test_one_prompt_has_no_interval_and_says_so(folder):
    rows = tuple(manifest.Video("s", "p", "p", "en", i, f"{i}.mp4", "t", sha256="x", category="c") for i in range(3))
    (flicker,) = metrics_of(["flicker"])
    scores = [Scores(dict.fromkeys(flicker.values, 0.5 + i), {}) for i in range(3)]
    found = summary.summary(manifest.Manifest(folder, {}, rows, []), scores, [flicker])
    assert found["values"]["temporal_flicker"]["all"]["low"] is None and bare(found) == []
    head, table = videos_page.values_table(found)
    assert all("no interval: one prompt" in row[head.index("95 % interval")] for row in table)
    assert "1.5 (no interval: one prompt)" in videos_page.group_table(found, "by_category")[1][0]


def test_what_is_always_right_is_not_certain(folder):
    rows = tuple(manifest.Video("s", f"p{i}", f"p{i // 2}", "en", 0, f"{i}.mp4", "t", sha256="x") for i in range(20))
    (oracle,) = metrics_of(["oracle"])
    right = [Scores(dict.fromkeys(oracle.values, 1.0), {}) for _ in rows]
    found = summary.summary(manifest.Manifest(folder, {}, rows, []), right, [oracle])["values"]["oracle_all"]["all"]
    assert (found["mean"], found["high"], found["n"], found["prompts"]) == (1.0, 1.0, 20, 10)
    assert found["low"] == pytest.approx(0.7225, abs=1e-4)  # Wilson, 10 of 10


def test_no_manifest_no_score(tmp_path, capsys):
    write_video(tmp_path / "a.mp4", np.zeros((3, 32, 32, 3), np.uint8), 8)
    assert run(tmp_path) == 2 and "has no manifest.jsonl" in capsys.readouterr().err
    with pytest.raises(ArtifactError, match="without knowing what a video shows nothing is scored"):
        manifest.load(tmp_path)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--metrics", "beauty"], "metric 'beauty' is not known"),
        (["--weights", "clip_score"], "give METRIC=PATH"),
        (["--workers", "-1"], "--workers -1"),
    ],
)
def test_mistakes_are_told_before_the_work(folder, capsys, args, message):
    assert main(["evaluate", "videos", str(folder), *args]) == 2
    assert message in capsys.readouterr().err and not (folder / scoring.CACHE).exists()
