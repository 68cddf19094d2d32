"""Every artifact of a run to a bucket too: `tracking.mirror=s3://BUCKET/FOLDER`, laid out as a store.

A store is a folder, as jobs read it at the speed of a disk and locks live in it; the bucket is its copy, for other
machines and for the day when the disk is gone. What cannot be copied now is copied by the next run over this store:
nothing waits for the bucket but the end of the run, and that not for long.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import Any

from stepvideo import mirror, s3, storage
from stepvideo.artifact import Artifact, Store
from stepvideo.errors import StepVideoError
from stepvideo.stage import StageSpec
from tasks.stages import Outcome, Silent

log = logging.getLogger("stepvideo.mirror")

PAUSE_S = 60.0  # for which a bucket that failed is not asked for artifacts
AGAIN_S = 5.0  # between attempts while the bucket cannot be used
END_S = 60.0  # that the end of a run waits for copies that succeed
MARK = "mirrored.json"  # in a stage's folder: where its artifact was copied to, so that hits need not be asked for


class Mirroring(Silent):
    """Listens to stages; copies in a thread of its own.

    Args:
        url: what the copies lie below: URL/STAGE/KEY/….
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._todo: queue.Queue[Artifact | None] = queue.Queue()
        self._left: dict[str, str] = {}  # stage: why it was not copied yet
        self._ask_after = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._copy_all, daemon=True, name="mirror")
        self._thread.start()

    def ended(self, spec: StageSpec, outcome: Outcome | None, error: BaseException | None) -> None:
        if outcome is not None and not is_mirrored(outcome.artifact, self._url):
            self._left[spec.stage] = "not begun"
            self._todo.put(outcome.artifact)

    def bring(self, store: Store, stage: str, key: str) -> bool:
        """Have an artifact of this store from the bucket, if it lies there; every file is checked.

        A bucket that cannot be used is no reason to fail: the stage is made instead, and the bucket left alone a while.
        """
        if time.monotonic() < self._ask_after:
            return False
        try:
            with s3.explained(self._url):
                there = storage.read_whole(f"{self._url}/{stage}/{key}/{mirror.MANIFEST}")
            artifact = mirror.restore(f"{self._url}/{stage}/{key}", store) if there else None
        except StepVideoError as e:
            log.warning("nothing is taken from %s: %s", self._url, str(e).splitlines()[0])
            self._ask_after = time.monotonic() + PAUSE_S
            return False
        if artifact:
            self._mark(artifact)
        return artifact is not None

    def close(self) -> list[str]:
        """Wait for copies that go well; what is left then, in words for people. The second time there is none."""
        if self._end.is_set():
            return []
        self._end.set()
        self._todo.put(None)
        self._thread.join(END_S)
        return [
            f"not copied to {self._url}: {stage} ({why}); the same command tries again"
            for stage, why in self._left.items()
        ]

    def _copy_all(self) -> None:
        while (artifact := self._todo.get()) is not None:
            stage = artifact.manifest["stage"]
            while why := self._copy(artifact):
                self._left[stage] = why
                if self._end.wait(AGAIN_S):
                    break
            else:
                self._left.pop(stage, None)

    def _copy(self, artifact: Artifact) -> str:
        """ "" if it is there now, else why not."""
        try:
            mirror.publish(artifact, self._url)
            self._mark(artifact)
        except StepVideoError as e:
            return str(e).splitlines()[0]
        except Exception as e:  # a copy is no reason to end a run
            return f"{type(e).__name__}: {e}".splitlines()[0]
        return ""

    def _mark(self, artifact: Artifact) -> None:
        about = {"url": self._url, "digest": artifact.digest, "time": time.time()}
        storage.write_json(artifact.dir / MARK, about)


def is_mirrored(artifact: Artifact, url: str) -> bool:
    """Whether this content was copied below this URL once; that it still lies there is not asked."""
    path = artifact.dir / MARK
    said: dict[str, Any] = storage.read_json(path) if path.exists() else {}
    return said.get("url") == url.rstrip("/") and said.get("digest") == artifact.digest
