"""`stepvideo lineage`: of an artifact, a model in the registry or a video file, down to the raw data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from flows import screen
from flows.lineage import ancestors, find, rebuild
from flows.lineage_clips import Clips, clips_behind
from flows.lineage_page import again, write_page
from flows.lineage_video import Origin, origin
from flows.screen import clock, key_metric
from flows.status import store_of
from stepvideo.artifact import Artifact, Store
from stepvideo.errors import ArtifactError

SHOWN = 20  # raw files on a terminal; --json has all


def lineage_command(
    folder: str | None, ref: str, clips: bool = False, as_json: bool = False, html: str | None = None
) -> int:
    """Print the tree of artifacts down to the raw data, and the commands that make the artifact, or the video, again;
    with `html` also as a page with the video and pictures of the clips behind it.

    Raises:
        ArtifactError: the name stands for nothing, nobody knows where the video is from, or the page cannot be written.
    """
    store = store_of(folder)
    made = origin(store, Path(ref)) if Path(ref).is_file() else None
    artifact = made.artifact if made else find(store, ref)
    console = screen.console(stderr=as_json)
    if made and not as_json:
        _show_video(console, made)
    if artifact is None:
        assert made is not None
        raise ArtifactError(
            f"{ref} was made by {made.model}, which is not in {store.root}; name the store that it is in with --store"
        )
    files = clips_behind(store, artifact) if clips or html else None
    if html and files:
        write_page(store, artifact, made, files, Path(html))
    if as_json:
        print(json.dumps(_as_dict(store, artifact, made, files), indent=1, ensure_ascii=False))
        return 0
    tree = Tree(_label(artifact))
    _grow(tree, store, artifact, set())
    console.print(tree)
    if files:
        _show_clips(console, files)
    lines = [*rebuild(artifact), *(again(made) if made else [])]
    for line in [*lines, *([f"next: open {Path(html).absolute().as_uri()}"] if html else [])]:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    return 0


def _show_video(console: Console, made: Origin) -> None:
    console.print(f"[bold]{escape(str(made.file))}[/]", highlight=False, soft_wrap=True)
    said = {"known from": made.how, "model": made.model, "weights": made.weights, **made.settings}
    for name, value in said.items():
        console.print(f"  {name}: {value}", markup=False, highlight=False, soft_wrap=True)


def _show_clips(console: Console, found: Clips) -> None:
    for s in found.stages:
        named = f"{s['stage']}/{s['key'][:8]}: {s['clips']} clips of {', '.join(s['subsets'])}"
        console.print(f"  {named}", markup=False, highlight=False)
    table = Table(title=f"{len(found.files)} raw files, {found.clips} clips", title_justify="left")
    for column in ("raw data", "file", "clips used", "of", "seconds", "bytes", "licence"):
        table.add_column(column, justify="right" if column in ("clips used", "of", "seconds", "bytes") else "left")
    for f in found.files[:SHOWN]:
        size = "not recorded" if f.size is None else f"{f.size:,}"
        numbers = (str(f.clips), str(f.catalogued), f"{f.seconds:.1f}", size)
        table.add_row(f.role, escape(f.file), *numbers, escape(f.licence))
    if len(found.files) > SHOWN:
        table.caption = f"{len(found.files) - SHOWN} more files: --json"
    console.print(table)


def _as_dict(store: Store, artifact: Artifact, made: Origin | None, files: Clips | None) -> dict[str, Any]:
    every = [artifact, *ancestors(store, artifact)]
    names = ("stage", "key", "kind", "digest", "inputs", "fingerprint", "lineage", "metrics")
    found: dict[str, Any] = {"video": made.as_dict()} if made else {}
    found |= {"artifacts": [{n: a.manifest[n] for n in names} for a in every], "again": rebuild(artifact)}
    return found | ({"clips": files.as_dict()} if files else {})


def _grow(tree: Tree, store: Store, artifact: Artifact, seen: set[tuple[str, str]]) -> None:
    """Inputs below; those that were printed before are only named, beside the artifact that they are inputs of."""
    again: list[str] = []
    for role, ref in artifact.manifest["inputs"].items():
        prefix = "" if role == ref["stage"] else f"{role}: "
        source = store.find(ref["stage"], ref["key"], verify=False)
        if source is None:
            tree.add(f"{prefix}[red]{ref['stage']}/{ref['key']} is no longer in the store[/]")
        elif (ref["stage"], ref["key"]) in seen:
            again.append(f"{prefix}{ref['stage']}")
        else:
            seen.add((ref["stage"], ref["key"]))
            _grow(tree.add(prefix + _label(source)), store, source, seen)
    if again:
        tree.label = f"{tree.label} [dim]also from {escape(', '.join(again))}[/]"


def _label(artifact: Artifact) -> str:
    m = artifact.manifest
    made = f"{clock(m['finished'] - m['started'])} on {m['environment']['host']}"
    text = f"[bold]{m['stage']}[/]/{m['key'][:8]} [dim]{m['kind']}, {made}[/] {key_metric(artifact)}"
    if content := m["config"].get("content"):
        text += f" [cyan]content {str(content)[:16]}[/]"
    return text
