"""The driver as a service: a systemd unit for one run, and a Prefect worker that takes runs from the UI or a schedule.

The driver is disposable: whatever kills it, its jobs go on, and the same command finds them again.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flows.compose import ROOT

UNIT = """\
[Unit]
Description=stepvideo run {settings}
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
User={user}
WorkingDirectory={root}
{environment}
ExecStart={python} -m stepvideo.cli run {settings}
# A failed stage (1) or a mistake (2) is not mended by starting again; whatever else ends the driver is.
Restart=on-failure
RestartSec=5
RestartPreventExitStatus=1 2
# Stopping the service leaves the jobs, and starting it finds them. `stepvideo cancel` ends them.
KillSignal=SIGKILL

[Install]
WantedBy=multi-user.target
"""
KEPT = ("SLURM_CONF", "PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI", "STEPVIDEO_KINDS", "PYTHONPATH")
GRACE_S = 10.0


def service_command(settings: list[str]) -> int:
    """Print the unit of a run with these settings, for `systemctl` to be given."""
    import getpass

    from flows.compose import compose

    compose(settings)  # a mistake in them is told here, not by a service that does not start
    kept = {name: _literal(os.environ[name]) for name in KEPT if name in os.environ}
    environment = "\n".join(f'Environment="{name}={value}"' for name, value in kept.items())
    given = {"user": getpass.getuser(), "root": ROOT, "python": sys.executable, "environment": environment}
    command = _literal(shlex.join(settings)).replace("$", "$$")
    print(UNIT.format(settings=command, **given).replace("\n\nExecStart", "\nExecStart"), end="")
    return 0


def _literal(text: str) -> str:
    """As systemd takes it for itself: % begins a specifier in every line of a unit, $ a variable in its commands."""
    return text.replace("%", "%%")


def worker_command(pool: str, store: str | None) -> int:
    """Become a Prefect worker of a process pool, which runs the deployments of prefect.yaml; both are made if need be.

    Flow runs whose worker was killed are started again: their jobs go on meanwhile, and are found.
    """
    from flows.deployments import apply, needs_server
    from flows.deployments_file import read

    needs_server()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    for row in apply(read(), pool):
        print(f"{row['deployment']} in pool {row['pool']}")
    from flows.status import store_of
    from tasks.reap import reap_prefect, reap_records

    if store is None or Path(store).is_dir():
        kept = store_of(store)
        reap_records(kept)
        for line in reap_prefect(kept, again=True):
            print(line)
    sys.stdout.flush()
    leave_others_storage()
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
    os.execv(sys.executable, command)


def leave_others_storage() -> None:
    """Prefect keeps code that it fetches in one folder of the machine's temporary ones, whoever made it first: where
    that is another user's, this process and those below it have temporary files in a folder of their own."""
    shared = Path(tempfile.gettempdir()) / "runner_storage"
    if shared.exists() and not os.access(shared, os.W_OK):
        os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="worker-")


def cancel_command(folder: str | None) -> int:
    """Cancel every Slurm job of a store, whether a driver waits for it or not; a driver that does ends, too."""
    from flows.status import store_of
    from tasks.slurm_queue import RECORD, Queue
    from tasks.slurm_submission import Submission

    store, queue, found = store_of(folder), Queue(1.0), []
    for path in (*store.root.glob(f"*/*/{RECORD}"), *store.root.glob(f"*/*/producers/*/{RECORD}")):
        with contextlib.suppress(FileNotFoundError):  # its driver has just seen it end
            found.append(Submission(path, queue))
    with ThreadPoolExecutor(len(found) or 1) as pool:  # they save at the same time
        list(pool.map(lambda s: s.stop(GRACE_S), found))
    for submission in found:
        print(f"{submission.name} {'does not end' if submission.path.exists() else 'cancelled'}")
    return 1 if any(s.path.exists() for s in found) else 0
