"""What is said and known about each rendered file: one JSON object a line in `sidecars.jsonl`, beside the files.

    {"file": "videos/000000.mp4",          path relative to sidecars.jsonl
     "kind": "video",                      video | image
     "fps": 25, "frames": 25, "height": 64, "width": 64,
     "title": {"zh": "右移的红色圆", "en": "red circle moving right"},
     "seed": [0, 0],
     "shots": [                            what lies between two cuts; end is exclusive
       {"start": 0, "end": 25,
        "captions": {"short": {"zh": ["一个红色的大圆向右移动", …], "en": […]}, "dense": {…}, "title": {…}},
        "attributes": [{"colour": "red", "shape": "circle", "direction": "right", "size": "large", "count": 1}],
        "background": "stripes", "pace": "fast",
       "event": {"kind": "bouncing", "directions": ["right", "left"]}}],   hard scenes only; direction is then null
     "transitions": [],                    raw set only: {"kind": "cut" | "fade" | "dissolve", "start", "end"}
     "fault": null}                        raw set only: what was done to the file on purpose

Frames of a dissolve or fade belong to no shot. `direction` is null for stills and for objects that do not move. An
image has fps 0, one frame and one shot. Anyone's own videos may come with such a file; only "file" is needed, and of a
shot "start" and "end".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stepvideo.errors import ArtifactError
from stepvideo.storage import write_atomic
from stepvideo.world.captions import Setting, captions
from stepvideo.world.hard.captions import event_captions
from stepvideo.world.render import Scene

NAME = "sidecars.jsonl"


def shot(scene: Scene, start: int, end: int, seed: Sequence[int], n: int) -> dict[str, Any]:
    """One entry of "shots"; captions are drawn from `seed`."""
    rng = np.random.default_rng([*seed, 1])  # not the renderer's stream: equal seeds must not couple words to positions
    setting = Setting(scene.background.kind, scene.pace)
    event = scene.event
    said = event_captions(scene.attrs[0], event, setting, rng, n) if event else captions(scene.attrs, setting, rng, n)
    return {
        "start": start,
        "end": end,
        "captions": said,
        "attributes": [a.as_dict() for a in scene.attrs],
        "background": scene.background.kind,
        "pace": scene.pace,
        **({"event": event.as_dict()} if event else {}),
    }


def record(
    file: str,
    shots: Sequence[dict[str, Any]],
    shape: Sequence[int],
    fps: int,
    seed: Sequence[int],
    *,
    transitions: Sequence[dict[str, Any]] = (),
    fault: str | None = None,
) -> dict[str, Any]:
    """One line. `shape` is (t, h, w); `fps` is 0 for an image."""
    title = shots[0]["captions"]["title"] if shots else {}
    return {
        "file": file,
        "kind": "video" if fps else "image",
        "fps": fps,
        "frames": int(shape[0]),
        "height": int(shape[1]),
        "width": int(shape[2]),
        "title": {lang: texts[0] for lang, texts in title.items()},
        "seed": list(seed),
        "shots": list(shots),
        "transitions": list(transitions),
        "fault": fault,
    }


def write(folder: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write `folder/sidecars.jsonl`, in the given order."""
    lines = (json.dumps(r, ensure_ascii=False, sort_keys=True, separators=(",", ":")) for r in records)
    write_atomic(Path(folder) / NAME, "".join(line + "\n" for line in lines))


def read(folder: Path) -> list[dict[str, Any]]:
    """All records of `folder/sidecars.jsonl`; an empty list if there is no such file.

    Raises:
        ArtifactError: names the file and the line that is no JSON object with a "file".
    """
    path = Path(folder) / NAME
    if not path.exists():
        return []
    out = []
    for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            entry["file"]
        except (ValueError, KeyError, TypeError) as e:
            raise ArtifactError(f'{path}:{i} is no JSON object with a "file": {e}; fix or remove the line') from e
        out.append(entry)
    return out
