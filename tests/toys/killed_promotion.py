"""A promotion or a rollback in a process that kills itself just before its k-th change: STORE promote|rollback N K."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from typing import Any

from flows.promote import last_config, promote, registry_of, rollback
from stepvideo import storage
from stepvideo.artifact import Store
from tasks.registry import Registry

CHANGES = [(storage, "write_json"), (os, "rename"), (shutil, "copyfile")]
CHANGES += [(Registry, name) for name in ("keep", "tag", "set_alias", "drop_alias")]


def main(folder: str, verb: str, number: str, k: str) -> None:
    store = Store(folder)
    registry = registry_of(last_config(store)[0])
    version = registry.version(int(number))
    left = [int(k)]

    def deadly(real: Any) -> Any:
        def change(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return change

    for owner, name in CHANGES:
        setattr(owner, name, deadly(getattr(owner, name)))
    promote(registry, store, version) if verb == "promote" else rollback(registry, store)


if __name__ == "__main__":
    main(*sys.argv[1:])
