"""Captions of a clip: from the sidecar's shot that covers most of it, else the file's name as a title (§7.1).

`sidecars.jsonl` stands beside media files or in a folder above them, one JSON object a line:

    {"file": "videos/000000.mp4",         relative to the folder of sidecars.jsonl
     "shots": [{"start": 0, "end": 25,    frames, end exclusive
                "captions": {"short" | "dense" | "title": {"zh" | "en": ["…", …]}},
                "attributes": [{…}]}]}    optional: what is in the shot, one object an entry

Known shots are used for captions only, never for cutting: cutting must work on files that come without them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepvideo.curation.raw import SIDECARS
from stepvideo.data.clips import CAPTION_KINDS, LANGUAGES, Captions
from stepvideo.errors import StepVideoError

Shot = Mapping[str, Any]


def read_sidecars(root: Path) -> dict[str, list[Shot]]:
    """Shots of every file named by a `sidecars.jsonl` at or below `root`; keys are paths relative to `root`.

    Raises:
        StepVideoError: names the file and line that does not have the format above.
    """
    found: dict[str, list[Shot]] = {}
    for path in sorted(root.rglob(SIDECARS)):
        folder = path.parent.relative_to(root)
        for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                shots = [_checked(s) for s in entry.get("shots") or []]
                found[(folder / entry["file"]).as_posix()] = shots
            except (ValueError, KeyError, TypeError, AttributeError) as e:
                raise StepVideoError(f"{path}:{i} is no sidecar entry ({type(e).__name__}: {e}); fix the line") from e
    return found


def look_up(shots: list[Shot], start: int, end: int, least: float) -> tuple[Shot | None, float]:
    """The shot that covers most of frames [start, end), and the share it covers; None where that is under `least`."""
    best, covered = None, 0
    for shot in shots:
        overlap = min(end, shot["end"]) - max(start, shot["start"])
        if overlap > covered:
            best, covered = shot, overlap
    share = covered / (end - start)
    return (best, share) if best is not None and share >= least else (None, share)


def clean(captions: Mapping[str, Any]) -> Captions:
    """Captions of the known kinds and languages, none empty or twice; a single string counts as a list of one."""
    out: Captions = {}
    for kind in CAPTION_KINDS:
        for lang in LANGUAGES:
            given = (captions.get(kind) or {}).get(lang) or []
            texts = [t.strip() for t in ([given] if isinstance(given, str) else given) if t.strip()]
            if texts:
                out.setdefault(kind, {})[lang] = list(dict.fromkeys(texts))
    return out


def title_from(file: str) -> Captions:
    """The file's name as a title, in the language of its script; empty if it says nothing ("00042.mp4")."""
    words = re.sub(r"[\W_]+", " ", Path(file).stem).strip()
    if not re.search(r"[^\W\d_]{2}|[\u4e00-\u9fff]", words):
        return {}
    return {"title": {"zh" if re.search(r"[\u4e00-\u9fff]", words) else "en": [words]}}


def _checked(shot: Any) -> Shot:
    if not 0 <= int(shot["start"]) < int(shot["end"]):
        raise ValueError(f"shot from {shot['start']} to {shot['end']}")
    return {
        "start": int(shot["start"]),
        "end": int(shot["end"]),
        "captions": clean(shot.get("captions") or {}),
        "attributes": list(shot.get("attributes") or []),
    }
