"""CLIP Scores: those of the report's definition, from what the stage `tags` kept; null with a reason without a CLIP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clip_folders import clip_frames, save_chinese_clip, save_clip

from stepvideo.curation.backends import Absent
from stepvideo.curation.backends.clip_model import released
from stepvideo.curation.backends.embedding import ClipEmbedding
from stepvideo.curation.captioning import alignment
from stepvideo.errors import ArtifactError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


def tags(root: Path, folder: Path, absent: str = "") -> Path:
    """The table of two clips' embeddings; a third has none."""
    found = [] if absent else [{"clip_id": f"clip{i}"} | ClipEmbedding(str(folder))(clip_frames(i)) for i in (0, 1)]
    columns = [("clip_id", pa.string()), ("embedding", pa.list_(pa.float32())), ("embedding_length", pa.float64())]
    schema = pa.schema(columns, metadata={"backend": "clip", "absent": absent})
    (root / "tables").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([*found, {"clip_id": "none"}], schema), root / "tables" / "embedding.parquet")
    return root


def row(clip: str, text: str, language: str = "en") -> dict:
    return {"clip_id": clip, "text": text, "language": language}


def test_a_score_is_the_mean_cosine_of_frames_and_caption(folder: Path, tmp_path: Path) -> None:
    seen = alignment.read_embeddings([tags(tmp_path, folder)])
    texts = [f"{a} {b}" for a in "abc" for b in "abc"] * 20
    rows = [row(f"clip{i % 2}", text) for i, text in enumerate(texts)]
    told: list[tuple[int, int]] = []
    found = alignment.scores(rows, seen, alignment.text_towers("clip", str(folder)), lambda *n: told.append(n))
    towers = released(folder)
    for r, score in zip(rows[:9], found):
        cosines = towers.frames(clip_frames(int(r["clip_id"][-1]))) @ towers.texts([r["text"]])[0]
        assert score == pytest.approx(float(np.mean(cosines)), abs=1e-6)
    assert found[:18] == found[18:36] and told == [(9, 9)]


def test_other_languages_and_clips_without_an_embedding_have_none(folder: Path, tmp_path: Path) -> None:
    seen = alignment.read_embeddings([tags(tmp_path, folder)])
    rows = [row("clip0", "a"), row("clip0", "猫", "zh"), row("none", "a")]
    towers = alignment.text_towers("clip", str(folder))
    found = alignment.scores(rows, seen, towers, lambda *_: None)
    assert [f is None for f in found] == [False, True, True]
    assert released(save_chinese_clip(tmp_path / "zh")).languages == ("zh",)
    scored = [r | {"clip_score": s} for r, s in zip([*rows, row("clip0", "b")], [0.25, None, None, 0.75])]
    table = alignment.table(["clip0", "none"], scored, "clip", "")
    assert table.to_pydict() == {"clip_id": ["clip0", "none"], "clip_score": [0.5, None]}


def test_what_is_missing_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Absent, match="set its backends.embedding"):
        alignment.read_embeddings([tmp_path])
    with pytest.raises(Absent, match="no weights were given"):
        alignment.read_embeddings([tags(tmp_path / "a", folder, absent="no weights were given")])
    with pytest.raises(Absent, match="no weights were given"):
        alignment.text_towers("clip", "")
    other = alignment.Embeddings("clip", {"c": np.ones(5, np.float32)}, {"c": 1.0})
    with pytest.raises(ArtifactError, match="embeddings of 5 numbers, texts of 16"):
        alignment.scores([row("c", "a")], other, alignment.text_towers("clip", str(folder)), lambda *_: None)
