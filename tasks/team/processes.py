"""Services as processes: each in a session of its own, found again by pid and start time, ended with all it started.

A pid alone says nothing after a reboot, or once the number is used again; the boot's id and the kernel's start time do.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stepvideo import storage
from stepvideo.errors import StepVideoError
from tasks.team.layout import Stack, service_environment

START_S = 600.0  # a first start migrates databases, which took four minutes on a machine with other work
STOP_S = 20.0
POLL_S = 0.2
LAST_LINES = 5


def nothing() -> None: ...


@dataclass(frozen=True)
class Part:
    """One service.

    Attributes:
        answers: whether it does what it is there for; raises nothing.
        prepare: makes its files; called before every start of its process.
        complete: makes what others need of it (databases, a bucket) once it answers; called again by every `start`.
        stop_with: the signal of a clean end.
        whole: the signal goes to all of its session, not to its first process alone.
        user: to run it as, if not the caller.
        tries: how often it is started if it ends at once.
    """

    name: str
    command: list[str]
    answers: Callable[[], bool]
    environment: Callable[[], Mapping[str, str]] = service_environment
    prepare: Callable[[], None] = nothing
    complete: Callable[[], None] = nothing
    stop_with: signal.Signals = signal.SIGTERM
    whole: bool = True
    user: str | None = None
    tries: int = 1
    about: str = ""
    place: str = ""  # where people find it


def identity(pid: int) -> str:
    """What tells this process from any other that has or had its pid; "" if there is none, or only its remains."""
    try:
        said = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    return "" if said[0] in "ZX" else f"{boot} {said[19]}"


def pid_of(stack: Stack, name: str) -> int | None:
    """The pid of a service that runs, None otherwise."""
    record = _record(stack, name)
    return record["pid"] if record and identity(record["pid"]) == record["identity"] else None


def start(stack: Stack, part: Part) -> bool:
    """Have a service run and answer; whether it had to be started.

    Raises:
        StepVideoError: it ends at once or does not answer; with the end of its log.
    """
    started = False
    for attempt in range(part.tries):
        if pid_of(stack, part.name) is None:
            stop(stack, part)  # what a killed one left
            part.prepare()
            _spawn(stack, part)
            started = True
        if _wait(stack, part, last=attempt == part.tries - 1):
            break
        time.sleep(1.0)
    part.complete()
    return started


def _wait(stack: Stack, part: Part, last: bool) -> bool:
    """Until it answers; False if it ended and another attempt is worth it."""
    deadline = time.monotonic() + START_S
    while not part.answers():
        ended = pid_of(stack, part.name) is None
        if ended and not last:
            return False
        if ended or time.monotonic() > deadline:
            what = "ended at its start" if ended else f"does not answer after {START_S:.0f} s"
            log = stack.log(part.name)
            raise StepVideoError(f"{part.name} {what}; the end of {log}:\n{_tail(log)}")
        time.sleep(POLL_S)
    # what answers may be somebody else's service on the same port
    if pid_of(stack, part.name) is None:
        if not last:
            return False
        raise StepVideoError(
            f"something else answers where {part.name} should ({part.place}), and {part.name} ended; "
            f"stop that, or give another --port with another --folder. The end of {stack.log(part.name)}:\n"
            + _tail(stack.log(part.name))
        )
    return True


def stop(stack: Stack, part: Part) -> bool:
    """End a service and what it started, if the record says that it is ours; whether there was something to end."""
    record = _record(stack, part.name)
    found = _members(record) if record else []
    if found and record:
        first = record["pid"] if record["pid"] in found else None
        for pid in [first] if first and not part.whole else found:
            _signal(pid, part.stop_with)
        deadline = time.monotonic() + STOP_S
        while (left := _members(record)) and time.monotonic() < deadline:
            time.sleep(POLL_S / 4)
        for pid in left:
            _signal(pid, signal.SIGKILL)
        while _members(record) and time.monotonic() < deadline + STOP_S:
            time.sleep(POLL_S / 4)
    _path(stack, part.name).unlink(missing_ok=True)
    return bool(found)


def _spawn(stack: Stack, part: Part) -> None:
    as_user = {"user": part.user, "group": part.user, "extra_groups": []} if part.user else {}
    with stack.log(part.name).open("ab") as log:
        os.chmod(log.fileno(), 0o600)
        process = subprocess.Popen(
            part.command,
            env=dict(part.environment()),
            cwd="/" if part.user else stack.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            **as_user,
        )
    known = identity(process.pid) or "ended"
    storage.write_json(_path(stack, part.name), {"pid": process.pid, "identity": known, "since": time.time()})


def since(stack: Stack, name: str) -> float:
    """When a service was started, seconds since 1970; 0 if it is not known."""
    return float((_record(stack, name) or {}).get("since", 0.0))


def _members(record: dict) -> list[int]:
    """Processes of a service: its session and what that has started, except jobs, which are to outlive their driver.

    None if its pid is another's by now, or the machine was restarted. The kernel gives a number to nobody else as long
    as a session has it.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    first = identity(record["pid"])
    if not record["identity"].startswith(boot) or (first and first != record["identity"]):
        return []
    parents, found = {}, set()
    for entry in os.listdir("/proc"):
        try:
            said = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split() if entry.isdigit() else None
            if said is None or said[0] in "ZX":
                continue
            if b"stepvideo.job" not in Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0"):
                parents[int(entry)] = int(said[1])
                if int(said[3]) == record["pid"]:
                    found.add(int(entry))
        except OSError:  # gone
            continue
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def _record(stack: Stack, name: str) -> dict | None:
    path = _path(stack, name)
    return storage.read_json(path) if path.exists() else None


def _path(stack: Stack, name: str) -> Path:
    return stack.folder / "parts" / f"{name}.json"


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(f"  {line[:300]}" for line in [n for n in lines if n.strip()][-LAST_LINES:]) or "  (nothing)"
