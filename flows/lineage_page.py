"""Where a video or a model comes from, as one HTML file: the video, its model, the artifacts behind it, the raw files
with pictures of the clips that were cut from them. It needs no network and no store.
"""

from __future__ import annotations

import base64
import contextlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from flows.lineage import rebuild
from flows.lineage_clips import Clips, RawFile, used
from flows.lineage_video import SETTINGS, Origin
from stepvideo import storage
from stepvideo.artifact import Artifact, Store
from stepvideo.errors import StepVideoError
from stepvideo.evaluation.page import page

FILES, PICTURES, SIDE = 24, 4, 160  # raw files with pictures, pictures of each, pixels of their shorter side
ROWS = 500  # raw files in the table
LARGEST = 16_000_000  # bytes of a video that goes into the page
TYPES = {".mp4": "video/mp4", ".webm": "video/webm", ".gif": "image/gif", ".png": "image/png"}

Picture = tuple[str, bytes]  # clip id, JPEG


def write_page(store: Store, artifact: Artifact, made: Origin | None, files: Clips, to: Path) -> None:
    """Write the page of an artifact, or of the video that it made.

    Raises:
        ArtifactError: it cannot be written.
    """
    name = f"{artifact.manifest['stage']}/{artifact.manifest['key'][:8]}"
    pictures = _pictures(store, artifact, files.files[:FILES])
    sections = [
        ("video", "The video", _video(made) if made else ""),
        ("artifacts", "Made from", _tree(store, artifact)),
        ("stages", "Trained on", _stages(files)),
        ("clips", "Clips of the raw files", _clips(files.files, pictures)),
        ("files", "Raw files", _table(files)),
        ("again", "Make it again", _commands([*rebuild(artifact), *(again(made) if made else [])])),
    ]
    title = f"Where {made.file.name if made else name} comes from"
    lead = f"{escape(name)}, {files.clips} clips of {len(files.files)} raw files"
    storage.write_atomic(to, page(title, sections, lead, "Written by stepvideo lineage from manifests and tables."))


def again(made: Origin) -> list[str]:
    """The command that draws a generated video again; nothing for data."""
    s = made.settings
    if "prompt" not in s or made.artifact is None:
        return []
    if "index" in s:  # of an evaluation: its noise follows from the seed and the place in the list of prompts
        return []
    ref = f"{made.artifact.manifest['stage']}/{made.artifact.manifest['key'][:8]}"
    given = {
        "model": ref,
        **{option: s[k] for k, option in SETTINGS.items() if option and k in s and not (k == "fps" and s[k] == 25)},
    }
    options = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    start = " --image FIRST_FRAME" if "image" in s else ""
    return [f"the video again: {shlex.join(['stepvideo', 'generate', s['prompt'], *options])}{start} --out again.mp4"]


def _video(made: Origin) -> str:
    kind, size = TYPES.get(made.file.suffix.lower()), made.file.stat().st_size
    if kind is None or size > LARGEST:
        shown = f"<p>{escape(str(made.file))}</p>"
    else:
        data = f"data:{kind};base64,{base64.b64encode(made.file.read_bytes()).decode()}"
        film = f'<video src="{data}" muted loop controls playsinline></video>'
        picture = f'<img src="{data}" alt="">'
        shown = f'<div class="films"><figure>{film if kind.startswith("video") else picture}</figure></div>'
    said = {"file": made.file.name, "known from": made.how, "model": made.model, "weights": made.weights}
    return shown + _pairs({**said, **made.settings})


def _pairs(said: Mapping[str, Any]) -> str:
    rows = "".join(f"<li><b>{escape(str(k))}</b> {escape(str(v))}</li>" for k, v in said.items())
    return f"<ul>{rows}</ul>"


