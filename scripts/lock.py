"""Write requirements.lock: the exact version of every package in this environment. Run by `make lock`.

The environment is made from the ranges in pyproject.toml (all extras); pip resolves, this records. Local version labels
(torch's "+cpu") are dropped, so that one lock serves CPU and GPU machines; hashes are left out for the same reason.
"""

from __future__ import annotations

import platform
import re
import sys
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOT_LOCKED = {"stepvideo", "pip"}

HEADER = """\
# Every package of the environment, exactly. Made by `make lock` from the ranges in pyproject.toml (all extras)
# with pip on Python {python}, Linux x86_64; do not edit by hand. Installed by `make setup`.
# - fastapi stays below 0.151: prefect 3.8's server breaks on newer ones and does not say so in its metadata.
# - sqlalchemy stays below 2.1: with it prefect 3.8's scheduler fails, and no schedule starts a run.
# - lightning 2.6.2 and 2.6.3 were malicious releases and are excluded.
# - pyarrow stays below 26 and omegaconf below 2.4: mlflow and hydra-core cap them.
# - torch has no +cpu or +cu label: pip takes the build that the machine's index or wheel folder offers.
"""


def normalised(name: str) -> str:
    """A project's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def lock_text() -> str:
    """The lock of the running environment."""
    versions = {normalised(d.metadata["Name"]): d.version.split("+")[0] for d in distributions()}
    lines = [f"{name}=={version}" for name, version in sorted(versions.items()) if name not in NOT_LOCKED]
    return HEADER.format(python=".".join(platform.python_version_tuple()[:2])) + "\n".join(lines) + "\n"


if __name__ == "__main__":
    target = ROOT / "requirements.lock"
    target.write_text(lock_text(), encoding="utf-8")
    print(f"{target.name}: {target.read_text().count('==')} packages", file=sys.stderr)
