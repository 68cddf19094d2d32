from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stepvideo.curation.captioning.camera_set import SET, camera_motion_set
from stepvideo.data.video_io import write_video
from stepvideo.errors import StepVideoError
from stepvideo.storage import checksums

TAGS = ["pan_left", "pan_left", "pan_left", "static", None, "wobbly"]


def name(i: int) -> str:
    return f"{i:032x}"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A catalog whose clips are windows of one file, cropped, and their tags."""
    curate, tags = tmp_path_factory.mktemp("curate"), tmp_path_factory.mktemp("tags")
    frames = np.repeat(np.arange(60, 240, 3, dtype=np.uint8), 48 * 64 * 3).reshape(60, 48, 64, 3)
    write_video(curate / "a.mp4", frames, 10.0)
    rows = [
        {"clip_id": name(i), "kind": "clip", "file": "a.mp4", "first_frame": 10 * i, "frames": 10, "height": 48}
        | {"width": 32, "fps": 10.0, "crop": [16, 0, 32, 48], "captions": "{}", "caption_source": "none"}
        | {"attributes": None, "parent": None}
        for i in range(len(TAGS))
    ]
    pq.write_table(pa.Table.from_pylist(rows), curate / "catalog.parquet")
    (tags / "tables").mkdir()
    table = pa.table({"clip_id": [name(i) for i in range(len(TAGS))], "camera": TAGS})
    pq.write_table(table, tags / "tables" / "camera.parquet")
    return curate, tags


def lines(out: Path) -> dict[int, dict[str, Any]]:
    return {int(r["clip_id"], 16): r for r in map(json.loads, (out / SET).read_text(encoding="utf-8").splitlines())}


def test_clips_with_their_labels_and_pictures(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    assert camera_motion_set(*_swap(inputs, tmp_path), frames=2) == {"static": 1, "pan_left": 3}
    found = lines(tmp_path)
    assert [found[i]["label"] for i in range(4)] == ["pan_left"] * 3 + ["static"] and len(found) == 4
    assert found[3]["zh"] == "镜头固定不动" and found[3]["from"] == "tag" and found[0]["split"] in ("train", "held_out")
    picture = cv2.imread(str(tmp_path / found[2]["frames"][1]))
    assert (
        picture.shape == (48, 32, 3) and abs(float(picture.mean()) - (60 + 3 * 27)) < 4
    )  # frame 7 of the third window


def test_people_win_over_tags(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    said = {0: "Zoom in", 3: "", 4: "orbit"}
    labels.write_text("\n".join(json.dumps({"clip_id": name(i), "label": s}) for i, s in said.items()) + "\n\n")
    assert camera_motion_set(*_swap(inputs, tmp_path), labels=labels) == {"pan_left": 2, "zoom_in": 1, "orbit": 1}
    assert {i: r["from"] for i, r in lines(tmp_path).items()} == {0: "human", 1: "tag", 2: "tag", 4: "human"}


def test_labels_are_balanced_and_the_draw_repeats(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    made = []
    for run in ("a", "b"):
        assert camera_motion_set(*_swap(inputs, tmp_path / run), per_label=1) == {"static": 1, "pan_left": 1}
        made.append(checksums(tmp_path / run))
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            json.dumps({"clip_id": name(0), "label": "sideways"}),
            ":1: 'sideways' is no camera movement; give one of static",
        ),
        ('{"clip_id": "77", "label": "static"}', ":1: the catalog has no clip '77'"),
        ('{"clip": "77"}', ":1 is not"),
    ],
)
def test_labels_that_cannot_be_used_are_named(
    inputs: tuple[Path, Path], tmp_path: Path, line: str, message: str
) -> None:
    labels = tmp_path / "labels.jsonl"
    labels.write_text(line)
    with pytest.raises(StepVideoError, match=message):
        camera_motion_set(*_swap(inputs, tmp_path), labels=labels)


def test_no_label_at_all_is_an_error(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(StepVideoError, match="no clip of .* has a camera movement"):
        camera_motion_set(inputs[0], tmp_path)


def _swap(inputs: tuple[Path, Path], out: Path) -> tuple[Path, Path, list[Path]]:
    return inputs[0], out, [inputs[1]]
