"""The contact sheet: everything counted, some of every fate shown and playable, no file name taken for HTML."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from known_videos import encode, montage, numbers, shot

from stepvideo import storage
from stepvideo.cli import main
from stepvideo.curation import sheet, subsets
from stepvideo.curation.captioning import alignment
from stepvideo.curation.captioning.statistics import statistics
from stepvideo.curation.config import Filter, SubsetsConfig
from stepvideo.curation.records import clip_schema, files_schema, write_table
from stepvideo.curation.sheet_config import SheetConfig
from stepvideo.curation.verdicts import Verdicts
from stepvideo.data.captions import caption_schema
from stepvideo.data.clips import load_catalog
from stepvideo.data.video_io import read_image, read_video, write_image
from stepvideo.errors import ArtifactError
from stepvideo.stage import StageContext
from stepvideo.storage import checksums

NASTY = "quote\" '<script>alert(1)<\\script>\nline & more.mp4".replace("\\", "∕")
CAPTION = '<img src=x onerror="alert(2)"> & <b>'


class Found(HTMLParser):
    """Elements by tag, ids, and the text of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: dict[str, list[dict[str, str | None]]] = {}
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.setdefault(tag, []).append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of_class(self, name: str) -> list[dict[str, str | None]]:
        return [a for found in self.elements.values() for a in found if name in (a.get("class") or "").split()]


def clip_row(key: str, kind: str, name: str, file: str, start: int, end: int, caption: str, **tags: float) -> dict:
    fields = dict.fromkeys(clip_schema().names) | {"clip_id": f"{key:0>32}", "kind": kind, "file": file}
    fields |= {"first_frame": start, "frames": end - start, "height": 64, "width": 64, "fps": 24.0 * (kind == "clip")}
    fields |= {"captions": json.dumps({"short": {"en": [caption]}}), "caption_source": "sidecar"}
    fields |= {"caption_overlap": 1.0, "source_role": "raw", "source_file": name, "source_start": start}
    return fields | {"source_end": end} | {f"tag_{n}": v for n, v in tags.items()}


