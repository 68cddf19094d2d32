"""NSFW score without a download: NudeNet's detector, which its wheel holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from stepvideo.curation.backends import Absent, look_for
from stepvideo.curation.clip_frames import ClipFrames

EXPOSED = frozenset(
    f"{part}_EXPOSED" for part in ("BUTTOCKS", "FEMALE_BREAST", "FEMALE_GENITALIA", "ANUS", "MALE_GENITALIA")
)  # what is not exposed on a beach or in a sports hall
# Score from which on a part is named. Of 36 clips without anything of the kind the network gives a flower 0.37, a toy
# 0.48 and a cartoon 0.78; parts of the nude in its README get 0.68 to 0.80.
SEEN = 0.6


class NudeNet:
    """The highest score of a box of exposed parts in any frame, 0 if there is none, and the parts of `SEEN` or more.

    It is trained on photographs of people and is wrong on some cartoons: the belly of Big Buck Bunny gets 0.73, and
    0.57 to 0.76 mirrored, cropped, darker or grey. No class, score or second look tells that from a nude.

    Args:
        weights: another model of NudeNet's layout, for 320 pixels; by default the 320n of the wheel.
    """

    version: ClassVar[str] = "2"
    columns: ClassVar[dict[str, str]] = {"nsfw": "double", "nsfw_parts": "list<string>"}
    note: ClassVar[str] = (
        "NudeNet 320n: score of the surest box of an exposed sexual part in any frame, parts of 0.6 or more named; "
        "trained on photographs, wrong on some cartoons; stands in for LAION's NSFW detector (report §7.1)"
    )

    @classmethod
    def needs(cls, weights: str = "") -> Sequence[Path]:
        look_for("nudenet", "onnxruntime")
        if weights and not Path(weights).is_file():
            raise Absent(f"{weights} is missing; give a model of NudeNet, or none for the wheel's")
        return [Path(weights)] if weights else []

    def __init__(self, weights: str = "") -> None:
        self.needs(weights)
        import nudenet
        import onnxruntime

        model = Path(weights or Path(nudenet.__file__).parent / "320n.onnx")
        options = onnxruntime.SessionOptions()  # pyright: ignore[reportAttributeAccessIssue]
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.detector = nudenet.NudeDetector(str(model))
        self.detector.onnx_session = onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, clip: ClipFrames) -> dict[str, Any]:
        boxes = [box for frame in clip.frames for box in self.detector.detect(frame) if box["class"] in EXPOSED]
        return {
            "nsfw": max((float(box["score"]) for box in boxes), default=0.0),
            "nsfw_parts": sorted({box["class"] for box in boxes if box["score"] >= SEEN}),
        }
