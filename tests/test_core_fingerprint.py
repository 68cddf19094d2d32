"""Fingerprints: follow the code a stage imports, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stepvideo.fingerprint import NOT_RESULT, closure, fingerprint

FILES = {
    "__init__.py": "",
    "stage_a.py": '"""Doc."""\nfrom stepvideo import helper\n\n\ndef run():\n    """Doc."""\n    return helper.VALUE\n',
    "stage_b.py": "def run():\n    from stepvideo.sub.deep import VALUE\n    return VALUE\n",
    "helper.py": "VALUE = 1  # a comment\n",
    "sub/__init__.py": "",
    "sub/deep.py": "VALUE = 2\n",
    "sink.py": "X = 1\n",
}


@pytest.fixture
def package(tmp_path: Path):
    """A package of that name with the real fingerprint module, asked in fresh processes."""
    import stepvideo.fingerprint as real

    root = tmp_path / "stepvideo"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "fingerprint.py").write_text(Path(real.__file__).read_text())

    def ask() -> tuple[str, str]:
        code = (
            "from stepvideo.fingerprint import fingerprint as f; print(f('stepvideo.stage_a'), f('stepvideo.stage_b'))"
        )
        env = {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run([sys.executable, "-P", "-c", code], env=env, capture_output=True, text=True, check=True)
        a, b = done.stdout.split()
        return a, b

    return root, ask


@pytest.mark.parametrize(
    ("file", "before", "after", "changed"),
    [
        ("helper.py", "VALUE = 1", "VALUE = 3", (True, False)),
        ("sub/deep.py", "VALUE = 2", "VALUE = 3", (False, True)),  # imported inside a function
        ("sub/__init__.py", "", "import os", (False, True)),  # a package runs when its module is imported
        ("helper.py", "# a comment", "# another, longer comment", (False, False)),
        ("stage_a.py", "Doc.", "Other words.", (False, False)),
        ("stage_a.py", "helper.VALUE", "helper.VALUE + 1", (True, False)),
        ("sink.py", "X = 1", "X = 2", (False, False)),
    ],
)
def test_which_edits_count(package, file: str, before: str, after: str, changed: tuple[bool, bool]) -> None:
    root, ask = package
    old = ask()
    path = root / file
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after) or after)
    new = ask()
    assert (old[0] != new[0], old[1] != new[1]) == changed


def test_the_closure_of_a_real_stage() -> None:
    names = closure("stepvideo.training.train")
    assert {"stepvideo.training.train", "stepvideo.models.dit", "stepvideo.training"} <= names
    assert not {n for n in names if n.startswith(("stepvideo.curation", "stepvideo.evaluation"))}
    assert "stepvideo.job" in NOT_RESULT


def test_a_module_outside_the_package_counts_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    digests = set()
    for i, text in enumerate(("X = 1", "X = 2", "X = 1  # said again", "import stepvideo.world.captions\nX = 1")):
        (tmp_path / f"plugin_{i}.py").write_text(text)
        names = closure(f"plugin_{i}")
        assert ("stepvideo.world.captions" in names) == (i == 3)
        digests.add(fingerprint(f"plugin_{i}"))
    assert len(digests) == 4  # the name counts too
