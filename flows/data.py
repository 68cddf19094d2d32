"""`stepvideo data publish` and `stepvideo data checkout`: artifacts to a bucket or to DVC, and back."""

from __future__ import annotations

from flows.compose import ROOT
from flows.lineage import find
from flows.status import store_of
from stepvideo import mirror
from stepvideo.artifact import Store
from tasks import versions


def publish_command(folder: str | None, refs: list[str], url: str | None, name: str | None) -> int:
    """Copy artifacts below a URL, or give them to DVC under a name; where they are then."""
    store = store_of(folder)
    found = [find(store, ref) for ref in refs]
    if name:
        path = versions.record(found, name, ROOT).relative_to(ROOT)
        print(f"{path}\nnext: git add {path} {path.parent}/.gitignore && git commit | stepvideo data checkout {name}")
        return 0
    for artifact in found:
        print(mirror.publish(artifact, url or ""), flush=True)
    return 0


def checkout_command(folder: str | None, what: str) -> int:
    """Bring the artifacts of a version, or the one at a URL, into the store; every file is checked."""
    store = Store(folder or ROOT / "runs" / "store")  # which may be a new one
    back = [mirror.restore(what, store)] if "/" in what else versions.bring_back(what, ROOT, store)
    for artifact in back:
        print(artifact.dir)
    return 0
