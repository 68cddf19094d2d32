"""What may go, by category: artifacts that nobody needs, and what is left beside those that stay."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stepvideo.artifact import Store, is_locked
from tasks.keeping import Inputs, Rules, has_job, kept_runs, last_seen, last_uses, places
from tasks.keeping_named import Ref, registries
from tasks.logs import NAME as LOG
from tasks.record import RunRecord

CATEGORIES = {
    "artifacts": "results of stages that nothing kept was made from",
    "unfinished": "stages that were begun and never finished, with their checkpoints",
    "damaged": "results that were set aside because a file of theirs was damaged",
    "checkpoints": "working folders of finished stages, left by a kill",
    "scratch": "half-written files and folders, left by a kill",
    "logs": "output of former attempts; logs of servers",
    "snapshots": "copies of the code that jobs ran",
    "parts": "results that several stages share, which are made again where they are wanted",
    "telemetry": "what was recorded of stages that are gone",
    "records": "records of runs that are not kept",
    "probes": "folders of Slurm probes",
    "mirrors": "copies of data versions beside their .dvc files; `stepvideo data checkout` brings them back",
    "backups": "copies of databases that `stepvideo upgrade` made",
    "trash": "what a killed gc had taken and not yet deleted",
}
TRASH = "_trash"  # of a store
DAY = 86400.0
SCRATCH = re.compile(r"\..+\.tmp-[0-9a-f]{8}|\.probe-\d+|\..+\.coming|\.[0-9a-f]{16}\.[0-9a-f]{8}")


@dataclass(frozen=True)
class Item:
    """One file or folder that may go: what it is, why it may, and its bytes on disk."""

    category: str
    path: Path
    why: str
    bytes: int
    ref: Ref | None = None  # whose artifact, or beside whose it lies


def size(path: Path) -> int:
    """Bytes on disk below a path; what has other names, too (hard links), is not freed with it and counts nothing."""
    total = 0
    with contextlib.suppress(OSError):
        if not path.is_dir() or path.is_symlink():
            stat = path.lstat()
            return stat.st_blocks * 512 if stat.st_nlink == 1 else 0
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    total += size(Path(entry.path))
                else:
                    stat = entry.stat(follow_symlinks=False)
                    total += stat.st_blocks * 512 if stat.st_nlink == 1 else 0
    return total


def in_bytes(count: float) -> str:
    """ "1.2 GB"; powers of 1000, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 999.5 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError


def items(
    store: Store,
    rules: Rules,
    everyone: list[RunRecord],
    keep: Mapping[Ref, str],
    mirrors: Path | None = None,
) -> list[Item]:
    """What may go, users before what they were made from, so that a gc that is killed leaves the store closed.

    Args:
        keep: what stays, closed under inputs. mirrors: folder of data versions of the checkout.
    """
    there = places(store)
    used = last_uses(there, everyone)
    gone = [ref for ref in there if ref not in keep]
    found = [_whole(store, rules, ref, there[ref], used[ref]) for ref in _users_first(store, gone)]
    for ref in keep:
        if ref in there and not has_job(there[ref]):
            found += _beside(store, rules, ref, there[ref])
    live = any(r.is_live for r in everyone) or any(has_job(p) for p in there.values())
    found += _records(rules, everyone)
    if not live:  # any job may run any snapshot and share any part
        found += _old(rules, "snapshots", store.root.glob("_code/*"), "no run is at work")
        found += _old(rules, "parts", store.root.glob("_parts/*/*"), "no stage shared it lately")
        found += _old(rules, "scratch", _stray(store), "left by a kill", DAY)
    found += _telemetry(store, rules, {ref[1] for ref in keep})
    found += _old(rules, "probes", store.root.glob("_probe/*"), "its probe has ended")
    found += _works(rules, everyone)
    if mirrors and mirrors.is_dir():
        found += _mirrors(rules, mirrors)
    left = (p for p in sorted(store.root.glob(f"{TRASH}/*")) if p.name != "lock")
    found += [Item("trash", p, "a killed gc left it", size(p)) for p in left]
    return [i for i in found if not rules.only or i.category in rules.only]


def _users_first(store: Store, gone: list[Ref]) -> list[Ref]:
    inputs = Inputs(store)
    ordered: list[Ref] = []
    seen: set[Ref] = set()
    todo = [(ref, False) for ref in gone]
    among = set(gone)
    while todo:
        ref, done = todo.pop()
        if done:
            ordered.append(ref)
        elif ref not in seen:
            seen.add(ref)
            todo += [(ref, True), *((source, False) for source in inputs.of(ref) if source in among)]
    return ordered[::-1]


