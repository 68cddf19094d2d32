"""What this machine has and lacks for stepvideo, without importing anything heavy (`stepvideo doctor`).

Versions come from package metadata, torch's build from its version file, GPUs from `nvidia-smi`: the whole report takes
well under two seconds, also on a machine where importing torch would fail.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

from stepvideo import artifact
from stepvideo.errors import StepVideoError

Status = Literal["ok", "warn", "missing", "untested"]
ROOT = Path(__file__).resolve().parent.parent
DISK_WARN_GB = 10.0  # `micro` with its environment needs about half of it
FASTAPI_BREAKS_PREFECT = (0, 151)  # prefect 3.8: HTTP 422 from 0.151, no server from 0.155
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SLURM_COMMANDS = ("sbatch", "sinfo", "sacct", "scancel")
S3_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_PROFILE")


@dataclass(frozen=True)
class Check:
    """One line of the report. `fix` is what to do about it, empty where nothing needs doing."""

    name: str
    status: Status
    detail: str
    fix: str = ""


def checks(store: Path | str | None = None, root: Path = ROOT) -> list[Check]:
    """Every check, in the order to print them.

    Args:
        store: where artifacts go; `runs/store` below `root` if not given.
        root: the checkout, for its lock file and its data.
    """
    store = Path(store) if store is not None else root / "runs" / "store"
    gpus = _gpus()
    return [
        _python(),
        _torch(),
        _versions(root / "requirements.lock"),
        _fastapi(),
        _gpu(gpus),
        _disk(store),
        _store(store),
        _data(root),
        _slurm(),
        _browser(),
        *_untested(gpus, root),
    ]


def worst(found: list[Check]) -> Status:
    """The gravest status: "missing" before "warn" before the rest."""
    present = {c.status for c in found}
    return "missing" if "missing" in present else "warn" if "warn" in present else "ok"


# ------------------------------------------------------------------------------------------------------ the environment


def _python() -> Check:
    found = platform.python_version()
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        return Check("python", "ok", f"{found} ({sys.executable})")
    return Check("python", "missing", f"{found}; 3.11 or 3.12 is needed", "make setup PYTHON=python3.11")


def _torch() -> Check:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return Check("torch", "missing", "not installed", "make setup")
    text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    found = re.search(r"__version__ = '([^']+)'", text)
    cuda = re.search(r"^cuda\b.*= '([^']+)'", text, re.MULTILINE)
    build = f"CUDA {cuda[1]}" if cuda else "CPU build"
    return Check("torch", "ok", f"{found[1] if found else '?'} ({build})")


def _versions(lock: Path) -> Check:
    if not lock.exists():
        return Check("packages", "untested", f"no {lock.name} (not a checkout): versions were not compared")
    wanted = locked(lock)
    absent = [name for name in wanted if installed(name) is None]
    other = [f"{n} {found} (lock: {v})" for n, v in wanted.items() if (found := installed(n)) not in (None, v)]
    if not absent and not other:
        return Check("packages", "ok", f"all {len(wanted)} as in {lock.name}")
    parts = [f"not installed: {_some(absent)}"] * bool(absent) + [f"other version: {_some(other)}"] * bool(other)
    return Check("packages", "missing" if absent else "warn", "; ".join(parts), "make setup")


def locked(lock: Path) -> dict[str, str]:
    """{name: version} of a lock file."""
    lines = (line.partition("#")[0].strip() for line in lock.read_text(encoding="utf-8").splitlines())
    return {name: exact for name, _, exact in (line.partition("==") for line in lines if line)}


def installed(name: str) -> str | None:
    """A package's version without its local label (torch's "+cpu"), or None."""
    try:
        return version(name).split("+")[0]
    except PackageNotFoundError:
        return None


def _fastapi() -> Check:
    """Prefect 3.8 does not declare the cap it needs, so a `pip install` of something else can break it silently."""
    fastapi, prefect = installed("fastapi"), installed("prefect")
    if not fastapi or not prefect:
        return Check("prefect + fastapi", "missing", "prefect or fastapi is not installed", "make setup")
    detail = f"prefect {prefect}, fastapi {fastapi}"
    declared = any(re.match(r"fastapi\b.*<0\.151", r) for r in requires("prefect") or [])
    numbers = tuple(int(part) for part in re.findall(r"\d+", fastapi)[:2])
    if numbers < FASTAPI_BREAKS_PREFECT or declared:
        return Check("prefect + fastapi", "ok", detail)
    return Check("prefect + fastapi", "missing", f"{detail}: Prefect's server fails", "pip install 'fastapi<0.151'")


# ---------------------------------------------------------------------------------------------------------- the machine


def _run(*command: str, timeout: float = 1.5) -> str | None:
    """Output of a command, or None if it is absent, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _gpus() -> list[str]:
    out = _run("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    return [line.strip() for line in (out or "").splitlines() if line.strip()]


def _gpu(gpus: list[str]) -> Check:
    if gpus:
        return Check("gpu", "ok", f"{len(gpus)} x {gpus[0]}")
    return Check("gpu", "untested", "none found; everything runs on the CPU")


def _nearest(path: Path) -> Path:
    """The path, or the closest folder above it that exists."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def _disk(store: Path) -> Check:
    usage = shutil.disk_usage(_nearest(store))
    free = usage.free / 1e9
    detail = f"{free:.0f} GB free of {usage.total / 1e9:.0f} GB where the store is"
    if free < DISK_WARN_GB:
        return Check("disk", "warn", detail, "free some space, or choose another store")
    return Check("disk", "ok", detail)


def _store(store: Path) -> Check:
    """Tries a real write where the store is; where it does not exist yet, asks whether it could be made."""
    if not store.exists():
        above = _nearest(store)
        if os.access(above, os.W_OK | os.X_OK):
            return Check("store", "ok", f"{store} will be made")
        return Check("store", "missing", f"{store} cannot be made: {above} is not writable", "choose another store")
    if not store.is_dir():
        return Check("store", "missing", f"{store} is not a folder", "choose another store")
    try:
        artifact.Store(store).check_writable()
    except StepVideoError as e:
        return Check("store", "missing", str(e), "choose another store")
    return Check("store", "ok", f"{store} is writable")


def _data(root: Path) -> Check:
    """Whether what `data.dvc` names is here, and else whether the remote it comes from is."""
    pointer = root / "data.dvc"
    if not pointer.exists():
        return Check("data", "untested", f"no data.dvc in {root}")
    named = re.search(r"^\s*path:\s*(\S+)", pointer.read_text(encoding="utf-8"), re.MULTILINE)
    target = root / (named[1] if named else "data")
    if target.exists():
        return Check("data", "ok", f"{target.name}/ is here (compare with data.dvc: dvc status)")
    remote = _remote(root)
    if remote is None:
        return Check("data", "missing", "not pulled, and .dvc/config names no remote", "dvc remote add -d NAME URL")
    if "://" in remote:
        return Check("data", "untested", f"not pulled; whether {remote} answers was not asked", "dvc pull")
    if not (root / ".dvc" / remote).exists():
        return Check("data", "missing", f"not pulled, and the remote {remote} is not there", "restore it from git")
    return Check("data", "warn", f"not pulled; the remote {remote} is there", "dvc pull")


def _remote(root: Path) -> str | None:
    """URL of DVC's default remote; relative ones are relative to `.dvc/`, as DVC has it."""
    import configparser

    config = configparser.ConfigParser()
    config.read(root / ".dvc" / "config", encoding="utf-8")
    name = config.get("core", "remote", fallback=None)
    for section in (f"'remote \"{name}\"'", f'remote "{name}"'):
        if config.has_option(section, "url"):
            return config.get(section, "url")
    return None


def _slurm() -> Check:
    present = [c for c in SLURM_COMMANDS if shutil.which(c)]
    absent = [c for c in SLURM_COMMANDS if c not in present]
    if absent:
        return Check("slurm", "untested", f"not on PATH: {', '.join(absent)}")
    up = _run("sinfo", "--noheader", "--format=%P %a %D")
    if up is None:
        return Check("slurm", "warn", "commands are here, the controller does not answer", "start slurmctld")
    return Check("slurm", "ok", "; ".join(up.split("\n")[:3]).strip("; "))


def _browser() -> Check:
    found = next((path for b in BROWSERS if (path := shutil.which(b))), None)
    if found:
        return Check("browser", "ok", f"{found} (used by the tests of the HTML report and the page)")
    return Check("browser", "untested", "no Chromium: tests that open a page are skipped", "scripts/apt.sh as root")


def _untested(gpus: list[str], root: Path) -> list[Check]:
    """Paths of the project that this machine cannot run, so nothing here vouches for them."""
    reasons = {
        "training on CUDA: nccl, bf16, cuDNN attention, overlap of exchanges, MFU": "" if gpus else "no GPU",
        "async tensor parallelism": "" if len(gpus) > 1 else "needs two GPUs that reach each other's memory",
        "fp8 training": "" if gpus else "no GPU; it needs compute capability 8.9",
        "generation on CUDA: offload streams, int8 and fp8 kernels, nccl": "" if gpus else "no GPU",
        "several GPUs": "fewer than two" if len(gpus) == 1 else "",
        "profile=small": "sized for a GPU" if not gpus and (root / "conf" / "profile" / "small.yaml").exists() else "",
        "jobs through a real Slurm": "" if shutil.which("sbatch") else "no sbatch; see cluster=submitit-local",
        "files and data on S3": "" if any(map(os.environ.get, S3_VARIABLES)) else "no credentials in the environment",
    }
    return [Check(what, "untested", why) for what, why in reasons.items() if why]


def _some(items: list[Any], most: int = 4) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
