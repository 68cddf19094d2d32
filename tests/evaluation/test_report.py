"""The report: complete and self-contained with all inputs, sensible with few; it plays in a browser."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from intervals import bare, bare_cells

from stepvideo import storage
from stepvideo.config import load
from stepvideo.errors import ArtifactError
from stepvideo.evaluation.config import ReportConfig
from stepvideo.evaluation.report import run
from stepvideo.evaluation.results import GATE_PARTS
from stepvideo.stage import StageContext

VOID = {"meta", "link", "img"}


def build(inputs: dict[str, Path], folder: Path, **config: Any) -> tuple[str, dict[str, float]]:
    folder.mkdir(parents=True, exist_ok=True)
    metrics = run(StageContext(load(ReportConfig, config), inputs, folder, folder))
    return (folder / "report.html").read_text(encoding="utf-8"), metrics


class Checker(HTMLParser):
    """Counts tags and fails on one that is closed but not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}
        self.sources: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        self.sources += [v for k, v in attrs if k in ("src", "href", "data-src") and v]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


def check(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert not checker.open
    outside = [s for s in checker.sources if not s.startswith(("data:", "#"))]
    assert not outside and "http://" not in html and "https://" not in html
    assert "@import" not in html and "url(" not in html
    return checker


@pytest.fixture(scope="module")
def whole(cascade, tmp_path_factory) -> tuple[Path, str, dict[str, float]]:
    folder = tmp_path_factory.mktemp("report")
    html, metrics = build(cascade, folder, title="micro")
    return folder, html, metrics


def test_everything_is_there_and_nothing_comes_from_outside(whole):
    folder, html, metrics = whole
    checker = check(html)
    assert metrics["prompts"] == 8
    assert checker.count["video"] == 8 * 7  # five models, one of them in three ways
    assert re.findall(r'<section id="(\w+)"', html) == [
        "findings", "videos", "scores", "oracle", "training", "data", "lineage",
    ]  # fmt: skip
    assert len(html.encode()) < 8e6
    assert '<span lang="zh">' in html and '<span lang="en">' in html
    assert sorted(p.name for p in folder.iterdir()) == ["report.html", "report.json"]


def test_figures_are_in_the_json(whole):
    folder, html, _ = whole
    report = storage.read_json(folder / "report.json")
    assert list(report["models"]) == sorted(
        ["t2vi_540.s6", "sft.1", "average", "dpo", "dpo/steps8", "dpo/steps50", "turbo"]
    )
    rate = report["models"]["turbo"]["splits"]["heldout"]["rates"]["all"]
    assert f"{100 * rate['value']:.1f} %" in html and rate["low"] < rate["value"] <= rate["high"]
    assert report["models"]["dpo/steps50"]["nfe"] == 100
    assert len(report["claims"]) == 15 and all(c["title"].split(":")[0] in html for c in report["claims"])
    assert report["lineage"][0]["stage"] == "raw" and report["subsets"]["levels"][5]["left"] == 43


def test_every_mean_has_its_interval(whole, evaluation, tmp_path):
    folder, html, _ = whole
    assert bare(storage.read_json(folder / "report.json")) == [] == bare_cells(html)
    assert html.count("of 288, bar 99.5 %") == 5 and "98.7–100.0, of 288" in html
    assert re.search(r"relative distance of \d\.\d\d \(\d\.\d\d to \d\.\d\d\) from the teacher", html)
    old = evaluation(tmp_path / "e", 0.9, videos=0)
    summary = storage.read_json(old / "summary.json")
    for part in GATE_PARTS:  # as artifacts had it before gates had intervals
        summary["gate"][part] = {n: {k: r[k] for k in ("rate", "n", "bar")} for n, r in summary["gate"][part].items()}
    storage.write_json(old / "summary.json", summary)
    assert "98.7–100.0, of 288" in build({"evaluate.sft.1": old}, tmp_path / "r")[0]


def test_data_switches_are_marked(whole):
    _, html, _ = whole
    chart = next(c for c in html.split("<svg ") if "T2VI 192: loss" in c)
    assert chart.count('class="mark"') == 3
    assert [s for s in ("s1", "s2", "s3") if f">{s}</text>" in chart] == ["s1", "s2", "s3"]
    assert "Text clip: loss" in html and "Text llm: loss" in html
    sft = next(c for c in html.split("<svg ") if "SFT: loss" in c)
    assert 'class="mark"' not in sft and sft.count("<polyline") == 4  # two parallel runs, steps and averages


def test_models_and_stages_come_in_the_order_of_the_cascade(whole):
    _, html, _ = whole
    names = [re.sub("<.*", "", c) for c in html.split('id="scores"')[1].split("</table>")[0].split("<tr><td>")[1:]]
    assert names == ["T2VI 540 s6", "SFT 1", "Average", "DPO", "DPO · steps8", "DPO · steps50", "Turbo"]
    titles = re.findall(r'class="title">([^<]*): loss<', html)
    assert titles == ["Text clip", "Text llm", "VAE2", "T2I", "T2VI 192", "SFT", "DPO", "Turbo"]


def test_the_same_inputs_in_any_order_give_the_same_bytes(whole, cascade, tmp_path):
    folder, _, _ = whole
    build(dict(sorted(cascade.items(), reverse=True)), tmp_path, title="micro")
    for name in ("report.html", "report.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_a_report_of_nothing_says_so(tmp_path):
    html, metrics = build({}, tmp_path)
    check(html)
    assert "No model was evaluated" in html and metrics["prompts"] == 0
    assert html.count("not measured") >= 15  # every finding that the cascade promises is named as absent


def test_only_some_inputs(cascade, evaluation, tmp_path):
    for k, roles in enumerate((["evaluate.sft.1"], ["train.t2i"], ["curate"], ["subsets"], ["lineage"])):
        html, _ = build({r: cascade[r] for r in roles}, tmp_path / str(k))
        check(html)
    sections = re.findall(r'<section id="(\w+)"', build({"curate": cascade["curate"]}, tmp_path / "c")[0])
    assert sections == ["findings", "data"]


def test_untestable_attributes_have_no_figure(evaluation, tmp_path):
    folder = evaluation(tmp_path / "e", 0.97, untestable=("shape", "count"), videos=2)
    html, _ = build({"evaluate.sft.1": folder}, tmp_path / "r", targets=[], comparisons=[])
    check(html)
    table = html.split('id="scores"')[1].split("</table>")[0]
    cells = re.findall(r"<td class=\"none\">(.*?)</td>", table)
    assert cells == ["untestable"] * 3  # shape, count and so all
    report = storage.read_json(tmp_path / "r" / "report.json")
    assert report["models"]["sft.1"]["splits"]["train"]["rates"]["shape"] is None


def test_the_size_limit_drops_whole_prompts(cascade, tmp_path):
    inputs = {k: v for k, v in cascade.items() if k.startswith("evaluate.")}
    html, metrics = build(inputs, tmp_path, max_mb=0.7)
    assert len(html.encode()) <= 0.7e6 and 0 < metrics["prompts"] < 8
    assert f"{8 - int(metrics['prompts'])} more were kept but do not fit" in html
    assert check(html).count["video"] == 7 * metrics["prompts"]


def test_hostile_texts_are_escaped(evaluation, tmp_path):
    folder = evaluation(tmp_path / "e", 0.9, videos=1)
    rows = (folder / "results.jsonl").read_text().replace('"text":"', '"text":"<script>alert(1)</script>')
    (folder / "results.jsonl").write_text(rows)
    html, _ = build({"evaluate.sft.1": folder}, tmp_path / "r", title="<b>&")
    assert "<script>alert" not in html and "&lt;script&gt;alert" in html and "<title>&lt;b&gt;&amp;</title>" in html
    check(html)


def test_damaged_inputs_are_errors(evaluation, cascade, tmp_path):
    folder = evaluation(tmp_path / "e", 0.9, videos=0)
    lines = (folder / "results.jsonl").read_text().splitlines(keepends=True)
    (folder / "results.jsonl").write_text("".join(lines[:5] + lines[6:]))
    with pytest.raises(ArtifactError, match=r"no result for prompt \[5\]"):
        build({"evaluate.sft.1": folder}, tmp_path / "r")
    storage.write_atomic(tmp_path / "t" / "loss_curve.json", '{"columns": ["step", "loss"], "rows": [[1]]}')
    with pytest.raises(ArtifactError, match="is no loss curve"):
        build({"train.t2i": tmp_path / "t"}, tmp_path / "r2")
    with pytest.raises(ArtifactError, match="lineage is not JSON"):
        build({}, tmp_path / "r3", lineage="{")


def test_lineage_may_come_with_the_config(cascade, tmp_path):
    text = (cascade["lineage"] / "lineage.json").read_text()
    html, _ = build({}, tmp_path, lineage=text)
    tree = html.split('class="tree"')[1]
    assert tree.count("<li>curate") == 2 and tree.count("as above") == 1  # unfolded once, named twice
    assert tree.index("evaluate.sft.1") < tree.index("<li>raw")


def test_videos_play_in_a_browser(whole, browser):
    folder, _, _ = whole
    with browser(1200, 900) as b:
        b.open(folder / "report.html")
        first = "document.querySelectorAll('video')[0]"
        assert b.run(f"{first}.paused || {first}.currentTime === 0")  # not before it is in view
        b.run(f"{first}.scrollIntoView({{block: 'center'}})")
        b.until(f"{first}.readyState >= 2 && {first}.currentTime > 0 && !{first}.paused")
        assert b.run(f"[{first}.videoWidth, {first}.videoHeight]") == [192, 192]
        assert b.run(f"{first}.duration") == pytest.approx(17 / 25, abs=0.03)
        before = b.run(f"{first}.getVideoPlaybackQuality().totalVideoFrames")
        time.sleep(1.2)  # longer than the clip: it loops
        assert b.run(f"{first}.getVideoPlaybackQuality().totalVideoFrames") > before + 10
        b.run(f"{first}.click()")
        assert b.run(f"{first}.paused")
        b.run("document.querySelectorAll('video')[55].scrollIntoView({block: 'center'})")
        b.until("document.querySelectorAll('video')[55].currentTime > 0")
        b.until(f"!{first}.getAttribute('src')")  # let go of, so that the browser's players do not run out
        assert b.problems == []


def test_it_fits_a_phone_in_the_dark(whole, browser, tmp_path):
    folder, _, _ = whole
    with browser(390, 800, dark=True) as b:
        b.open(folder / "report.html")
        assert b.run("document.documentElement.scrollWidth") <= 390
        background, text = (b.run(f"getComputedStyle(document.body).{p}") for p in ("backgroundColor", "color"))
        dark, light = (sum(map(int, re.findall(r"\d+", c)[:3])) for c in (background, text))
        assert dark < 120 < 600 < light
        b.picture(tmp_path / "phone.png")
        assert (tmp_path / "phone.png").stat().st_size > 10_000
        assert b.problems == []