def file_row(name: str, status: str = "accepted", **more: object) -> dict:
    fields = dict.fromkeys(files_schema().names) | {"role": "raw", "file": name, "kind": "video", "status": status}
    return fields | {"reason": "", "detail": "", "dropped_shots": 0} | more


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A catalog with names that bite, its subsets, which remove a still clip at s2, and a side table."""
    root = tmp_path_factory.mktemp("sheet")
    curate = root / "curate"
    encode(curate / "media" / "a.mp4", shot(1, 40))
    encode(curate / "media" / "m.mkv", montage([30, 25, 40]), form="matroska", pix_fmt="yuv444p")
    encode(curate / "media" / "s.mp4", np.repeat(shot(3, 1), 30, 0))
    write_image(curate / "media" / "p.png", shot(4, 1)[0])
    moving = {"motion_mean": 1.0}
    rows = [
        clip_row("a", "clip", NASTY, "media/a.mp4", 3, 37, CAPTION, **moving),
        *(
            clip_row(f"b{i}", "clip", "montage.mkv", "media/m.mkv", x, y, f"shot {i}", **moving)
            for i, (x, y) in enumerate([(3, 27), (33, 52), (58, 92)])
        ),
        clip_row("c", "clip", "still.mp4", "media/s.mp4", 3, 27, "nothing moves", motion_mean=0.01),
        clip_row("d", "image", "picture.png", "media/p.png", 0, 1, "a picture"),
    ]
    frame = clip_row("e", "frame", NASTY, "media/a.mp4", 20, 21, CAPTION) | {"parent": f"{'a':0>32}"}
    write_table([*rows, frame], clip_schema(), curate / "catalog.parquet")
    files = [
        file_row(NASTY, frames=40, shots=1),
        file_row("montage.mkv", frames=95, shots=3),
        file_row("still.mp4", frames=30, shots=1),
        file_row("picture.png", frames=1) | {"kind": "image"},
        file_row("<b>broken.mp4", "quarantined", reason="unreadable", detail="no <video> & no sound"),
    ]
    write_table(files, files_schema(), curate / "files.parquet")
    chosen = root / "subsets"
    chosen.mkdir()
    rules = [Filter("motion_mean", "above", [0.0, 0.05, 0.05, 0.05, 0.05, 0.05])]
    subsets.run(StageContext(SubsetsConfig(filters=rules, sft_sets=1), {"curate": curate}, chosen, root))
    (root / "tags" / "tables").mkdir(parents=True)
    ids = [r["clip_id"] for r in rows]
    table = pa.table({"clip_id": ids, "zoom_speed": np.arange(len(ids)) + 0.125})
    pq.write_table(table, root / "tags" / "tables" / "camera.parquet")
    return {"curate": curate, "subsets": chosen, "tags": root / "tags"}


def report(inputs: dict[str, Path], out: Path, **config: object) -> Found:
    path = sheet.write_report(out, inputs["curate"], inputs["subsets"], [inputs["tags"]], config=SheetConfig(**config))
    return Found(path.read_text(encoding="utf-8"))


def test_every_clip_has_its_fate(inputs: dict[str, Path], tmp_path: Path) -> None:
    page = report(inputs, tmp_path)
    clips = {c.clip_id: c for c in load_catalog(inputs["curate"])}
    cards = page.of_class("card")
    assert {str(c["id"]).removeprefix("clip-") for c in cards} == set(clips)
    fates = {(clips[str(c["id"])[5:]].source["file"], c["data-fate"]) for c in cards if c["data-fate"] in ("s1", "s6")}
    assert fates == {(NASTY, "s6"), ("montage.mkv", "s6"), ("still.mp4", "s1")}
    assert "not in s2: motion_mean ≥ 0.05, here 0.01" in page.text
    assert "5 files gave 5 clips, 1 frame, 1 image; 1 in quarantine. 7 of 7 are shown" in page.text
    assert "zoom_speed" in page.text and "0.125" in page.text
    assert "<b>broken.mp4unreadableno <video> & no sound" in page.text
    assert len(page.of_class("timeline")) == 3
    titles = re.findall(r"frames (\d+) to (\d+)", page.text)
    assert ("33", "52") in titles  # the montage's second shot, without three frames at each end


def test_the_clips_play_what_training_reads(inputs: dict[str, Path], tmp_path: Path) -> None:
    page = report(inputs, tmp_path, seconds=0.5)
    clips = {c.clip_id: c for c in load_catalog(inputs["curate"])}
    assert len(page.elements["video"]) == 5
    for film in page.elements["video"]:
        path = tmp_path / str(film["src"])
        clip = clips[path.stem]
        video = read_video(path)
        assert video.shape == (12, 64, 64, 3)
        if clip.source["file"] != "still.mp4":
            assert numbers(video) == list(range(clip.source["start"], clip.source["start"] + 12))
        assert read_image(tmp_path / str(film["poster"])).shape == (64, 64, 3)
    assert len(page.elements["img"]) == 2


def test_names_and_captions_are_text(inputs: dict[str, Path], tmp_path: Path) -> None:
    page = report(inputs, tmp_path)
    assert NASTY in page.text and CAPTION in page.text and "<b>broken.mp4" in page.text
    assert len(page.elements["script"]) == 1 and "b" not in page.elements
    assert all(set(a) & {"onerror", "onload"} == set() for found in page.elements.values() for a in found)
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    linked = re.findall(r'(?:src|href|poster)="([^"]*)"', html)
    assert all(u.startswith(("#", "media/", "data:,")) and (u[0] != "m" or (tmp_path / u).is_file()) for u in linked)


def test_equal_inputs_give_equal_bytes(inputs: dict[str, Path], context: Callable, tmp_path: Path) -> None:
    report(inputs, tmp_path / "a")
    ctx = context("sheet", SheetConfig(), **inputs)
    assert sheet.run(ctx) == {"clips": 7.0, "shown": 7.0}
    assert checksums(ctx.out) == checksums(tmp_path / "a")


def test_without_subsets_and_with_a_broken_clip(inputs: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for path in inputs["curate"].rglob("*.parquet"):
        (copy / path.name).parent.mkdir(exist_ok=True)
        (copy / path.name).write_bytes(path.read_bytes())
    page = Found(sheet.write_report(tmp_path / "out", copy).read_text())
    assert len(page.of_class("bad")) == 7 and "cannot be read" in page.text
    assert {c["data-fate"] for c in page.of_class("card")} == {"all"}
    with pytest.raises(ArtifactError, match="is not a curated catalog"):
        sheet.write_report(tmp_path / "out", tmp_path)


def test_tens_of_thousands_are_sampled_with_their_counts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tags = rng.random((20_000, 2)).tolist()
    rows = [
        clip_row(f"{i:x}", "clip", f"{i}.mp4", "gone.mp4", 3, 43, "c", motion_mean=a, blur_fixed=b)
        for i, (a, b) in enumerate(tags)
    ]
    curate, chosen = tmp_path / "curate", tmp_path / "subsets"
    chosen.mkdir()
    write_table(rows, clip_schema(), curate / "catalog.parquet")
    write_table([], files_schema(), curate / "files.parquet")
    values = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    rules = [Filter("motion_mean", "above", values), Filter("blur_fixed", "above", values)]
    subsets.run(StageContext(SubsetsConfig(filters=rules), {"curate": curate}, chosen, tmp_path))
    page = Found(sheet.write_report(tmp_path / "out", curate, chosen, config=SheetConfig(clips=44)).read_text())
    fates = [str(c["data-fate"]) for c in page.of_class("card")]
    assert len(fates) == 44 and {f: fates.count(f) for f in set(fates)} == {"s6": 4} | {f"s{i}": 8 for i in range(1, 6)}
    table = dict(re.findall(r"(s\d: \w+ ≥ 0\.\d)(\d+?)4(?=s|\D|$)", page.text))
    verdicts = Verdicts.read(chosen)
    removed = {
        f"{level['subset']}: {s['filter']} {s['threshold']:.4g}": str(s["removed"])
        for level in verdicts.levels
        for s in level["filters"]
        if s["removed"]
    }
    assert len(removed) == 10 and table == removed  # the page's reasons are the funnel's counts
    assert (tmp_path / "out" / "index.html").stat().st_size < 2e6


def test_what_is_known_of_captions_is_told(inputs: dict[str, Path], tmp_path: Path) -> None:
    blank = dict.fromkeys(caption_schema().names) | {"kind": "short", "source": "vlm", "flags": []}
    said = [("a", "en", "a fox runs"), ("b0", "en", "a fox runs"), ("b1", "zh", "一只<b>狐狸"), ("b2", "en", "it runs")]
    rows = [blank | {"clip_id": f"{i:0>32}", "language": lang, "text": text} for i, lang, text in said]
    rows[3] |= {"flags": ["length"], "clip_score": 0.25}
    folder = tmp_path / "captions"
    write_table(rows, caption_schema(), folder / "captions.parquet")
    pq.write_table(pa.table({"clip_id": [r["clip_id"] for r in rows]}), folder / "clips.parquet")
    storage.write_json(folder / "statistics.json", statistics(rows) | {"without_clip_score": "no <weights>"})
    aligned = alignment.table([r["clip_id"] for r in rows], rows, "clip", "")
    (folder / "tables").mkdir()
    pq.write_table(aligned, folder / "tables" / "alignment.parquet")
    path = sheet.write_report(tmp_path / "out", inputs["curate"], inputs["subsets"], captions=folder)
    page = Found(path.read_text(encoding="utf-8"))
    assert "4 captions of 4 clips; 1 are doubted. No CLIP Score: no <weights>." in page.text
    assert "all en32" + "1" + "2.7" in page.text and "2a fox runs" in page.text and "b" not in page.elements
    plots = {svg.get("aria-label") for svg in page.elements["svg"]}
    assert {"Length, English, in words", "Length, Chinese, in characters", "Captions by language"} <= plots
    assert "clip_score" in page.text and "一只<b>狐狸" in page.text


def test_the_command_writes_one(inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = [str(inputs["curate"]), "--subsets", str(inputs["subsets"]), "--tables", str(inputs["tags"])]
    assert main(["sheet", *places, "--out", str(tmp_path), "--clips", "3"]) == 0
    path = capsys.readouterr().out.strip()
    assert len(Found(Path(path).read_text(encoding="utf-8")).of_class("card")) == 3
    assert main(["sheet", *places, "--out", str(tmp_path), "--clips", "0"]) == 2
    assert "clips=0: give 1 or more" in capsys.readouterr().err


def test_configs_name_what_is_wrong() -> None:
    for name, value in (("clips", 0), ("side", 8), ("listed", 0), ("seconds", 0)):
        with pytest.raises(ValueError, match=f"{name}={value}"):
            SheetConfig(**{name: value})
