"""A font with Chinese characters, whichever this machine has (scripts/apt.sh installs one)."""

from __future__ import annotations

import shutil
import subprocess

import pytest


def find() -> str:
    """Its file, "" where there is none."""
    if not shutil.which("fc-list"):
        return ""
    listed = subprocess.run(["fc-list", ":lang=zh", "file"], capture_output=True, text=True, check=False).stdout
    return min((line.strip().rstrip(":") for line in listed.splitlines() if line.strip()), default="")


CJK = find()
needs_cjk = pytest.mark.skipif(not CJK, reason="needs a Chinese font: apt-get install fontconfig fonts-wqy-microhei")
