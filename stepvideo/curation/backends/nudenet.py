"""NSFW score without a download: NudeNet's detector, which its wheel holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from stepvideo.curation.backends import Absent
from stepvideo.curation.clip_frames import ClipFrames

EXPOSED = frozenset(
    f"{part}_EXPOSED" for part in ("BUTTOCKS", "FEMALE_BREAST", "FEMALE_GENITALIA", "ANUS", "MALE_GENITALIA")
)  # what is not exposed on a beach or in a sports hall
SEEN = 0.5  # score from which on a part is named; the network gives up to 0.35 to close-ups of flowers


class NudeNet:
    """The highest score of a box of exposed parts in any frame, 0 if there is none, and the parts of `SEEN` or more.

    It is trained on photographs of people and is wrong on some cartoons: the belly of Big Buck Bunny gets 0.74.

    Args:
        weights: another model of NudeNet's layout, for 320 pixels; by default the 320n of the wheel.
    """

    version: ClassVar[str] = "1"
    columns: ClassVar[dict[str, str]] = {"nsfw": "double", "nsfw_parts": "list<string>"}
    note: ClassVar[str] = "NudeNet 320n, boxes of exposed body parts; stands in for LAION's NSFW detector (report §7.1)"

    def __init__(self, weights: str = "") -> None:
        try:
            import nudenet
            import onnxruntime
        except ImportError as e:
            raise Absent(f"nudenet does not load ({e}); pip install 'stepvideo[curate]'") from e
        model = Path(weights or Path(nudenet.__file__).parent / "320n.onnx")
        if not model.is_file():
            raise Absent(f"{model} is missing; give a model of NudeNet, or none for the wheel's")
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
