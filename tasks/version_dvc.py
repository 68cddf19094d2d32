"""DVC in this process: its cache and its remote as two heaps of objects that are named by their md5.

`dvc add` makes a version's objects. They are sent and fetched here and not by `dvc push` and `dvc pull`: those remember
what a remote had, and so neither mend one that lost an object nor say why it refuses one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from stepvideo import s3
from stepvideo.errors import ArtifactError

JSON = ".dir"  # end of the name of a folder's object: its files as JSON


class Depot:
    """The objects of a checkout's versions.

    Args:
        name: of the version that this is about, for messages.

    Raises:
        ArtifactError: the folder is no checkout with DVC, with DVC's own reason and the fix.
    """

    def __init__(self, root: Path, name: str = "NAME") -> None:
        os.environ.setdefault("DVC_NO_ANALYTICS", "1")
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        logging.getLogger("dvc").setLevel(logging.CRITICAL)  # what it has to say comes as errors
        logging.getLogger("dvc_data").setLevel(logging.CRITICAL)
        logging.getLogger("dvc_objects").setLevel(logging.CRITICAL)
        self.root, self.name = root, name
        try:
            self.repo = Repo(str(root))
        except DvcException as e:
            raise ArtifactError(f"{root} keeps no data with DVC: {e}; run `dvc init` there, or use a clone") from e
        self._remote: Any = None

    def __enter__(self) -> Depot:
        return self

    def __exit__(self, *_: object) -> None:
        self.repo.close()

    @property
    def cache(self) -> Any:
        """This checkout's own objects."""
        return self.repo.cache.local

    @property
    def remote(self) -> Any:
        """The default remote's. Raises ArtifactError if there is none."""
        if self._remote is None:
            from dvc.exceptions import DvcException

            try:
                self._remote = self.repo.cloud.get_remote_odb(None)
            except DvcException as e:
                fix = "`dvc remote add -d NAME s3://BUCKET/FOLDER`, or a folder in place of the URL"
                raise ArtifactError(f"{self.root} has no DVC remote to keep versions in; {fix}") from e
        return self._remote

    @property
    def url(self) -> str:
        """Where the remote is."""
        path = str(self.remote.path).removesuffix("/files/md5")
        return path if self.remote.fs.protocol == "local" else str(self.remote.fs.unstrip_protocol(path))

    def add(self, desk: Path, name: str) -> str:
        """Make the objects of the folder `desk/name` in the cache; the text of its .dvc file."""
        from dvc.exceptions import DvcException

        self._unblock()
        try:
            self.repo.add([str(desk / name)], relink=False)
        except (DvcException, OSError) as e:
            raise ArtifactError(f"DVC cannot take {desk / name}: {e}; free space, or see .dvc/config") from e
        return (desk / f"{name}.dvc").read_text(encoding="utf-8")

    def _unblock(self) -> None:
        """DVC refuses to work beside half a list of locks, which kill -9 may leave: it does not write it in one go."""
        path = self.root / ".dvc" / "tmp" / "rwlock"
        for _ in range(10):  # a live process ends its writing at once
            try:
                if not path.exists() or isinstance(json.loads(path.read_text(encoding="utf-8")), dict):
                    return
            except ValueError:
                time.sleep(0.1)
        path.unlink(missing_ok=True)

    def files(self, md5: str) -> dict[str, str]:
        """{path in the version: md5} of a folder's object, which is brought to the cache if it is not there.

        Raises:
            ArtifactError: the remote has it neither, or it is damaged.
        """
        from dvc_data.hashfile.tree import Tree

        self.fetch([md5])
        try:
            tree = Tree.from_list(json.loads(Path(self.cache.oid_to_path(md5)).read_text(encoding="utf-8")), "md5")
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise ArtifactError(f"the list of files {md5} in {self.cache.path} is damaged: {e}; remove it") from e
        return {"/".join(key): oid.value for key, _, oid in tree if oid and oid.value}

    def check_remote(self, write: bool) -> None:
        """Raises ArtifactError, with the fix, if the remote cannot be read, or written where `write`."""
        odb, url = self.remote, self.url
        local = odb.fs.protocol == "local"
        with self.explained():
            if local and not write and not Path(odb.path).is_dir():
                raise ArtifactError(f"the DVC remote {url} is not there or empty; mount it, or set `dvc remote modify`")
            if odb.fs.protocol == "s3" and not write:
                bucket, prefix = s3.split(url)
                odb.fs.fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
            if write:
                probe = f"{str(odb.path).rstrip('/')}/.probe-{os.getpid()}"
                odb.fs.makedirs(odb.path, exist_ok=True) if local else None
                odb.fs.fs.pipe_file(probe, b"ok")
                with contextlib.suppress(Exception):  # some may add but not remove
                    odb.fs.fs.rm_file(probe)

    def missing(self, oids: Iterable[str]) -> set[str]:
        """Those that the remote has not."""
        wanted = set(oids)
        with self.explained():
            return wanted - set(self.remote.list_oids_exists(wanted))

    def send(self, oids: Iterable[str]) -> int:
        """Put objects of the cache that the remote lacks there, lists of files last; how many that were.

        Raises:
            ArtifactError: the cache lacks one too, or the remote refuses it.
        """
        lacking = self.missing(oids)
        lost = [o for o in lacking if not Path(self.cache.oid_to_path(o)).exists()]
        if lost:
            raise ArtifactError(
                f"{len(lost)} objects are neither in {self.cache.path} nor in {self.url}; publish again"
            )
        for group in ([o for o in lacking if not o.endswith(JSON)], [o for o in lacking if o.endswith(JSON)]):
            self._copy(self.cache, self.remote, group)
        if still := self.missing(lacking):
            raise ArtifactError(
                f"{self.url} took {len(still)} objects and has them not; see its log, then publish again"
            )
        return len(lacking)

    def fetch(self, oids: Iterable[str]) -> None:
        """Bring objects to the cache, each checked by its md5.

        Raises:
            ArtifactError: the remote has not all of them, or one is damaged there; names them.
        """
        wanted = sorted({o for o in oids if not Path(self.cache.oid_to_path(o)).exists()})
        if not wanted:
            return
        self.check_remote(write=False)
        if lost := sorted(self.missing(wanted)):
            raise ArtifactError(
                f"{len(lost)} of {len(wanted)} objects of {self.name} are no longer in the DVC remote {self.url}, "
                f"{lost[0]} for one; `stepvideo data verify {self.name}` lists their files, and with --repair, on a "
                "checkout that still has them, sends them again"
            )
        self._copy(self.remote, self.cache, wanted)
        for oid in wanted:
            path = Path(self.cache.oid_to_path(oid))
            if md5_of(path) != oid.removesuffix(JSON):
                path.unlink()
                raise ArtifactError(
                    f"{self.remote.oid_to_path(oid)} in the DVC remote is damaged; `stepvideo data verify {self.name} "
                    "--repair` on a checkout that has it whole mends it"
                )
            with contextlib.suppress(OSError):
                path.chmod(0o444)

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """What the remote says, as an ArtifactError with the fix."""
        try:
            with s3.explained(self.url):
                yield
        except PermissionError as e:
            raise ArtifactError(f"the DVC remote {self.url} may not be written: {e}") from e
        except ArtifactError as e:
            if str(e).startswith("cannot use"):
                raise ArtifactError(f"the DVC remote of {self.root}: {e}") from e
            raise

    def _copy(self, source: Any, target: Any, oids: list[str]) -> None:
        failed: list[BaseException] = []
        if oids:
            with self.explained():
                paths = [source.oid_to_path(o) for o in oids]
                target.add(paths, source.fs, oids, check_exists=False, on_error=lambda _, e: failed.append(e))
                if failed:
                    raise failed[0]


def md5_of(path: Path) -> str:
    import hashlib

    with path.open("rb") as f:
        return hashlib.file_digest(f, "md5").hexdigest()


def md5_in(text: str) -> str:
    """The md5 of the folder that a .dvc file is for; "" without one."""
    found = re.search(r"md5:\s*([0-9a-f]{32}(?:\.dir)?)", text)
    return found.group(1) if found else ""
