"""Parts of model and data cards. Every figure is read from a manifest or a table; what nobody measured is said."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from flows.lineage import rebuild
from flows.lineage_clips import RawFile
from stepvideo.artifact import Artifact

UNKNOWN = "not measured"


def front(about: Mapping[str, Any]) -> str:
    """The YAML between lines of dashes with which a card begins."""
    from omegaconf import OmegaConf

    return f"---\n{OmegaConf.to_yaml(OmegaConf.create(dict(about)))}---\n"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; None is "not measured"."""
    if not rows:
        return f"{UNKNOWN.capitalize()}.\n"
    lines = [list(head), ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(said(cell) for cell in line) + " |\n" for line in lines)


def said(value: Any) -> str:
    if value is None:
        return UNKNOWN
    text = _float(value) if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _float(value: float) -> str:
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def sources(files: Sequence[RawFile], clips: int) -> str:
    """Raw files behind it: how many, how long, how large, under which licences."""
    if not files:
        return f"{UNKNOWN.capitalize()}.\n"
    size = None if any(f.size is None for f in files) else sum(f.size or 0 for f in files)
    licences = Counter(f.licence for f in files)
    rows: list[tuple[str, Any]] = [("raw files", len(files)), ("clips and stills of them", clips)]
    rows += [("bytes of those files", size), ("seconds of the clips", round(sum(f.seconds for f in files), 1))]
    rows += [(f"files from {role}", n) for role, n in sorted(Counter(f.role for f in files).items())]
    rows += [(f"files with licence: {name}", n) for name, n in sorted(licences.items())]
    return table(("", ""), rows)


def origin(artifact: Artifact) -> str:
    """Which artifact, data and code, and how to make it again."""
    m = artifact.manifest
    env, made = m["environment"], m["lineage"]
    rows = [("artifact", f"{m['stage']}/{m['key']}"), ("digest (sha256 of its files' checksums)", artifact.digest)]
    rows += [
        ("data version (md5 in data.dvc)", made.get("data_md5") or None),
        ("git commit", made.get("git_sha") or None),
    ]
    if made.get("git_dirty"):
        rows.append(("uncommitted changes", made["git_dirty"]))
    rows += [
        (name, env[name]) for name in ("stepvideo", "torch", "python", "machine", "cpus", "threads") if name in env
    ]
    again = "\n".join(map(portable, rebuild(artifact)))
    note = "\nDIR stands for folders of the machine where it was made.\n" if "DIR/" in again else ""
    return f"{table(('', ''), rows)}\n```text\n{again}\n```\n{note}"


def portable(command: str) -> str:
    """A command without what holds on one machine only: where its store is, and absolute paths."""
    kept = [w for w in shlex.split(command) if not re.match(r"(store|work)=", w)]
    words = [re.sub(r"(^|=)/(?:[^/]+/)*([^/]+)/?$", r"\1DIR/\2", w) for w in kept]
    return " ".join(w if w == "&&" else shlex.quote(w) for w in words)
