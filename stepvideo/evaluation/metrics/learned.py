"""Scores of networks whose weights the user gives: CLIP and aesthetics. Without weights, nulls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from stepvideo.curation.backends import Absent
from stepvideo.curation.backends.aesthetic import LAIONAesthetic
from stepvideo.curation.backends.embedding import ClipEmbedding, SmallEmbedding
from stepvideo.evaluation.metrics.base import HIGHER, Asked, Null
from stepvideo.evaluation.metrics.video import Video
from stepvideo.models.checkpoints import CLIP_FOLDER
from stepvideo.storage import sampled_digest, sha256_file


class Weighted:
    """Base of the metrics that a backend of curation computes, if it has its weights."""

    needs: ClassVar[tuple[str, ...]] = ("weights",)
    rates: ClassVar[tuple[str, ...]] = ()

    def __init__(self, weights: str, backend: Callable[[str], Any]) -> None:
        self.weights_digest, self.absent = "", ""
        try:
            self.backend = backend(weights)
        except Absent as e:
            self.absent = str(e)
        else:
            files = [Path(p) for p in type(self.backend).needs(weights)]
            self.weights_digest = "+".join(sampled_digest([p]) if p.is_dir() else sha256_file(p) for p in files)


class ClipScore(Weighted):
    """Mean cosine of the prompt and each of eight frames (CLIPScore, Hessel et al. 2021, without its factor 2.5; the
    report's CLIP Score of §7.1).

    Args:
        weights: folder of a CLIP or Chinese-CLIP in transformers' layout, which scores prompts of its own language; or
            of an artifact of the stage `text`, whose small CLIP knows the small world only and embeds a whole clip.
    """

    name, version = "clip_score", "1"
    values = {"clip_score": HIGHER}
    needs = ("weights", "prompt")

    def __init__(self, weights: str = "") -> None:
        small = weights and (Path(weights).expanduser() / CLIP_FOLDER).is_dir()
        super().__init__(weights, SmallEmbedding if small else ClipEmbedding)

    def score(self, video: Video, asked: Asked) -> dict[str, float] | Null:
        if self.absent or not asked.prompt:
            return Null(self.absent or "there is no prompt")
        towers = self.backend.towers
        if asked.lang not in towers.languages:
            return Null(f"the prompt's language is {asked.lang or 'not known'}; this CLIP knows {towers.languages[0]}")
        return {"clip_score": float((towers.frames(video.clip) @ towers.texts([asked.prompt])[0]).mean())}


class Aesthetic(Weighted):
    """LAION's aesthetic predictor (report §7.1), mean of eight frames, about 1 to 10.

    Args:
        weights: the head's file, in the folder of its CLIP.
    """

    name, version = "aesthetic", "1"
    values = {"aesthetic": HIGHER}

    def __init__(self, weights: str = "") -> None:
        super().__init__(weights, LAIONAesthetic)

    def score(self, video: Video, asked: Asked) -> dict[str, float] | Null:
        return Null(self.absent) if self.absent else self.backend(video.clip)
