"""Python packages that MLflow's server needs for a team and this environment may lack: Debian's, for that server alone.

All are pure Python. Only what is named here is linked: the rest must be found in the environment's own versions.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from stepvideo.errors import ConfigError

DEBIAN = Path("/usr/lib/python3/dist-packages")
WANTED = {  # module: (Debian's package, the files that are used; none: all)
    "psycopg": ("python3-psycopg", ()),  # to PostgreSQL
    # MLflow imports `flask_wtf.csrf`. The rest of Debian's version imports a name that Flask 3 has dropped.
    "flask_wtf": ("python3-flaskext.wtf", ("csrf.py", "_compat.py")),
    "wtforms": ("python3-wtforms", ()),
}


def missing() -> str:
    """What to install; "" if all is there."""
    absent = sorted({p for m, (p, _) in WANTED.items() if not _here(m) and not (DEBIAN / m).is_dir()})
    return f"Python packages for MLflow's server: apt-get install {' '.join(absent)} (as root)" if absent else ""


def linked(folder: Path) -> Path:
    """A folder for PYTHONPATH with what the environment lacks. Raises ConfigError, naming what to install."""
    if said := missing():
        raise ConfigError(said)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    for module, (_, files) in WANTED.items():
        if _here(module):
            continue
        if not files:
            os.symlink(DEBIAN / module, folder / module)
            continue
        (folder / module).mkdir()
        (folder / module / "__init__.py").touch()
        for name in files:
            os.symlink(DEBIAN / module / name, folder / module / name)
    return folder


def _here(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
