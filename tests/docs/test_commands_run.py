"""The documents' cheap commands, run for real in an empty folder, in the order of their page.

They run in this process, by `main`, which is what the program calls; tests/soak/test_docs_soak.py runs the others.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_blocks import Block, blocks, name_of, pages

import stepvideo.cli as cli

MARKED = [b for page in pages() for b in blocks(page) if b.mark == "run"]


@pytest.mark.parametrize("block", MARKED, ids=[f"{b.page}:{b.number}" for b in MARKED])
def test_a_marked_block_runs(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in block.lines:
        words = line.words
        assert words[0] == "stepvideo", f"{line.where}: only commands of stepvideo can be marked"
        code = cli.main(words[1:])
        said = capsys.readouterr()
        assert code == int(block.said or 0), f"{line.where}\n{said.out[-2000:]}{said.err[-2000:]}"
        assert said.out or said.err, f"{line.where}: says nothing"


def test_there_are_marked_blocks_of_tutorials_and_how_tos() -> None:
    assert len(MARKED) >= 4
    assert {"docs/tutorials/first-cascade.md", "docs/howto/study.md"} <= {b.page for b in MARKED}
    assert all(name_of(p).startswith(("docs/", "README", "CONTRIBUTING", "weights/")) for p in pages())
