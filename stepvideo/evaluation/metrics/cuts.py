"""Cuts and gradual transitions: a generated video is asked to be one shot."""

from __future__ import annotations

from stepvideo.curation.config import SegmentConfig
from stepvideo.curation.segment import CutDetector
from stepvideo.evaluation.metrics.base import LOWER, Asked, Computed
from stepvideo.evaluation.metrics.video import Video


class Cuts(Computed):
    """Hard cuts, and fades, dissolves and wipes, as curation finds them (report §7.1): counts of one video."""

    name, version = "cuts", "1"
    values = {"cuts": LOWER, "transitions": LOWER}

    def score(self, video: Video, asked: Asked) -> dict[str, float]:
        found = detect(video)
        return {"cuts": float(len(found.cuts)), "transitions": float(len(found.transitions))}


def detect(video: Video) -> CutDetector:
    """Its `cuts` are the first frames of new shots."""
    detector = CutDetector(SegmentConfig())
    for frame in video.frames:
        detector.add(frame[..., ::-1])
    return detector.finish()
