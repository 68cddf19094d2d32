"""Subtitles and other text in the picture (§7.1's subtitle detection), read by PP-OCR through RapidOCR.

Detection alone takes whole pictures for text; a line counts only if it was also recognised.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np

from stepvideo.curation.backends import Absent, look_for
from stepvideo.curation.clip_frames import ClipFrames

Rect = tuple[float, float, float, float]  # left, top, right, bottom in shares of the picture

HAN, LATIN = re.compile(r"[\u3400-\u9fff]"), re.compile(r"[A-Za-z]{2}")
MIN_SCORE, MIN_CHARACTERS = 0.8, 2


@dataclass
class Line:
    """One line of text at one place, with its reading in every frame that shows it."""

    place: Rect
    readings: list[tuple[str, float]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The most frequent reading; of equally frequent ones that with the best score."""
        votes: dict[str, list[float]] = {}
        for text, score in self.readings:
            votes.setdefault(text, []).append(score)
        return max(votes, key=lambda t: (len(votes[t]), max(votes[t])))

    def shows(self, text: str, place: Rect) -> bool:
        """Whether `text` at `place` is another reading of this line; two that differ in a digit are two lines."""
        other = self.readings[0][0]
        alike = SequenceMatcher(None, text, other, autojunk=False).ratio() >= 0.8
        return alike and _overlap(place, self.place) >= 0.5 and re.findall(r"\d", text) == re.findall(r"\d", other)


class RapidOCR:
    """PP-OCRv6 small, whose weights are in rapidocr's wheel; or det.onnx and rec.onnx in the folder `weights`.

    `side`: pictures with a shorter side below it are scaled up for detection; `max_side`: longer ones are scaled down.
    """

    version = "1"
    columns = {
        "text_area": "double",  # share of the picture that text covers, mean over the sampled frames
        "text_frames": "double",  # share of the sampled frames with text
        "text_lines": "int32",  # most lines in one frame
        "text_languages": "string",  # "", "en" (any Latin letters), "zh" (any Han characters), "en+zh"
        "text": "string",  # the different lines in order of appearance, joined by newlines
        "subtitle": "bool",  # a centred line where subtitles stand: lower third, or the uppermost fifth
    }
    note = (
        "PP-OCR in place of the report's PaddleOCR pipeline; lines recognised with a score of 0.8 and two characters; "
        "upright text only; a line shown between two sampled frames is missed"
    )

    @classmethod
    def needs(cls, weights: str = "") -> Sequence[Path]:
        look_for("rapidocr", "onnxruntime")
        files = [Path(weights) / f"{part}.onnx" for part in ("det", "rec")] if weights else []
        for path in files:
            if not path.is_file():
                raise Absent(f"text: {path} is not there; give a folder with det.onnx and rec.onnx, or no weights")
        return files

    def __init__(self, weights: str = "", side: int = 480, max_side: int = 1280) -> None:
        files = self.needs(weights)
        import rapidocr

        params: dict[str, Any] = {
            "Global.log_level": "error",
            "Global.use_cls": False,  # it only turns lines that stand on their head
            "Global.text_score": MIN_SCORE,
            "Global.max_side_len": max_side,
            "Det.limit_side_len": side,
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
        for path in files:
            params[f"{path.stem.capitalize()}.model_path"] = str(path)
        self._ocr = rapidocr.RapidOCR(params=params)

    def __call__(self, clip: ClipFrames) -> dict[str, Any]:
        frames = [self.read(f) for f in clip.frames]
        lines: list[Line] = []
        for found in frames:
            for text, score, place in found:
                line = next((x for x in lines if x.shows(text, place)), None)
                if line is None:
                    lines.append(line := Line(place))
                line.readings.append((text, score))
        texts = list(dict.fromkeys(line.text for line in lines))
        languages = [name for name, letters in (("en", LATIN), ("zh", HAN)) if any(letters.search(t) for t in texts)]
        return {
            "text_area": float(np.mean([_covered([place for *_, place in found]) for found in frames])),
            "text_frames": float(np.mean([bool(found) for found in frames])),
            "text_lines": max(map(len, frames)),
            "text_languages": "+".join(languages),
            "text": "\n".join(texts),
            "subtitle": any(_is_subtitle(line.place) for line in lines),
        }

    def read(self, frame: np.ndarray) -> list[tuple[str, float, Rect]]:
        """(text, score, place) of every line in uint8 [H, W, 3] BGR."""
        found: Any = self._ocr(frame)  # its type names results of other calls, too
        if found.boxes is None:
            return []
        size = np.array(frame.shape[1::-1])
        corners = [np.asarray(box) / size for box in found.boxes]
        places = [(*map(float, c.min(axis=0)), *map(float, c.max(axis=0))) for c in corners]
        return [
            (text.strip(), float(score), place)
            for text, score, place in zip(found.txts, found.scores, places)
            if score >= MIN_SCORE and len(text.strip()) >= MIN_CHARACTERS
        ]


def _overlap(a: Rect, b: Rect) -> float:
    """Intersection over union."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0.0) * max(height, 0.0)
    union = sum((r[2] - r[0]) * (r[3] - r[1]) for r in (a, b)) - both
    return both / union if union > 0 else 0.0


def _covered(places: list[Rect], grid: int = 256) -> float:
    """Share of the picture inside any of the places."""
    cells = np.zeros((grid, grid), bool)
    for place in places:
        left, top, right, bottom = (round(v * grid) for v in place)
        cells[top:bottom, left:right] = True
    return float(cells.mean())


def _is_subtitle(place: Rect) -> bool:
    left, top, right, bottom = place
    middle = (top + bottom) / 2
    centred = abs((left + right) / 2 - 0.5) < 0.1 and right - left > 0.08
    return centred and bottom - top < 0.15 and (middle > 2 / 3 or middle < 1 / 5)
