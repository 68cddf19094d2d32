"""Every command of the documents that can be run, run: page by page, in a fresh clone, at the scale of `smoke`.

What is left out is in tests/docs/exceptions.toml or marked in the page, each with its reason; that list is printed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from doc_blocks import ROOT, Line, blocks, excepted, name_of, pages

pytestmark = pytest.mark.soak
FIRST = ("docs/tutorials/first-cascade.md", "docs/tutorials/first-curation.md", "docs/howto/study.md")
ORDER = sorted(pages(), key=lambda p: (FIRST.index(name_of(p)) if name_of(p) in FIRST else len(FIRST), name_of(p)))
TIMEOUT = 3600  # of one command


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with this environment, in which `stepvideo` is the clone's."""
    folder = tmp_path_factory.mktemp("docs") / "stepvideo"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    (folder / "bin").mkdir()
    program = folder / "bin/stepvideo"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m stepvideo.cli "$@"\n')
    program.chmod(0o755)
    return folder


@pytest.mark.parametrize("page", ORDER, ids=name_of)
def test_a_page_runs(page: Path, clone: Path) -> None:
    path = f"{clone}/bin:{ROOT}/.venv/bin:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1"}
    failed = []
    for line, expected in runnable(page):
        command = small(line)
        print(f"$ {command}", flush=True)
        try:
            done = subprocess.run(
                ["bash", "-c", command], cwd=clone, env=env, capture_output=True, text=True, timeout=TIMEOUT
            )
        except subprocess.TimeoutExpired:
            failed.append(f"{line.where}: not done after {TIMEOUT} s")
            continue
        if done.returncode != expected:
            failed.append(f"{line.where}: exit code {done.returncode}\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
    assert not failed, "\n".join(failed)


def runnable(page: Path) -> list[tuple[Line, int]]:
    """The commands of a page with the exit codes that they must have."""
    found = []
    for block in blocks(page):
        for line in block.lines:
            why = block.said if block.mark == "no run" else excepted(line)
            if why:
                print(f"not run: {line.where} ({why})")
            else:
                found.append((line, int(block.said or 0) if block.mark == "run" else 0))
    return found


def small(line: Line) -> str:
    """The command at the scale of `smoke`: what learns takes half an hour, and learns what tests of claims look at."""
    return re.sub(r"profile=micro\b", "profile=smoke", line.text.removeprefix("$ "))


def test_the_whole_site_builds(tmp_path: Path) -> None:
    """With the library's pages: broken links, missing anchors and modules that are gone are errors."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "StepVideoPipeline" in (tmp_path / "site/reference/api/inference.html").read_text()
