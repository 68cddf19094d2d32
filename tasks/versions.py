"""Versions of curated data: artifacts under a name, kept by DVC (`data_version` says which data a run is made with).

versions/NAME.dvc    a few lines to commit: the hash of what lies in DVC's remote, and the lineage
versions/NAME/       after a pull: a store of these artifacts, STAGE/KEY/{manifest.json, out/…, FOLDER-00000.tar}
"""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from stepvideo import mirror, storage
from stepvideo.artifact import Artifact, Store, damage, lock
from stepvideo.errors import ArtifactError
from tasks.data_version import dvc, lineage

VERSIONS = "versions"
MANY = 100  # DVC takes milliseconds and a remote a request for every file
TAR_BYTES = 1 << 30


def record(artifacts: Sequence[Artifact], name: str, root: Path) -> Path:
    """Give artifacts to DVC as a version that never changes: `versions/NAME.dvc`, to be committed.

    What is versioned is a store with these artifacts: manifests and files as they are, folders of many files as tars.
    It goes to the default remote of the checkout; the .dvc file, with the lineage in its `meta`, appears when all of it
    is there, so an interrupted call leaves the other versions as they were and this one absent.

    Args:
        root: the checkout.

    Raises:
        ArtifactError: the name is taken or cannot be one, an artifact is damaged, another process publishes, or DVC
            cannot store it.
    """
    target = root / VERSIONS / f"{name}.dvc"
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ArtifactError(f"a version cannot be called {name!r}; use letters, digits, dots, - and _")
    with lock(root / ".dvc" / "tmp" / "versions") as mine:
        if not mine:
            raise ArtifactError(f"another process publishes a version in {root}; wait for it")
        if target.exists():
            raise ArtifactError(f"version {name} is there ({target}) and versions do not change; choose another name")
        storage.write_atomic(root / VERSIONS / ".gitignore", "/*/\n!/.publishing/\n")
        desk = _empty(root / VERSIONS / ".publishing")
        try:
            for each in artifacts:
                _pack(each, desk / name)
            # `add --to-remote` would do both, but leaves a second copy of every file in the remote (DVC 3.67)
            dvc(desk, "add", "--no-relink", name)
            dvc(desk, "push", f"{name}.dvc")
            made = {a.manifest["stage"]: {"key": a.manifest["key"], "digest": a.digest} for a in artifacts}
            about = json.dumps({"artifacts": made, **lineage(root)}, sort_keys=True)  # JSON is YAML
            storage.write_atomic(target, f"{(desk / f'{name}.dvc').read_text()}meta: {about}\n")
        finally:
            shutil.rmtree(desk)
    return target


def bring_back(name: str, root: Path, store: Store) -> list[Artifact]:
    """`dvc pull` of a version, and its artifacts in a store, every file checked.

    Raises:
        ArtifactError: there is no such version, or DVC cannot give it whole.
    """
    there = sorted(p.stem for p in (root / VERSIONS).glob("*.dvc"))
    if name not in there:
        raise ArtifactError(f"no version {name!r} in {root / VERSIONS}; there are: {', '.join(there) or 'none'}")
    dvc(root / VERSIONS, "pull", "--force", f"{name}.dvc")
    folder = root / VERSIONS / name
    return [_unpacked(m.parent, store) for m in sorted(folder.glob("*/*/manifest.json"))]


def _pack(each: Artifact, folder: Path) -> None:
    """An artifact as few files: top folders of more than `MANY` files become tars, equal for equal content."""
    if wrong := damage(each.dir, each.manifest):
        raise ArtifactError(f"{each.dir} is not published: {wrong}; run its stage again")
    target = folder / each.manifest["stage"] / each.manifest["key"]
    storage.link_or_copy(each.dir / mirror.MANIFEST, target / mirror.MANIFEST)
    tops = Counter(name.split("/")[0] for name in each.manifest["files"])
    tars: dict[str, tarfile.TarFile] = {}
    for name in sorted(each.manifest["files"]):
        top = name.split("/")[0]
        if tops[top] <= MANY:
            storage.link_or_copy(each.out / name, target / "out" / name)
            continue
        part = tars.get(top)
        if part is None or part.offset >= TAR_BYTES:
            number = 0 if part is None else int(Path(str(part.name)).stem[-5:]) + 1
            if part:
                part.close()
            part = tars[top] = tarfile.open(target / f"{top}-{number:05d}.tar", "w", format=tarfile.GNU_FORMAT)
        with (each.out / name).open("rb") as file:
            info = tarfile.TarInfo(name)
            info.size = (each.out / name).stat().st_size
            part.addfile(info, file)
    for part in tars.values():
        part.close()


def _unpacked(folder: Path, store: Store) -> Artifact:
    def bring(out: Path) -> None:
        for path in storage.tree(folder / "out"):
            storage.link_or_copy(path, out / path.relative_to(folder / "out"))
        for path in sorted(folder.glob("*.tar")):
            with tarfile.open(path) as tar:
                tar.extractall(out, filter="data")

    return mirror.settle(storage.read_json(folder / mirror.MANIFEST), store, str(folder), bring)


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
