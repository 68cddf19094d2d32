"""Can the text that a prompt asks for be read in the video (report §9.5)?"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence

from stepvideo.curation.backends import Absent
from stepvideo.curation.backends.text import MIN_CHARACTERS, RapidOCR
from stepvideo.evaluation.metrics.base import HIGHER, Asked, Null
from stepvideo.evaluation.metrics.video import Video
from stepvideo.storage import sha256_file

AUX = "text"  # key of a row's aux: the text that must be readable, or several
QUOTED = re.compile(r"“([^”]+)”|\"([^\"]+)\"|「([^」]+)」|『([^』]+)』|‘([^’]+)’")
# Quoted text may be spoken as well; it counts where the prompt speaks of writing, or its row does.
WRITING = re.compile(
    r"\b(text|words?|letters?|writ(es?|ing|ten)|reads?|reading|spell(s|ed|ing)?|signs?|titles?|captions?|labels?|"
    r"banners?|posters?|logos?|neon|calligraphy)\b|写|字|标题|标语|招牌|横幅|海报|牌匾|书法|霓虹",
    re.IGNORECASE,
)


class WrittenText:
    """1 − edit distance / length of the longer, of the text asked for and the text read (ICDAR's 1 − N.E.D.), after
    Unicode NFKC, without case, spaces and punctuation; Chinese and English.

    Of each of eight frames, the lines in reading order, or the run of them that fits best: a street has other signs,
    too. `text_accuracy` is the mean over the frames, `text_accuracy_best` that of the best frame. Several texts count
    alike. The text is `aux["text"]`, else what the prompt quotes if it speaks of writing.
    """

    name, version = "written_text", "1"
    values = {"text_accuracy": HIGHER, "text_accuracy_best": HIGHER}
    needs = ("prompt", "rapidocr")

    def __init__(self, weights: str = "") -> None:
        """`weights`: a folder with det.onnx and rec.onnx in place of those in rapidocr's wheel."""
        self.weights, self.weights_digest, self.absent = weights, "", ""
        try:
            self.weights_digest = "+".join(sha256_file(path) for path in RapidOCR.needs(weights))
        except Absent as e:
            self.absent = str(e)

    @functools.cached_property
    def reader(self) -> RapidOCR:
        """Loaded for the first prompt that asks for text."""
        return RapidOCR(self.weights)

    def score(self, video: Video, asked: Asked) -> dict[str, float] | Null:
        texts = expected(asked)
        if not texts:
            return Null("the prompt asks for no written text")
        if short := [t for t in texts if len(normal(t)) < MIN_CHARACTERS]:
            return Null(f"{short[0]!r}: fewer than {MIN_CHARACTERS} characters are not read reliably")
        if self.absent:
            return Null(self.absent)
        accuracies = []
        for frame in video.clip.frames:
            lines = sorted(self.reader.read(frame), key=lambda line: (round(line[2][1], 1), line[2][0]))
            runs = _runs([text for text, _, _ in lines])
            accuracies.append(sum(max(likeness(t, run) for run in runs) for t in texts) / len(texts))
        return {"text_accuracy": sum(accuracies) / len(accuracies), "text_accuracy_best": max(accuracies)}


def expected(asked: Asked) -> list[str]:
    """The texts that must be readable; none if the prompt asks for none."""
    if given := asked.aux.get(AUX):
        return [given] if isinstance(given, str) else list(given)
    told = " ".join([asked.category, *asked.dimensions]).lower()
    unquoted = QUOTED.sub(" ", asked.prompt)
    if not (WRITING.search(unquoted) or "text" in told):
        return []
    return ["".join(found).strip() for found in QUOTED.findall(asked.prompt)]


def normal(text: str) -> str:
    """NFKC, case folded, letters and digits only."""
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())


def likeness(a: str, b: str) -> float:
    """1 − Levenshtein distance / length of the longer, of the normal forms; 1 for two empty ones."""
    a, b = normal(a), normal(b)
    longer = max(len(a), len(b))
    return 1 - _edits(a, b) / longer if longer else 1.0


def _runs(lines: Sequence[str]) -> list[str]:
    """Every run of neighbouring lines, joined; one empty text if there are no lines."""
    joined = ["".join(lines[i:j]) for i in range(len(lines)) for j in range(i + 1, len(lines) + 1)]
    return joined or [""]


def _edits(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above = row
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]
