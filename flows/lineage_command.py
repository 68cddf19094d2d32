"""`stepvideo lineage`: of an artifact, a model in the registry or a video file, down to the raw data."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from flows import screen
from flows.lineage import ancestors, find, rebuild
from flows.lineage_clips import Clips, catalog_files, clips_behind
from flows.lineage_video import SETTINGS, Origin, origin
from flows.screen import clock, key_metric
from flows.status import store_of
from stepvideo.artifact import Artifact, Store
from stepvideo.errors import ArtifactError

SHOWN = 20  # raw files on a terminal; --json has all


def lineage_command(folder: str | None, ref: str, clips: bool = False, as_json: bool = False) -> int:
    """Print the tree of artifacts down to the raw data, and the commands that make the artifact, or the video, again.

    Raises:
        ArtifactError: the name stands for nothing, or nobody knows where the video is from.
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
    files = _files(store, artifact) if clips else None
    if as_json:
        print(json.dumps(_as_dict(store, artifact, made, files), indent=1, ensure_ascii=False))
        return 0
    tree = Tree(_label(artifact))
    _grow(tree, store, artifact, set())
    console.print(tree)
    if files:
        _show_clips(console, files)
    for line in [*rebuild(artifact), *(_again(made) if made else [])]:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    return 0


def _files(store: Store, artifact: Artifact) -> Clips:
    if artifact.manifest["kind"] == "curate":
        files = catalog_files(store, artifact)
        return Clips(files, [], sum(f.clips for f in files))
    return clips_behind(store, artifact)


def _show_video(console: Console, made: Origin) -> None:
    console.print(f"[bold]{escape(str(made.file))}[/]", highlight=False, soft_wrap=True)
    said = {"known from": made.how, "model": made.model, "weights": made.weights, **made.settings}
    for name, value in said.items():
        console.print(f"  {name}: {value}", markup=False, highlight=False, soft_wrap=True)


def _again(made: Origin) -> list[str]:
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
    """Inputs below; a subtree that was printed is only named."""
    for role, ref in artifact.manifest["inputs"].items():
        source = store.find(ref["stage"], ref["key"], verify=False)
        if source is None:
            tree.add(f"{role}: [red]{ref['stage']}/{ref['key']} is no longer in the store[/]")
        elif (ref["stage"], ref["key"]) in seen:
            tree.add(f"[dim]{role}: {ref['stage']}/{ref['key'][:8]} (above)[/]")
        else:
            seen.add((ref["stage"], ref["key"]))
            prefix = "" if role == ref["stage"] else f"{role}: "
            _grow(tree.add(prefix + _label(source)), store, source, seen)


def _label(artifact: Artifact) -> str:
    m = artifact.manifest
    made = f"{clock(m['finished'] - m['started'])} on {m['environment']['host']}"
    text = f"[bold]{m['stage']}[/]/{m['key'][:8]} [dim]{m['kind']}, {made}[/] {key_metric(artifact)}"
    if content := m["config"].get("content"):
        text += f" [cyan]content {str(content)[:16]}[/]"
    return text
