"""The tables of a version without its media: what `diff` reads, of a version of any size, without a checkout."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from stepvideo import mirror, storage
from stepvideo.errors import ArtifactError
from tasks.version_dvc import Depot
from tasks.versions import Version

KINDS = ("curate", "tags", "concepts", "captions", "labels", "subsets")
SUFFIXES = (".parquet", ".json", ".npy")
LARGE = ("tables/embedding.parquet",)  # is not compared


@contextlib.contextmanager
def tables(version: Version, root: Path) -> Iterator[Path]:
    """A folder that looks like a store with the version's tables, for as long as the body runs.

    They come from DVC's cache, and from its remote what is not there.

    Raises:
        ArtifactError: the version has no catalog, or the remote cannot give its tables whole.
    """
    with Depot(root, version.name) as depot:
        files = depot.files(version.md5)
        manifests = {p: oid for p, oid in files.items() if p.count("/") == 2 and p.endswith(f"/{mirror.MANIFEST}")}
        depot.fetch(manifests.values())
        read = {p: storage.read_json(Path(depot.cache.oid_to_path(oid))) for p, oid in manifests.items()}
        if not any(m.get("kind") == "curate" for m in read.values()):
            raise ArtifactError(f"version {version.name} holds no catalog, so there is nothing to compare")
        with tempfile.TemporaryDirectory(prefix="version-", dir=root / ".dvc" / "tmp") as folder:
            chosen = {}
            for path, manifest in read.items():
                if manifest.get("kind") not in KINDS:
                    continue
                base = path.removesuffix(mirror.MANIFEST)
                chosen |= {n: oid for n, oid in files.items() if n.startswith(f"{base}out/") and _wanted(n, base)}
            depot.fetch(chosen.values())
            for name, oid in (chosen | manifests).items():
                storage.link_or_copy(Path(depot.cache.oid_to_path(oid)), Path(folder) / name)
            for path, manifest in read.items():  # which is newer tells which was made from which
                copy = Path(folder) / path
                body = copy.read_bytes()
                copy.unlink()  # its times are its own, not those of the cache's object
                copy.write_bytes(body)
                os.utime(copy, (manifest["finished"], manifest["finished"]))
            yield Path(folder)


def _wanted(name: str, base: str) -> bool:
    inner = name.removeprefix(f"{base}out/")
    return inner.endswith(SUFFIXES) and inner not in LARGE
