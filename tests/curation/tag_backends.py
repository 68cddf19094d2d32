"""Backends for tests of the stage `tags`, found by name in worker processes, too; they note what they are asked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from stepvideo.curation.backends import Absent, Weightless
from stepvideo.curation.clip_frames import ClipFrames

JOURNAL = "TAG_BACKENDS_JOURNAL"  # file with a line a call: backend, clip id


def calls(journal: Path) -> list[tuple[str, str]]:
    """(backend, clip id), in the order of calls; "made" for a clip id when a backend was made."""
    lines = journal.read_text().splitlines() if journal.exists() else []
    return [(name, clip) for name, clip in map(str.split, lines)]


def _noted(name: str, what: str) -> None:
    if journal := os.environ.get(JOURNAL):
        with open(journal, "a") as f:
            f.write(f"{name} {what}\n")


class Bright(Weightless):
    """Mean of the first sampled frame, and the number of frames."""

    version, columns, note = "1", {"bright": "double", "count": "int32", "says": "list<float>"}, "a stand-in"

    def __init__(self, weights: str = "") -> None:
        _noted(type(self).__name__, "made")

    def __call__(self, clip: ClipFrames):
        _noted(type(self).__name__, clip.clip_id)
        return {"bright": float(clip.frames[0].mean()), "count": len(clip.grey), "says": [0.5, 1.0]}


class Dark(Bright):
    columns = {"dark": "double"}

    def __call__(self, clip: ClipFrames):
        return {"dark": 255 - super().__call__(clip)["bright"]}


class Frail(Bright):
    """One that aborts on the clip that a file names, as a machine may, and fails on the longest."""

    columns = {"frail": "int32"}

    @classmethod
    def needs(cls, weights: str = "") -> Sequence[Path]:
        return ()

    def __init__(self, weights: str = "") -> None:
        self.mark = Path(weights)

    def __call__(self, clip: ClipFrames):
        if clip.clip_id == self.mark.read_text():
            os.abort()
        if len(clip.grey) > 27:
            raise IndexError("too long for me")
        return {"frail": len(clip.frames)}


class Weighty(Bright):
    columns = {"weight": "int32"}

    @classmethod
    def needs(cls, weights: str = "") -> Sequence[Path]:
        if not weights:
            raise Absent("no weights were given; set weights.nsfw")
        return [Path(weights)]

    def __init__(self, weights: str = "") -> None:
        super().__init__()
        (path,) = self.needs(weights)
        self.weight = int(path.read_text())

    def __call__(self, clip: ClipFrames):
        return {"weight": self.weight}


class Broken(Bright):
    columns = {"broken": "double"}

    def __call__(self, clip: ClipFrames):
        raise KeyError("always")
