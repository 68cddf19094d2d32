from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stepvideo.data.clips import Clip, load_catalog, load_ids, load_table, read_clip
from stepvideo.data.video_io import read_video, write_image, write_video
from stepvideo.errors import ArtifactError


def row(clip_id: str, **changes: object) -> dict[str, object]:
    base = {
        "clip_id": clip_id,
        "kind": "clip",
        "file": "a.mp4",
        "first_frame": 3,
        "frames": 10,
        "height": 32,
        "width": 32,
    }
    base |= {
        "fps": 25.0,
        "crop": None,
        "captions": '{"short": {"zh": ["一", "二"], "en": ["a"]}, "title": {"en": ["t"]}}',
    }
    base |= {"caption_source": "sidecar", "attributes": '[{"colour": "red"}]', "tag_blur": 2.5, "tag_motion_mean": None}
    return base | {"source_file": "x.mp4"} | changes


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    video = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3)).astype(np.uint8).repeat(4, 1).repeat(4, 2)
    write_video(tmp_path / "a.mp4", video, 25)
    write_image(tmp_path / "i.png", video[0])
    rows = [
        row("one"),
        row("two", crop=[4, 8, 16, 20], height=20, width=16),
        row(
            "img", kind="image", file="i.png", first_frame=0, frames=1, attributes=None, crop=[0, 0, 32, 10], height=10
        ),
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "catalog.parquet")
    return tmp_path


def test_rows_become_clips(catalog: Path) -> None:
    one, two, image = load_catalog(catalog)
    assert one.tags == {"blur": 2.5, "motion_mean": None}
    assert one.attributes == [{"colour": "red"}]
    assert image.attributes is None
    assert two.crop == (4, 8, 16, 20)
    assert one.source == {"file": "x.mp4"}
    assert one.caption_list() == ["一", "二", "a", "t"]
    assert one.caption_list(kinds=["title", "dense"], languages=["en"]) == ["t"]
    assert load_table(catalog).num_rows == 3


def test_windows_and_crops_are_exact(catalog: Path) -> None:
    one, two, image = load_catalog(catalog)
    whole = read_video(catalog / "a.mp4")
    assert (read_clip(catalog, one) == whole[3:13]).all()
    assert (read_clip(catalog, one, 2, 4) == whole[5:9]).all()
    assert (read_clip(catalog, one, 8) == whole[11:13]).all()
    assert (read_clip(catalog, two, 0, 2) == whole[3:5, 8:28, 4:20]).all()
    assert read_clip(catalog, image).shape == (1, 10, 32, 3)


@pytest.mark.parametrize(("start", "frames"), [(0, 11), (10, None), (-1, 2), (0, 0)])
def test_a_window_outside_the_clip_is_refused(catalog: Path, start: int, frames: int | None) -> None:
    one: Clip = load_catalog(catalog)[0]
    with pytest.raises(ValueError, match="clip one has 10 frames"):
        read_clip(catalog, one, start, frames)


def test_ids_choose_and_order(catalog: Path) -> None:
    assert [c.clip_id for c in load_catalog(catalog, ["img", "one"])] == ["img", "one"]
    with pytest.raises(ArtifactError, match="no clip 'gone'"):
        load_catalog(catalog, ["one", "gone"])


def test_missing_and_damaged_catalogs_are_named(catalog: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a curated catalog"):
        load_table(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="s9.parquet is missing; this artifact has catalog"):
        load_ids(catalog / "s9.parquet")
    (catalog / "catalog.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_table(catalog)
    (catalog / "a.mp4").unlink()
    with pytest.raises(ArtifactError, match="a.mp4 cannot be read"):
        read_clip(catalog, Clip("x", "clip", "a.mp4", 0, 1, 32, 32, 25.0, None, {}, "none", None, {}))
