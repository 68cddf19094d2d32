"""The contact sheet in a real browser, from a file: it plays, filters, plots, and fits a phone in the dark."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stepvideo import storage
from stepvideo.curation import sheet, subsets
from stepvideo.curation.captioning import alignment
from stepvideo.curation.captioning.statistics import statistics
from stepvideo.curation.config import Filter, SubsetsConfig
from stepvideo.curation.records import clip_schema, files_schema, write_table
from stepvideo.data.captions import caption_schema
from stepvideo.data.video_io import write_video
from stepvideo.stage import StageContext

CLIPS = 8


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips, half of them in s6, each with a Chinese and an English caption."""
    root = tmp_path_factory.mktemp("sheet")
    video = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 3)).astype(np.uint8).repeat(12, 1).repeat(12, 2)
    write_video(root / "curate" / "media" / "a.mp4", video, 24)
    rows = [
        dict.fromkeys(clip_schema().names)
        | {"clip_id": f"{i:032x}", "kind": "clip", "file": "media/a.mp4", "first_frame": i, "frames": 30}
        | {"height": 96, "width": 96, "fps": 24.0, "captions": json.dumps({"short": {"en": ["x"]}})}
        | {"caption_source": "sidecar", "caption_overlap": 1.0, "source_role": "raw", "source_file": f"{i}.mp4"}
        | {"source_start": 0, "source_end": 30, "tag_motion_mean": float(i)}
        for i in range(CLIPS)
    ]
    write_table(rows, clip_schema(), root / "curate" / "catalog.parquet")
    write_table([], files_schema(), root / "curate" / "files.parquet")
    blank = dict.fromkeys(caption_schema().names) | {"kind": "short", "source": "vlm"}
    said = [
        blank | {"clip_id": r["clip_id"], "language": lang, "text": text, "flags": ["length"] * (lang == "zh")}
        for i, r in enumerate(rows)
        for lang, text in (("zh", "一只狐狸" + "跑" * i), ("en", "a very long word " + "so " * i + "x" * 60))
    ]
    write_table(said, caption_schema(), root / "captions" / "captions.parquet")
    ids = [r["clip_id"] for r in rows]
    pq.write_table(pa.table({"clip_id": ids}), root / "captions" / "clips.parquet")
    (root / "captions" / "tables").mkdir()
    pq.write_table(alignment.table(ids, said, "", "no weights"), root / "captions" / "tables" / "alignment.parquet")
    storage.write_json(root / "captions" / "statistics.json", statistics(said) | {"without_clip_score": "no weights"})
    (root / "subsets").mkdir()
    config = SubsetsConfig(filters=[Filter("motion_mean", "above", [0.0, *[4.0] * 5])], duplicates=True)
    subsets.run(StageContext(config, {"curate": root / "curate"}, root / "subsets", root))
    return sheet.write_report(root / "out", root / "curate", root / "subsets", captions=root / "captions")


def test_it_plays_filters_and_plots(page_file: Path, browser: type) -> None:
    with browser(1200, 900) as page:
        page.open(page_file)
        assert page.run("document.querySelectorAll('.card').length") == CLIPS
        page.run("document.querySelector('video').play()")
        page.until("document.querySelector('video').currentTime > 0")
        assert page.run("document.querySelector('video').videoWidth") == 96
        page.run("(e => { e.value = 's6'; e.dispatchEvent(new Event('change')); })(document.querySelector('#fate'))")
        shown = "[...document.querySelectorAll('.card')].filter(c => !c.hidden).map(c => c.dataset.fate)"
        assert page.run(shown) == ["s6"] * 4
        titles = page.run("[...document.querySelectorAll('#captions svg')].map(s => s.getAttribute('aria-label'))")
        assert titles[:3] == ["Length, English, in words", "Length, Chinese, in characters", "Captions by language"]
        assert titles[3:] == ["Captions that are doubted, by reason"]
        drawn = "[...document.querySelectorAll('#captions svg')].every(s => s.getBoundingClientRect().height > 40)"
        assert page.run(drawn)
        assert "16 captions of 8 clips; 8 are doubted. No CLIP Score: no weights." in page.run(
            "document.querySelector('#captions').textContent"
        )
        assert page.problems == []


def test_it_fits_a_phone_in_the_dark(page_file: Path, browser: type) -> None:
    with browser(390, 800, dark=True) as page:
        page.open(page_file)
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        background = page.run("getComputedStyle(document.body).backgroundColor")
        assert sum(map(int, background.removeprefix("rgb(").removesuffix(")").split(","))) < 200
        assert page.problems == []
