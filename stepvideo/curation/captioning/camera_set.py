"""A labelled set of camera movements, for teaching a captioner to see them (§7.1: the report collected one by hand)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from stepvideo import storage
from stepvideo.curation.captioning.camera import BY_NAME, Movement, movement
from stepvideo.curation.captioning.facts import facts, read_tags
from stepvideo.curation.captioning.frames import jpeg, sampled
from stepvideo.data.clips import Clip, held_out, load_catalog
from stepvideo.errors import StepVideoError

SET = "camera_motion.jsonl"


def camera_motion_set(
    curate: Path,
    out: Path,
    tables: Iterable[Path] = (),
    labels: Path | None = None,
    per_label: int = 0,
    frames: int = 8,
    side: int = 512,
    held_out_share: float = 0.1,
) -> dict[str, int]:
    """Write `out/camera_motion.jsonl` and its pictures, `out/frames/CLIP_ID/N.jpg`.

    A line is {clip_id, file, first_frame, fps, frames (pictures, relative to `out`), label, zh, en, from ("human" or
    "tag"), split ("train" or "held_out")}; `zh` and `en` word the label as captions do.

    Args:
        curate: catalog; its clips are taken, its stills are not.
        tables: artifacts with side tables; the column `camera` is taken.
        labels: JSONL by people, {"clip_id": …, "label": …} a line; they win over tags. A label "" or null takes a clip
            out of the set.
        per_label: the most clips of one label, drawn by their ids; people's labels first. 0: all.

    Returns:
        label → clips.

    Raises:
        StepVideoError: a label that is no movement, a clip that the catalog does not have, or no labelled clip at all.
    """
    clips = {c.clip_id: c for c in load_catalog(curate) if c.kind == "clip"}
    measured = read_tags(tables)
    found = {i: (m, "tag") for i, c in clips.items() if (m := facts(c, measured.get(i, {})).camera)}
    for clip_id, said in _by_people(labels, clips).items() if labels else ():
        found.pop(clip_id, None)
        if said:
            found[clip_id] = (said, "human")
    if not found:
        raise StepVideoError(f"no clip of {curate} has a camera movement; give tags with the table camera, or labels")
    chosen = _drawn(found, per_label)
    lines = []
    for clip_id in sorted(chosen):
        move, origin = chosen[clip_id]
        clip = clips[clip_id]
        names = _pictures(curate, clip, out, frames, side)
        split = "held_out" if held_out(clip_id, held_out_share) else "train"
        line = {
            "clip_id": clip_id,
            "file": clip.file,
            "first_frame": clip.first_frame,
            "fps": clip.fps,
            "frames": names,
        }
        line |= {"label": move.name, "zh": move.zh, "en": move.en, "from": origin, "split": split}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    storage.write_atomic(out / SET, "".join(lines))
    names = [move.name for move, _ in chosen.values()]
    return {name: names.count(name) for name in BY_NAME if name in names}


def _by_people(path: Path, clips: dict[str, Clip]) -> dict[str, Movement | None]:
    said: dict[str, Movement | None] = {}
    for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            clip_id, label = row["clip_id"], row["label"]
        except (ValueError, KeyError, TypeError) as e:
            raise StepVideoError(f'{path}:{i} is not {{"clip_id": …, "label": …}} ({e}); fix the line') from e
        if clip_id not in clips:
            raise StepVideoError(f"{path}:{i}: the catalog has no clip {clip_id!r}")
        if label and movement(label) is None:
            raise StepVideoError(f"{path}:{i}: {label!r} is no camera movement; give one of {', '.join(BY_NAME)}")
        said[clip_id] = movement(label) if label else None
    return said


def _drawn(found: dict[str, tuple[Movement, str]], per_label: int) -> dict[str, tuple[Movement, str]]:
    """At most `per_label` clips of each movement: people's first, then by a hash of the id."""
    order = sorted(found, key=lambda i: (found[i][1] != "human", hashlib.sha256(f"camera set {i}".encode()).digest()))
    taken: dict[str, tuple[Movement, str]] = {}
    count: dict[str, int] = {}
    for clip_id in order:
        label = found[clip_id][0].name
        if not per_label or count.get(label, 0) < per_label:
            taken[clip_id] = found[clip_id]
            count[label] = count.get(label, 0) + 1
    return taken


def _pictures(curate: Path, clip: Clip, out: Path, count: int, side: int) -> list[str]:
    names = []
    for i, frame in enumerate(sampled(curate, clip, count)):
        name = f"frames/{clip.clip_id}/{i}.jpg"
        storage.write_atomic(out / name, jpeg(frame, side, quality=90))
        names.append(name)
    return names
