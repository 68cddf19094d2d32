"""`scripts/check_house.py` finds what it is for, and nothing in a clean file."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_house", ROOT / "scripts" / "check_house.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    return module


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("long.py", "x = 1\n" * 401, "at most 400"),
        ("path.md", "see /" + "home/someone/notes.txt\n", "line 1: an absolute path"),
        ("quoted.py", "a = 1\nroot = '/" + "work/main'\n", "line 2: an absolute path"),
        ("index.txt", "--index-url https://mirror.example/" + "simple\n", "address of a package index"),
        ("merge.txt", "<" * 7 + " HEAD\n", "a merge marker"),
        ("broken.json", "{", "does not parse"),
        ("broken.yaml", "a: [1\n", "does not parse"),
        ("broken.toml", "a =\n", "does not parse"),
        ("large.txt", "x" * (1 << 20) + "x", "at most 1 MB"),
    ],
)
def test_findings(house: ModuleType, capsys: pytest.CaptureFixture[str], name: str, text: str, what: str) -> None:
    Path(name).write_text(text)
    assert house.main([name]) == 1
    assert what in capsys.readouterr().out


def test_a_clean_tree_passes(house: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.py").write_text("from pathlib import Path\n\nPLACE = Path('runs/store')\n")
    Path("a.yaml").write_text("path: ${oc.env:HOME}\n")
    Path("a.bin").write_bytes(b"\xff\xfe\x00")
    assert house.main(["a.py", "a.yaml", "a.bin"]) == 0
    assert capsys.readouterr().out == ""
