"""What the documents tell people to type, with file and line: fenced blocks, indented ones, and code within lines.

A fenced block may have a comment right above it:

    <!-- run -->          cheap: `make test` runs it          <!-- run: 2 -->   … and it must exit with 2
    <!-- no run: why -->  not even `make soak` runs it

All others are run by `make soak`, unless `tests/docs/exceptions.toml` says why a line of theirs cannot be.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# History: what was true then. Everything else must be true now.
HISTORY = ("docs/log.md", "CHANGELOG.md")
SHELL = ("", "sh", "bash", "shell", "console")
PROGRAMS = ("stepvideo", "python", "make", "scripts/", "export", "source", "cd", "git", "kill", "eval")
FENCE = re.compile(r"^( *)```+(\w*)")
MARK = re.compile(r"^ *<!-- (no run|run)(?:: (.*?))? -->\s*$")
INLINE = re.compile(r"`([^`\n]+)`")


@dataclass
class Line:
    """One command, continuation lines joined."""

    page: str  # relative to the repository
    number: int  # from 1
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.number}: {self.text}"

    @property
    def words(self) -> list[str]:
        """As a shell would split it, without `$ ` before and comments behind."""
        return shlex.split(self.text.removeprefix("$ "), comments=True)


@dataclass
class Block:
    page: str
    number: int
    mark: str  # "", "run" or "no run"
    said: str  # the exit code that `run` expects, or why not
    lines: list[Line] = field(default_factory=list)


def pages() -> list[Path]:
    """Every page that speaks of the present."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "weights/README.md"]
    found += sorted((ROOT / "docs").rglob("*.md"))
    return [p for p in found if name_of(p) not in HISTORY and "decisions" not in p.parts]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """The page's blocks of shell commands; those without any command are left out."""
    found: list[Block] = []
    name, block, mark, fenced = name_of(page), None, ("", ""), ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if fence := FENCE.match(line):
            if fenced:
                fenced, block, mark = "", None, ("", "")
            else:
                fenced = fence[2] or "plain"
                if fence[2] in SHELL:
                    block = Block(name, number, *mark)
                    found.append(block)
        elif fenced:
            if block:
                _add(block, number, line.strip())
        elif marked := MARK.match(line):
            mark = (marked[1], marked[2] or "")
        elif line.startswith("    stepvideo "):
            if not found or found[-1].number + len(found[-1].lines) != number:
                found.append(Block(name, number, "", ""))
            _add(found[-1], number, line.strip())
        elif line.strip():
            mark = ("", "")
    return [b for b in found if b.lines]


def _add(block: Block, number: int, line: str) -> None:
    if block.lines and block.lines[-1].text.endswith("\\"):
        block.lines[-1].text = block.lines[-1].text[:-1] + line
    elif line.removeprefix("$ ").startswith(PROGRAMS):
        block.lines.append(Line(block.page, number, line))


def inline(page: Path) -> Iterator[Line]:
    """Code within the page's lines."""
    fenced = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            for code in INLINE.findall(line):
                yield Line(name_of(page), number, code)


def exceptions() -> dict[str, str]:
    """Pattern of a command, or of `page: command` → why it is not run."""
    listed = tomllib.loads((ROOT / "tests/docs/exceptions.toml").read_text(encoding="utf-8"))["except"]
    return {row["command"]: row["reason"] for row in listed}


def excepted(line: Line) -> str:
    """Why a line is not run, or nothing."""
    said = f"{line.page}: {line.text.removeprefix('$ ')}"
    return next((why for pattern, why in exceptions().items() if re.search(pattern, said)), "")
