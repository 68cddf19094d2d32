"""Which data and code a run is made with: DVC's md5 of the raw set, git's commit, a hash of what is not committed.

DVC versions data and only data: `data.dvc` at the root of the checkout names the version.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from stepvideo.errors import ArtifactError

PULL_TIMEOUT_S = 600


def data_version(root: Path) -> dict[str, str]:
    """{"data_md5", "data_dvc"}: the md5 in `data.dvc` and the file's text; empty without the file."""
    path = root / "data.dvc"
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    md5 = re.search(r"md5:\s*(\S+)", text)
    return {"data_md5": md5.group(1) if md5 else "", "data_dvc": text}


def code_version(root: Path) -> dict[str, str]:
    """{"git_sha", "git_dirty"}: the commit, and a hash of the difference from it, empty if there is none.

    Empty when `root` is no git checkout. Lineage only: keys follow the code itself (`stepvideo.fingerprint`).
    """
    sha = git(root, "rev-parse", "HEAD")
    if sha is None:
        return {}
    diff = (git(root, "diff", "HEAD", "--", "stepvideo", "flows", "tasks", "conf") or "").strip()
    return {"git_sha": sha.strip(), "git_dirty": hashlib.sha256(diff.encode()).hexdigest()[:16] if diff else ""}


def lineage(root: Path) -> dict[str, Any]:
    """Both, for specs and manifests."""
    return data_version(root) | code_version(root)


def pull_if_missing(folder: Path, root: Path) -> bool:
    """`dvc pull` when `folder` is what `data.dvc` names and is not there; returns whether it was pulled.

    Raises:
        ArtifactError: the folder is missing and DVC cannot give it.
    """
    if folder.exists():
        return False
    if folder != root / "data" or not (root / "data.dvc").exists():
        raise ArtifactError(f"data folder {folder} does not exist; give data=DIR, or restore it with `dvc pull`")
    try:
        dvc(root, "pull", "data.dvc", timeout_s=PULL_TIMEOUT_S)
    except ArtifactError as e:
        raise ArtifactError(f"could not restore {folder}: {e}") from e
    return True


def dvc(folder: Path, command: str, *args: str, timeout_s: float | None = None) -> None:
    """A command of DVC's in a folder. Raises ArtifactError with its own reason."""
    argv = [sys.executable, "-m", "dvc", command, *args]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()
        reason = next((line for line in said if line.startswith("ERROR")), said[-1])
        raise ArtifactError(f"`dvc {command}` in {folder}: {reason.removeprefix('ERROR: ')}")


def git(root: Path, *args: str) -> str | None:
    """What a git command prints; None where it fails or there is no git."""
    try:
        done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
