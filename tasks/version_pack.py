"""An artifact as few files, and back: DVC takes milliseconds, and a remote a request, for every one."""

from __future__ import annotations

import shutil
import tarfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from stepvideo import mirror, storage
from stepvideo.artifact import Artifact, Store, damage
from stepvideo.errors import ArtifactError

MANY = 100
TAR_BYTES = 1 << 30


def pack(each: Artifact, folder: Path) -> None:
    """Put an artifact at `folder/STAGE/KEY`: top folders of more than `MANY` files as tars, equal for equal content.

    Raises:
        ArtifactError: it is damaged.
    """
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


def unpack(files: Mapping[str, Path], store: Store, place: str) -> Artifact:
    """An artifact in a store, every file checked.

    Args:
        files: {"manifest.json", "out/…", "FOLDER-00000.tar": where its bytes are}.
        place: for messages.

    Raises:
        ArtifactError: a file is not what the manifest says.
    """

    def bring(out: Path) -> None:
        try:
            for name, path in files.items():
                if name.startswith("out/"):
                    (target := out / name.removeprefix("out/")).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, target)  # no link: who wrote to the store would write to the version
                elif name.endswith(".tar"):
                    with tarfile.open(path) as tar:
                        tar.extractall(out, filter="data")
        except OSError as e:
            raise ArtifactError(f"cannot write {out}: {e.strerror or e}; free space or choose another store") from e

    return mirror.settle(storage.read_json(files[mirror.MANIFEST]), store, place, bring)