def _whole(store: Store, rules: Rules, ref: Ref, place: Path, used: float) -> Item:
    days = max(0.0, rules.now - used) / DAY
    if (place / "manifest.json").exists():
        return Item("artifacts", place, f"nothing kept needs it; last used {days:.0f} days ago", size(place), ref)
    return Item("unfinished", place, f"begun, not finished; last touched {days:.0f} days ago", size(place), ref)


def _beside(store: Store, rules: Rules, ref: Ref, place: Path) -> Iterator[Item]:
    """What lies in the directory of an artifact that stays, and is no part of it."""

    def item(category: str, path: Path, why: str) -> Item:
        return Item(category, path, why, size(path), ref)

    for path in sorted(place.glob("out.damaged-*")):
        if rules.is_old(_newest(path)):
            yield item("damaged", path, "the stage was made again since")
    complete = (place / "manifest.json").exists()
    for name, category in {"work": "checkpoints", "array": "scratch", "producers": "scratch"}.items():
        if complete and (place / name).is_dir():
            yield item(category, place / name, "the stage is finished")
    if (place / "out.tmp").is_dir() and (complete or rules.is_old(_newest(place / "out.tmp"))):
        yield item("scratch", place / "out.tmp", "begun anew at the next attempt")
    logs = [(int(m[1]), p) for p in sorted(place.glob("logs/attempt-*")) if (m := LOG.fullmatch(p.name))]
    last = max((number for number, _ in logs), default=0)
    for number, path in logs:
        if number < last and rules.is_old(_newest(path)):
            yield item("logs", path, f"attempt {number} of {last}")


def _records(rules: Rules, everyone: list[RunRecord]) -> Iterator[Item]:
    """Runs that are not kept. The newest that told a registry stays, or nobody would know that it is to be asked."""
    stay = {r.data["id"] for r in kept_runs(everyone, rules)}
    newest = {r.data["config"]["tracking"]["mlflow_uri"]: r.data["id"] for r in everyone}
    stay |= {newest[uri] for uri in registries(everyone)}
    for r in everyone:
        tracking = r.data["tracking"]
        open_there = bool(tracking.get("flow_run")) and not tracking.get("flow_closed")
        if r.data["id"] not in stay and not open_there:
            days = (rules.now - last_seen(r)) / DAY
            yield Item("records", r.path.parent, f"ended {days:.0f} days ago", size(r.path.parent))


def _telemetry(store: Store, rules: Rules, keys: set[str]) -> Iterator[Item]:
    for folder in sorted(store.root.glob("_telemetry/parquet/*/run=*")):
        run = folder.name.removeprefix("run=")
        if re.fullmatch(r"[0-9a-f]{16}", run) and run not in keys and rules.is_old(_newest(folder)):
            yield Item("telemetry", folder, "its stage is gone", size(folder))


def _works(rules: Rules, everyone: Iterable[RunRecord]) -> Iterator[Item]:
    """Logs of servers and copies of databases in the working folders of runs."""
    everyone = list(everyone)
    for work in sorted({Path(r.data["config"]["work"]) for r in everyone}):
        if not any(r.is_live for r in everyone):
            yield from _old(rules, "logs", work.glob("logs/*.log"), "no run is at work")
        yield from _old(rules, "backups", [*work.glob("*.db.before-*"), *work.glob(".prefect/*.db.before-*")], "old")


def _mirrors(rules: Rules, versions: Path) -> Iterator[Item]:
    """Copies of data versions; the lock that publishing holds lies in DVC's folder."""
    lock = versions.parent / ".dvc" / "tmp" / "versions"
    if (lock / "lock").exists() and is_locked(lock):
        return
    there = [p.with_suffix("") for p in versions.glob("*.dvc")]
    yield from _old(rules, "mirrors", (p for p in there if p.is_dir()), "its .dvc file stays")
    yield from _old(rules, "mirrors", versions.glob(".publishing"), "its publication was interrupted")


def _stray(store: Store) -> Iterator[Path]:
    for pattern in (".*", "_runs/*/.*", "*/*/.*", "_code/.*", "_incoming/*"):
        for path in store.root.glob(pattern):
            if SCRATCH.fullmatch(path.name) or path.parent.name == "_incoming":
                yield path


def _old(rules: Rules, category: str, paths: Iterable[Path], why: str, least: float = 0.0) -> Iterator[Item]:
    for path in sorted(paths):
        age = rules.now - _newest(path)
        if age > max(rules.older_than_s, least):
            yield Item(category, path, f"{why}; {age / DAY:.0f} days old", size(path))


def _newest(path: Path) -> float:
    """When anything below a path was last written."""
    with contextlib.suppress(OSError):
        times = [path.lstat().st_mtime]
        if path.is_dir() and not path.is_symlink():
            with os.scandir(path) as entries:
                times += [_newest(Path(e.path)) for e in entries]
        return max(times)
    return 0.0
