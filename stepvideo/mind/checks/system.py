"""Checks of what every machine has: disks, memory, limits, clock, kernel log, load, mounts, leftover processes."""

from __future__ import annotations

import os
import resource
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from stepvideo.mind.checks.host import Expected, Host
from stepvideo.mind.checks.result import Result, absent, fail, of_finding, ok, warn
from stepvideo.mind.classify import CLOCK_S, from_kernel

GB = 1e9
ROUTINE = {"LINK_DOWN", "HOST_OOM"}  # in every boot's log, and a job's own; the state of ports is checked itself
HUNG = "blocked for more than"
READ = 1 << 16
KERNEL_LINES = 20000


def disks(host: Host, expected: Expected) -> Iterator[Result]:
    """Room, inodes, and whether they can be written."""
    readonly = {m for m, options in _mounts(host).items() if "ro" in options}
    for disk in expected.disks:
        name, path = f"disk {disk}", host.path(disk)
        if not path.exists():
            yield absent(name, disk)
            continue
        s = os.statvfs(path)
        free = s.f_bavail / max(s.f_blocks, 1)
        inodes = s.f_favail / s.f_files if s.f_files else 1.0
        if disk in readonly or s.f_flag & os.ST_RDONLY:
            yield fail(name, "read-only", "DISK_ERROR", f"dmesg | grep -i error; mount -o remount,rw {disk}")
        elif min(free, inodes) < expected.disk_free / 2:
            detail = f"{free:.1%} of space, {inodes:.1%} of inodes free"
            yield fail(name, detail, "DISK_FULL", f"du -xh --max-depth=2 {disk} | sort -h | tail")
        elif min(free, inodes) < expected.disk_free:
            yield warn(name, f"{free:.1%} of space, {inodes:.1%} of inodes free", "DISK_FULL", f"du -xh {disk}")
        else:
            yield ok(name, f"{free:.0%} free")


def memory(host: Host, expected: Expected) -> Iterator[Result]:
    """As much as was built in: a module that failed at boot is simply missing."""
    found = dict(line.split(":") for line in host.text("/proc/meminfo").splitlines() if ":" in line)
    total = int(found["MemTotal"].split()[0]) * 1024 / GB
    if expected.memory_gb and total < 0.95 * expected.memory_gb:
        detail = f"{total:.0f} of {expected.memory_gb:.0f} GB"
        yield fail("memory", detail, "MACHINE_CHECK", "dmidecode -t memory; edac-util -v")
    else:
        yield ok("memory", f"{total:.1f} GB")


def limits(host: Host, expected: Expected) -> Iterator[Result]:
    """File descriptors of the system and of a process; memory that RDMA may lock."""
    used, _, most = (int(v) for v in host.text("/proc/sys/fs/file-nr").split())
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if used > 0.9 * most:
        yield warn("limits", f"{used} of {most} file descriptors are used", fix="sysctl fs.file-max; lsof | wc -l")
    elif soft != resource.RLIM_INFINITY and soft < expected.open_files:
        yield warn("limits", f"{soft} open files a process, not {expected.open_files}", fix="LimitNOFILE of slurmd")
    elif expected.locked_memory and resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] != resource.RLIM_INFINITY:
        yield warn("limits", "memory cannot be locked, which RDMA needs", fix="LimitMEMLOCK=infinity of slurmd")
    else:
        yield ok("limits", f"{used} file descriptors in use")


def clock(host: Host, expected: Expected) -> Iterator[Result]:
    """Against the server of the shared file system, which is the same for all nodes: the time of a new file."""
    if not expected.shared:
        yield absent("clock", "`shared`, a folder that all nodes share")
        return
    probe = Path(expected.shared) / f".clock-{host.name}-{uuid.uuid4().hex[:8]}"
    before = time.time()
    probe.touch()
    after, there = time.time(), probe.stat().st_mtime
    probe.unlink()
    skew = max(before - there, there - after, 0.0)
    if skew > CLOCK_S:
        yield warn("clock", f"{skew:.0f} s from the file server", "CLOCK_SKEW", "chronyc makestep; chronyc tracking")
    else:
        yield ok("clock", f"within {skew + after - before:.2f} s")


