"""`stepvideo archive` and `stepvideo unarchive`: a run as one file, checked, and back into a store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from flows import screen
from flows.compose import ROOT
from flows.status import store_of
from stepvideo.artifact import Store
from stepvideo.errors import ConfigError
from tasks.keeping_archive import On, chosen, write
from tasks.keeping_items import in_bytes
from tasks.keeping_unarchive import Contents, bring_back, check
from tasks.record import find_record


def archive_command(folder: str | None, run: str, out: str, wanted: list[str], as_json: bool) -> int:
    """Write a run to a tar. Raises ArtifactError or ConfigError; then nothing is left of the file."""
    store = store_of(folder)
    record = find_record(store, run)
    target = Path(out).absolute()
    if target.exists():
        raise ConfigError(f"--out {target} is there already; remove it or give another name")
    if record.is_live:
        raise ConfigError(f"run {record.data['id']} is at work; archive it when it has ended")
    artifacts = chosen(store, record, wanted)
    total = sum(f["size"] for a in artifacts for f in a.manifest["files"].values())
    with _bar("archiving", total, as_json) as on:
        digest = write(store, record, artifacts, target, on)
    about = {"file": str(target), "sha256": digest, "bytes": target.stat().st_size, "artifacts": len(artifacts)}
    if as_json:
        print(json.dumps({"run": record.data["id"], **about}, indent=1))
        return 0
    print(f"{target}: run {record.data['id']}, {len(artifacts)} artifacts, {in_bytes(about['bytes'])}, sha256 {digest}")
    print(f"next: stepvideo archive --check {out} | stepvideo unarchive {out} --store DIR")
    return 0


def check_command(file: str, as_json: bool) -> int:
    """Read an archive through. Raises ArtifactError where it is damaged."""
    path = Path(file)
    with _bar("checking", path.stat().st_size if path.exists() else 0, as_json) as on:
        contents = check(path, on)
    _say(path, contents, "is whole", as_json)
    if not as_json:
        print(f"next: stepvideo unarchive {file} --store DIR")
    return 0


def unarchive_command(folder: str | None, file: str, as_json: bool) -> int:
    """The artifacts of an archive into a store, which is made if it is not there."""
    store = Store(folder or ROOT / "runs" / "store")
    path = Path(file)
    with _bar("bringing back", 2 * path.stat().st_size if path.exists() else 0, as_json) as on:
        contents, _ = bring_back(path, store, on)
    _say(path, contents, f"is in {store.root}", as_json)
    if not as_json:
        print(f"next: stepvideo status --all --store {store.root}")
    return 0


def _say(path: Path, contents: Contents, how: str, as_json: bool) -> None:
    if as_json:
        about = {"run": contents.run, "files": contents.files, "bytes": contents.bytes}
        print(json.dumps({**about, "artifacts": sorted(contents.manifests)}, indent=1))
        return
    held = f"{len(contents.manifests)} artifacts, {contents.files} files, {in_bytes(contents.bytes)}"
    print(f"{path} {how}: run {contents.run}, {held}")


@contextmanager
def _bar(what: str, total: int, quiet: bool) -> Iterator[On]:
    console = screen.console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)
