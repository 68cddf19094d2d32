from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from known_videos import encode, shot

from stepvideo.curation import raw
from stepvideo.curation.config import RawConfig, RawRuntime
from stepvideo.data.video_io import write_image
from stepvideo.errors import StepVideoError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    encode(root / "sub dir" / "a'b\nü 空.MP4", shot(0, 10), options={"movflags": "faststart"})
    encode(root / "z.mkv", shot(1, 10), form="matroska")
    write_image(root / "pic.png", shot(2, 1)[0])
    (root / "sidecars.jsonl").write_text('{"file": "z.mkv"}\n')
    (root / "notes.txt").write_text("no medium")
    (root / ".hidden.mp4").write_bytes(b"x")
    return root


def test_everything_is_listed_linked_and_counted(folder: Path, context) -> None:
    (folder / "loop").symlink_to(folder)
    (folder / "gone.mp4").symlink_to(folder / "nowhere")
    ctx = context("raw", RawConfig(runtime=RawRuntime(path=str(folder))))
    metrics = raw.run(ctx)
    rows = {r["file"]: r for r in pq.read_table(ctx.out / "index.parquet").to_pylist()}
    assert sorted(rows) == ["gone.mp4", "pic.png", "sub dir/a'b\nü 空.MP4", "z.mkv"]
    assert (metrics["videos"], metrics["images"], metrics["unreadable"]) == (3, 1, 1)
    assert rows["gone.mp4"]["error"]
    for name in set(rows) - {"gone.mp4"}:
        assert (ctx.out / "files" / name).read_bytes() == (folder / name).read_bytes()
        assert os.path.samefile(ctx.out / "files" / name, folder / name)
    assert (ctx.out / "files" / "sidecars.jsonl").exists()
    assert not (ctx.out / "files" / "notes.txt").exists()


def test_the_digest_follows_content_and_names_not_the_place(folder: Path, tmp_path: Path) -> None:
    before = raw.content_digest(folder)
    folder.rename(tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere"
    (moved / "notes.txt").write_text("changed")
    assert raw.content_digest(moved) == before
    (moved / "sidecars.jsonl").write_text('{"file": "pic.png"}\n')
    said = raw.content_digest(moved)
    (moved / "z.mkv").rename(moved / "y.mkv")
    assert len({before, said, raw.content_digest(moved)}) == 3


def test_a_folder_that_changed_after_planning_is_refused(folder: Path, context) -> None:
    planned = raw.content_digest(folder)
    (folder / "pic.png").unlink()
    with pytest.raises(StepVideoError, match="changed since"):
        raw.run(context("raw", RawConfig(content=planned, runtime=RawRuntime(path=str(folder)))))


@pytest.mark.parametrize("what", ["missing", "empty", "file", "unset"])
def test_nothing_to_curate_is_a_clear_error(tmp_path: Path, context, what: str) -> None:
    place = tmp_path / "in"
    if what == "empty":
        place.mkdir()
        (place / "readme.txt").write_text("x")
    if what == "file":
        place.write_text("x")
    word = {"missing": "does not exist", "empty": "no video and no image", "file": "not a folder", "unset": "not set"}
    with pytest.raises(StepVideoError, match=word[what]):
        raw.run(context("raw", RawConfig(runtime=RawRuntime(path="" if what == "unset" else str(place)))))


def test_the_place_is_not_part_of_the_hashed_config() -> None:
    from stepvideo.config import dump, result_part

    here, there = (result_part(dump(RawConfig(content="c", runtime=RawRuntime(path=p)))) for p in ("/a", "/b"))
    assert here == there