def kernel(host: Host, expected: Expected) -> Iterator[Result]:
    """Faults since boot: Xid, machine checks, disks; tasks that hang."""
    try:
        lines = _kernel_lines(host)
    except OSError as e:
        yield absent("kernel", f"/dev/kmsg: {e.strerror}")
        return
    found = {f.name: f for f in from_kernel(lines) if f.name not in ROUTINE}
    hung = [line for line in lines if HUNG in line]
    for name in sorted(found):
        yield of_finding("kernel", found[name])
    if hung:
        yield warn("kernel", f"{len(hung)} × {hung[-1][:100]}", fix="dmesg | grep -A20 blocked; look at mounts")
    if not found and not hung:
        yield ok("kernel", f"{len(lines)} lines")


def load(host: Host, expected: Expected) -> Iterator[Result]:
    """Load, processes that wait for a device, and zombies."""
    average = float(host.text("/proc/loadavg").split()[0])
    states = Counter(_states(host))
    cores = os.cpu_count() or 1
    if states["Z"] > expected.zombies:
        yield warn("load", f"{states['Z']} zombies", fix="ps -eo stat,ppid,comm | grep ^Z")
    elif average > expected.load_per_core * cores:
        detail = f"load {average:.0f} on {cores} cores, {states['D']} processes wait for a device"
        yield warn("load", detail, "SLOW_NODE", "top -b -n1 | head -30")
    else:
        yield ok("load", f"{average:.1f}")


def mounts(host: Host, expected: Expected) -> Iterator[Result]:
    """There, and their servers answer: a call that does not return is the timeout's business."""
    there = _mounts(host)
    for mount in expected.mounts:
        if mount not in there:
            yield fail(f"mount {mount}", "not mounted", "DISK_ERROR", f"mount {mount}")
        else:
            os.statvfs(host.path(mount))
            yield ok(f"mount {mount}")
    if not expected.mounts:
        yield absent("mounts", "`mounts`, those that jobs rely on")


def leftovers(host: Host, expected: Expected) -> Iterator[Result]:
    """Processes of jobs that have ended: those whose step daemon is gone."""
    jobs: Counter[str] = Counter()
    alive = set()
    for pid in _pids():
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if title.startswith("slurmstepd: ["):
                alive.add(title.partition("[")[2].split(".")[0].rstrip("] "))
                continue
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or is not ours to read
            continue
        if f"SLURMD_NODENAME={host.name}".encode() in environment:
            job = next((e[13:].decode() for e in environment if e.startswith(b"SLURM_JOB_ID=")), "")
            jobs[job] += bool(job)
    left = {job: n for job, n in jobs.items() if n and job not in alive}
    if left:
        names = ", ".join(f"{n} of job {job}" for job, n in sorted(left.items()))
        yield warn("leftovers", names, fix="pkill -KILL of these processes; scontrol show job ID")
    else:
        yield ok("leftovers")


def _mounts(host: Host) -> dict[str, list[str]]:
    rows = [line.split(" - ") for line in host.text("/proc/self/mountinfo").splitlines()]
    found = {}
    for left, right in rows:
        fields, end = left.split(), right.split()
        found[fields[4].replace("\\040", " ")] = fields[5].split(",") + end[-1].split(",")[:1]
    return found


def _kernel_lines(host: Host) -> list[str]:
    file = os.open(host.path("/dev/kmsg"), os.O_RDONLY | os.O_NONBLOCK)
    records: list[str] = []
    try:
        while len(records) < KERNEL_LINES:
            try:
                data = os.read(file, READ)
            except BlockingIOError:
                break
            except BrokenPipeError:  # overwritten before it was read
                continue
            if not data:
                break
            records += data.decode(errors="replace").splitlines()
    finally:
        os.close(file)
    return [r.partition(";")[2] or r for r in records if not r.startswith(" ")]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _states(host: Host) -> Iterator[str]:
    for pid in _pids():
        try:
            yield Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            continue
