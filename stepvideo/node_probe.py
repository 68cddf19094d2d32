"""What a node of a cluster sees, for `stepvideo doctor --slurm`: `python -m stepvideo.node_probe FOLDER`.

The driver holds a lock on FOLDER/held and writes its time to FOLDER/now while it waits for FOLDER/NODE.json. Standard
library only, so that a broken environment can still be told.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import socket
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stepvideo import doctor


def look(folder: Path) -> dict[str, Any]:
    """{host, time, driver's time as it is seen here, whether the driver's lock is, checks of this machine}."""
    driver = float((folder / "now").read_text())
    now = time.time()
    with (folder / "held").open() as f:
        try:
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
            locked = False
        except BlockingIOError:
            locked = True
    checks = [c for c in doctor.checks(folder) if c.name in ("python", "torch", "packages", "gpu", "store", "disk")]
    return {
        "host": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        "time": now,
        "driver": driver,
        "locked": locked,
        "python": f"{platform.python_version()} ({sys.executable})",
        "checks": [asdict(c) for c in checks],
    }


def main(folder: Path) -> int:
    if not (folder / "now").exists():
        print(f"{folder} is not here: the nodes do not share the store with the driver", file=sys.stderr)
        return 1
    found = look(folder)
    tmp = folder / f".{found['host']}.tmp"
    tmp.write_text(json.dumps(found))
    tmp.rename(folder / f"{found['host']}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
