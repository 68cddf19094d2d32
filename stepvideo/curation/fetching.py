"""Objects of a bucket on their way through a worker: fetched, worked on, and dropped unless the catalog keeps them.

A worker holds the object it works on and the next one of its chunk, which comes meanwhile. So there are at most twice
as many objects on a node's disk as it has workers, beside the media that the catalog keeps as they came.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from stepvideo import s3
from stepvideo.curation.records import Result, Source, media_name, quarantined

FETCHED = "fetched"


def with_bytes(items: list[Source], root: Path, process: Callable[[Source], Result]) -> list[Result]:
    """`process` of every item, those of a bucket with their bytes below `root`. What cannot be had is quarantined.

    Raises:
        ArtifactError: the bucket cannot be reached, so that no object is to blame.
    """
    if not any(source.origin for source in items):
        return [process(source) for source in items]
    here = _here(items, _own(root / FETCHED))
    return [s if isinstance(s, Result) else _settled(s, process(s), root) for s in here]


def _own(folder: Path) -> Path:
    """A folder of this process: one of a killed driver may still be at the same object. Dead ones' are removed."""
    host = socket.gethostname()
    for other in folder.glob(f"{host}-*"):
        try:
            os.kill(int(other.name.rpartition("-")[2]), 0)
        except ProcessLookupError:
            shutil.rmtree(other, ignore_errors=True)
        except PermissionError:  # its number is now that of somebody else's process
            continue
    return folder / f"{host}-{os.getpid()}"


def _here(items: list[Source], folder: Path) -> Iterator[Source | Result]:
    """One item ahead of the caller."""
    with ThreadPoolExecutor(1, thread_name_prefix="fetch") as ahead:
        coming = [ahead.submit(_bring, source, folder) for source in items[:1]]
        for following in [*items[1:], None]:
            here = coming.pop().result()
            if following:
                coming.append(ahead.submit(_bring, following, folder))
            yield here


def _bring(source: Source, folder: Path) -> Source | Result:
    """The source with its bytes at `path`."""
    wanted = source.origin
    if wanted is None:
        return source
    path = folder / (hashlib.sha256(wanted.url.encode()).hexdigest()[:32] + source.path.suffix)
    try:
        sha256 = s3.fetch(wanted, path)
    except s3.Unavailable as e:
        return quarantined(source, e.reason, e.detail)
    return replace(source, path=path, sha256=sha256)


def _settled(source: Source, result: Result, root: Path) -> Result:
    if source.origin and any(row["stored"] == "source" for row in result.clips):
        target = root / media_name(source.sha256[:32], source.path.suffix.lower())
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source.path, target)
    elif source.origin:
        source.path.unlink(missing_ok=True)
    return result
