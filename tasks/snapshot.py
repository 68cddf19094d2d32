"""A copy of the library for jobs to run, so that an edit cannot enter a job that is queued or resubmitted."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from pathlib import Path

import stepvideo

ENV_ROOT = "STEPVIDEO_ROOT"  # the checkout, for what is not code: shipped weights, data


def snapshot(store: Path) -> Path:
    """Copy the package to `<store>/_code/<digest>/` unless it is there; returns that folder, to put on PYTHONPATH."""
    package = Path(stepvideo.__file__).resolve().parent
    files = {p.relative_to(package): p for p in package.rglob("*") if "__pycache__" not in p.parts and p.is_file()}
    texts = {name: files[name].read_bytes() for name in sorted(files)}
    digest = hashlib.sha256()
    for name, text in texts.items():
        digest.update(f"{name}\0".encode() + text + b"\0")
    target = store / "_code" / digest.hexdigest()[:16]
    if target.exists():
        return target
    tmp = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    for folder in {name.parent for name in texts}:
        (tmp / package.name / folder).mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (tmp / package.name / name).write_bytes(text)
    try:
        os.replace(tmp, target)
    except OSError:  # another driver made it meanwhile
        shutil.rmtree(tmp, ignore_errors=True)
        if not target.exists():
            raise
    return target


def job_environment(code: Path | None) -> dict[str, str]:
    """What a job's environment has beyond the driver's: the snapshot first on the path, and where the checkout is."""
    package_root = Path(stepvideo.__file__).resolve().parent.parent
    path = [str(code or package_root), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONSAFEPATH": "1",  # or `-m` would put the current folder, often the checkout, before the snapshot
        ENV_ROOT: os.environ.get(ENV_ROOT, str(package_root)),
    }
