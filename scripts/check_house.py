"""Rules of the house that no linter knows, over the files given as arguments: sizes, machine paths, parseable files.

    python scripts/check_house.py $(git ls-files)

Prints one line a finding; exit code 1 if there is any.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

MAX_LINES = 400  # of one Python file; about 300 is the aim, one idea a file
MAX_BYTES = 1 << 20  # of one file; data and weights have a budget of their own
BIG_ALLOWED = ("dvc-remote/", "weights/", "benchmarks/", "tests/data/")
MAX_BIG_BYTES = 16 << 20

MERGE_MARKER = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)
# A path that exists on one machine only, or the address of a package index (the brackets keep this file from matching).
MACHINE_PATH = re.compile(r"""(?:^|[\s"'(=`:])/(?:[w]ork|[f]arm|[r]oot|[h]ome|[U]sers)/[\w.]""", re.MULTILINE)
INDEX_ADDRESS = re.compile(r"https?://[^\s\"'<>]*(?:/[s]imple\b|/[p]ackages/|[p]ypi\.org|[p]ythonhosted)")


def findings(path: Path) -> Iterator[str]:
    """What is wrong with one file, in words."""
    size = path.stat().st_size
    limit = MAX_BIG_BYTES if path.as_posix().startswith(BIG_ALLOWED) else MAX_BYTES
    if size > limit:
        yield f"{size / 2**20:.1f} MB; at most {limit >> 20} MB here"
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    if path.suffix == ".py" and (lines := text.count("\n")) > MAX_LINES:
        yield f"{lines} lines; at most {MAX_LINES}: it holds more than one idea"
    for pattern, what in (
        (MERGE_MARKER, "a merge marker"),
        (MACHINE_PATH, "an absolute path of a machine"),
        (INDEX_ADDRESS, "the address of a package index"),
    ):
        for found in pattern.finditer(text):
            line = text.count("\n", 0, found.start() + 1) + 1
            yield f"line {line}: {what}: {found[0].strip()!r}"
    if error := _parse_error(path, text):
        yield f"does not parse: {error}"


def _parse_error(path: Path, text: str) -> str:
    try:
        if path.suffix in (".json", ".ipynb"):
            json.loads(text)
        elif path.suffix == ".toml":
            tomllib.loads(text)
        elif path.suffix in (".yaml", ".yml", ".dvc"):
            import yaml

            for _ in yaml.parse(text, Loader=yaml.SafeLoader):
                pass
    except Exception as e:
        return str(e).splitlines()[0]
    return ""


def main(names: list[str]) -> int:
    count = 0
    for path in map(Path, names):
        if path.is_file() and not path.is_symlink():
            for what in findings(path):
                print(f"{path}: {what}")
                count += 1
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
