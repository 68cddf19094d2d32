"""Where the jobs of a stage write their output, and how to follow all of it.

logs/attempt-N.out, .err       attempt N
logs/attempt-N.E.out, .err     element E of its job array, or component E (het1) of a heterogeneous job
"""

from __future__ import annotations

import os
import re
from pathlib import Path

NAME = re.compile(r"attempt-(\d+)(?:\.(\w+))?\.(out|err)")


def log_paths(stage_dir: Path, number: int, element: int | str | None = None) -> tuple[Path, Path]:
    """stdout and stderr of attempt `number`, or of one element of its job array ("%a": whichever sbatch starts)."""
    stem = f"attempt-{number}" + ("" if element is None else f".{element}")
    return stage_dir / "logs" / f"{stem}.out", stage_dir / "logs" / f"{stem}.err"


def log_files(stage_dir: Path, first: int = 1) -> dict[Path, str]:
    """{log: element, or ""} of attempt `first` and later ones, in order."""
    found = [(m, p) for p in (stage_dir / "logs").glob("attempt-*") if (m := NAME.fullmatch(p.name))]
    found.sort(key=lambda f: (int(f[0][1]), len(f[0][2] or ""), f[0][2] or "", f[0][3] == "err"))
    return {p: m[2] or "" for m, p in found if int(m[1]) >= first}


def newest_errors(stage_dir: Path, number: int) -> Path | None:
    """The stderr of an attempt that was written last, of all elements of an array; None if there is none."""
    times = {p: _stat(p).st_mtime_ns for p in log_files(stage_dir, number) if p.suffix == ".err" and p.exists()}
    return max(times, key=lambda p: (_stat(p).st_size > 0, times[p]), default=None)


class Tail:
    """New lines of a stage's logs, of all elements and of attempts that begin later."""

    def __init__(self, stage_dir: Path, first: int = 1, most: int = 0) -> None:
        """Args:
        first: attempt.
        most: bytes that one `read` gives, of all files together; more is left out, and said. 0: everything.
        """
        self._dir, self._first, self._most = stage_dir, first, most
        self._places: dict[Path, int] = {}

    def skip(self) -> None:
        """Only what is written from now on."""
        self._places = {p: _size(p) for p in log_files(self._dir, self._first)}

    def read(self, end: bool = False) -> list[tuple[str, str]]:
        """(element or "", line) of what is new.

        Args:
            end: nothing more will come, so a last line without its newline counts.
        """
        files = {p: e for p, e in log_files(self._dir, self._first).items() if _size(p) != self._places.get(p, 0)}
        share = max(1, self._most // max(len(files), 1)) if self._most else 0
        return [(element, line) for path, element in files.items() for line in self._lines(path, share, end)]

    def _lines(self, path: Path, share: int, end: bool) -> list[str]:
        size, place = _size(path), self._places.get(path, 0)
        if size < place:  # begun anew
            place = 0
        said = []
        if share and size - place > share:
            said = [f"… {size - share - place:,} bytes left out, see {path}"]
            place = size - share
        with path.open("rb") as f:
            f.seek(place)
            data = f.read(size - place)
        whole = len(data) if end else data.rfind(b"\n") + 1
        self._places[path] = place + whole
        lines = data[:whole].decode(errors="replace").split("\n")
        return said + [line.rstrip("\r").rpartition("\r")[2] for line in (lines if lines[-1] else lines[:-1])]


def _stat(path: Path) -> os.stat_result:
    return os.stat(path)


def _size(path: Path) -> int:
    try:
        return _stat(path).st_size
    except FileNotFoundError:
        return 0
