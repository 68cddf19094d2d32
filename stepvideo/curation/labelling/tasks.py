"""Clips for people to label: a folder with the clips as training reads them, and one task a clip in two forms.

tasks.json         Label Studio's tasks, to be imported there; tasks.csv: the same for a spreadsheet
label_config.xml   the labelling interface of the Label Studio project
media/ID.mp4       the clip, cut and cropped, at its own size up to `side`
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from stepvideo import storage
from stepvideo.curation import sheet_data, side_tables
from stepvideo.curation.labelling.questions import ADVICE, QUESTIONS, SLOTS, VERDICTS
from stepvideo.curation.preview import moving
from stepvideo.curation.sheet_data import Card
from stepvideo.curation.verdicts import Verdicts
from stepvideo.data.clips import Clip, load_ids
from stepvideo.errors import StepVideoError

TASKS = "tasks.json"
CURRENT = "current_"  # a caption as it is; the answer has the slot's own name
CRF = 16  # marks of our own encoding would be taken for the clip's


def export(
    out: Path,
    places: Mapping[str, Any],
    subset: str,
    side: int = 720,
    media_url: str = "media/",
    only: Collection[str] | None = None,
    done: Callable[[int, int], None] = lambda *_: None,
) -> int:
    """Write the tasks; the number of clips. Clips that are there already are not encoded again.

    Args:
        places: curate, subsets, captions, tables (`places.locate`).
        subset: whose clips, such as sft_1.
        side: pixels of the shorter side at most.
        media_url: what stands before ID.mp4 in tasks.json, as Label Studio is to ask for it.
        only: clip ids to export of the subset.
        done: told how many of how many clips are written.

    Raises:
        StepVideoError: there are no subsets, or no clip is left.
        ArtifactError: there is no such subset, or a clip cannot be decoded.
    """
    if "subsets" not in places:
        raise StepVideoError("labels are for the clips of a subset; give --subsets, an artifact of the stage subsets")
    ids = [i for i in load_ids(places["subsets"] / f"{subset}.parquet") if only is None or i in only]
    sides = side_tables.find([*places.get("tables", ()), places.get("captions")])
    _, every = sheet_data.read(places["curate"], Verdicts(), sides, places.get("captions"))
    cards = {c.clip.clip_id: c for c in every}
    if unknown := [i for i in ids if i not in cards]:
        raise StepVideoError(f"{subset} has {unknown[0]}, which the catalog has not; give the subsets of this catalog")
    if not ids:
        raise StepVideoError(f"{subset} has no clip to label")
    rows = [_task(cards[i], media_url) for i in ids]
    for i, clip_id in enumerate(ids):
        _film(places["curate"], cards[clip_id].clip, side, out / "media" / f"{clip_id}.mp4")
        done(i + 1, len(ids))
    storage.write_atomic(out / TASKS, json.dumps([{"data": r} for r in rows], indent=1, ensure_ascii=False))
    storage.write_atomic(out / "tasks.csv", _csv(rows))
    storage.write_atomic(out / "label_config.xml", interface())
    return len(ids)


def current_captions(folder: Path) -> dict[str, dict[str, str]]:
    """clip id → slot → caption as it was when the tasks in `folder` were written. Raises StepVideoError."""
    try:
        rows = [task["data"] for task in json.loads((folder / TASKS).read_text(encoding="utf-8"))]
        return {r["clip_id"]: {s: r[CURRENT + s] for s in SLOTS} for r in rows}
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise StepVideoError(f"{folder / TASKS} is no list of tasks (stepvideo label export writes one): {e}") from e


def interface() -> str:
    """The XML of Label Studio's labelling interface."""
    lines = ["<View>", '  <Video name="video" value="$video"/>', '  <Text name="tags" value="$tags"/>']
    for name, (english, chinese) in QUESTIONS.items():
        lines.append(f'  <Header value="{escape(f"{name}: {english} {chinese}")}"/>')
        lines.append(f'  <Choices name="{name}" toName="video" choice="single" required="true" showInLine="true">')
        lines += [f'    <Choice value="{verdict}"/>' for verdict in VERDICTS]
        lines.append("  </Choices>")
    lines.append(f'  <Header value="{escape(ADVICE)}"/>')
    for slot in SLOTS:
        lines.append(f'  <Header value="{slot}"/>')
        more = f'value="${CURRENT}{slot}" maxSubmissions="1" editable="true" rows="3"'
        lines.append(f'  <TextArea name="{slot}" toName="video" {more}/>')
    lines += ['  <TextArea name="note" toName="video" placeholder="note" maxSubmissions="1"/>', "</View>"]
    return "\n".join(lines) + "\n"


def _task(card: Card, media_url: str) -> dict[str, str]:
    clip = card.clip
    said = {f"{kind}_{lang}": texts[0] for kind, by in clip.captions.items() for lang, texts in by.items() if texts}
    return {
        "clip_id": clip.clip_id,
        "video": f"{media_url}{clip.clip_id}.mp4",
        **{f"{CURRENT}{slot}": said.get(slot, "") for slot in SLOTS},
        "tags": ", ".join(f"{name} {value:.4g}" for name, value in card.tags.items()),
    }


def _film(curate: Path, clip: Clip, side: int, path: Path) -> None:
    if not path.exists():
        moving(curate, clip, side, clip.frames / (clip.fps or 1), path, CRF)


def _csv(rows: Sequence[Mapping[str, str]]) -> str:
    """One line a clip, with empty columns for answers; a byte order mark, without which Excel misreads Chinese."""
    text = io.StringIO()
    answers = dict.fromkeys(("annotator", *QUESTIONS, *SLOTS, "note"), "")
    writer = csv.DictWriter(text, [*rows[0], *answers])
    writer.writeheader()
    writer.writerows({**row, "video": f"media/{row['clip_id']}.mp4", **answers} for row in rows)
    return "\ufeff" + text.getvalue()