def _tree(store: Store, artifact: Artifact) -> str:
    seen: set[tuple[str, str]] = set()

    def grown(each: Artifact) -> str:
        m = each.manifest
        below = "".join(f"<li>{behind(role, ref)}</li>" for role, ref in m["inputs"].items())
        name = f"<b>{escape(m['stage'])}</b>/<code>{m['key'][:8]}</code> {escape(m['kind'])}"
        return f"{name}<ul>{below}</ul>" if below else name

    def behind(role: str, ref: Mapping[str, str]) -> str:
        own = (ref["stage"], ref["key"])
        said = "" if role == ref["stage"] else f"{escape(role)}: "
        name = f"{escape(ref['stage'])}/<code>{ref['key'][:8]}</code>"
        source = None if own in seen else store.find(*own, verify=False)
        if source is None:
            return f"{said}{name} {'above' if own in seen else 'is no longer in the store'}"
        seen.add(own)
        return said + grown(source)

    return f'<ul class="tree"><li>{grown(artifact)}</li></ul>'


def _stages(files: Clips) -> str:
    rows = [f"{s['stage']}/{s['key'][:8]}: {s['clips']} clips of {', '.join(s['subsets'])}" for s in files.stages]
    return f"<ul>{''.join(f'<li>{escape(r)}</li>' for r in rows)}</ul>" if rows else ""


def _pictures(store: Store, artifact: Artifact, files: Sequence[RawFile]) -> dict[tuple[str, str], list[Picture]]:
    """Middle frames of the first clips of each raw file; of clips whose media have gone there are none."""
    from stepvideo.curation.preview import poster
    from stepvideo.data.clips import load_catalog

    found: dict[tuple[str, str], list[Picture]] = {}
    for catalog, of in _chosen(store, artifact, files):
        for clip in load_catalog(catalog.out, of):
            file = of[clip.clip_id]
            with contextlib.suppress(StepVideoError, OSError):
                jpeg = poster(catalog.out, clip, SIDE)
                found.setdefault((file.role, file.file), []).append((clip.clip_id, jpeg))
    return found


def _chosen(
    store: Store, artifact: Artifact, files: Sequence[RawFile]
) -> Iterator[tuple[Artifact, dict[str, RawFile]]]:
    """(catalog, {clip id: its raw file}) of what is to be shown."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    for ref, ids in used(store, artifact).ids.items():
        catalog = store.find(*ref, verify=False)
        if catalog is None:
            continue
        table = pq.read_table(catalog.out / "catalog.parquet", columns=["clip_id", "source_role", "source_file"])
        table = table.filter(pc.field("clip_id").isin(ids))
        of = {}
        for file in files:
            own = (pc.field("source_role") == file.role) & (pc.field("source_file") == file.file)
            of |= dict.fromkeys(table.filter(own)["clip_id"].to_pylist()[:PICTURES], file)
        if of:
            yield catalog, of


def _clips(files: Sequence[RawFile], pictures: Mapping[tuple[str, str], list[Picture]]) -> str:
    rows = ""
    for file in files[:FILES]:
        shown = "".join(
            f'<figure><img src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" alt="clip {clip[:8]}">'
            f"<figcaption><small>{clip[:8]}</small></figcaption></figure>"
            for clip, jpeg in pictures.get((file.role, file.file), ())
        )
        said = f'<div class="films">{shown}</div>' if shown else "<p><small>its clips have no media here</small></p>"
        about = f"{escape(file.role)}, {file.clips} of {file.catalogued} clips"
        rows += f'<div class="prompt"><p>{escape(file.file)}<small>{about}</small></p>{said}</div>'
    more = f"<p>{len(files) - FILES} more files are in the table below.</p>" if len(files) > FILES else ""
    return rows + more


def _table(files: Clips) -> str:
    head = ("file", "raw data", "clips used", "of", "seconds", "bytes", "licence", "sha256")
    rows = ""
    for f in files.files[:ROWS]:
        size = "not recorded" if f.size is None else f"{f.size:,}"
        cells = (f.file, f.role, f.clips, f.catalogued, f"{f.seconds:.1f}", size, f.licence, f.sha256[:16])
        rows += f"<tr>{''.join(f'<td>{escape(str(c))}</td>' for c in cells)}</tr>"
    if not rows:
        return ""
    left = len(files.files) - ROWS
    more = f"<p>{left} more files: stepvideo lineage --clips --json</p>" if left > 0 else ""
    return f'<div class="wide"><table><tr>{"".join(f"<th>{h}</th>" for h in head)}</tr>{rows}</table></div>{more}'


def _commands(lines: Sequence[str]) -> str:
    return "".join(f"<p><code>{escape(line)}</code></p>" for line in lines)
