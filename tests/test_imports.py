"""Starting is quick and the layers hold: what is imported when, and by whom."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import stepvideo
from stepvideo.stage import KINDS

if TYPE_CHECKING:
    from rank_pool import RankPool

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "lightning", "pytorch_lightning", "mlflow", "prefect", "great_expectations", "hydra", "dvc", "optuna"}
HEAVY |= {"submitit", "numpy", "pandas", "pyarrow", "cv2", "av", "scipy", "duckdb"}
OUTSIDE = ("prefect", "mlflow", "dvc", "great_expectations", "optuna", "submitit", "hydra", "flows", "tasks")

# Everything that planning imports: the contracts, and the module of every kind's config dataclass.
PLANNING = ["stepvideo.stage", "stepvideo.artifact", "stepvideo.config", "stepvideo.fingerprint", "stepvideo.doctor"]
CONFIGS = sorted({k.config.split(":")[0] for k in KINDS.values()})


def python(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def imported(*arguments: str) -> set[str]:
    """Top-level names of all that a Python command imports."""
    done = python("-X", "importtime", *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {row.rpartition("|")[2].strip().split(".")[0] for row in rows}


def best_of(times: int, *arguments: str) -> float:
    """Processor time, s, of the quickest of some runs: what the code costs, not what else the machine was doing."""

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert python(*arguments).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return min(once() for _ in range(times))


def exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def test_the_probe_sees_a_heavy_import() -> None:
    assert "numpy" in imported("-c", "import numpy")


@pytest.mark.parametrize("command", ["--help", "plan --help", "run --help", "--version"])
def test_help_imports_nothing_heavy(command: str) -> None:
    found = imported("-m", "stepvideo.cli", *command.split())
    assert "stepvideo" in found
    assert not found & (HEAVY | {"ssl", "http", "email"})


def test_plan_imports_neither_torch_nor_the_servers(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "clip.mp4").write_bytes(b"planning hashes raw files and opens none")
    found = imported("-m", "stepvideo.cli", "plan", "profile=smoke", f"data={tmp_path}", f"store={tmp_path}/store")
    assert "hydra" in found, "the config was composed"
    assert not found & {"torch", "lightning", "mlflow", "prefect", "great_expectations"}


def test_help_takes_less_than_a_second() -> None:
    assert best_of(3, "-m", "stepvideo.cli", "--help") < 1.0


def test_import_stepvideo_takes_less_than_a_fifth_of_a_second() -> None:
    assert best_of(3, "-c", "import stepvideo") - best_of(3, "-c", "pass") < 0.2


def test_planning_needs_no_torch() -> None:
    """All in one process: what none of them imports, each of them does not."""
    assert not imported("-c", f"import {', '.join([*PLANNING, *CONFIGS])}") & (HEAVY - {"numpy"})


def test_every_kind_names_a_function_and_a_config_of_the_library() -> None:
    for name, kind in KINDS.items():
        for path in (kind.run, kind.config):
            module, _, attribute = path.partition(":")
            assert module.startswith("stepvideo."), name
            assert exists(module), f"{name}: no module {module}"
            assert attribute.isidentifier(), name


def library_modules() -> list[str]:
    return [m.name for m in pkgutil.walk_packages(stepvideo.__path__, "stepvideo.", onerror=_fail)]


def _fail(name: str) -> None:
    raise ImportError(f"{name} cannot be imported")


def import_without(outside: tuple[str, ...], modules: list[str]) -> set[str]:
    """Those of the others that were there before, which would prove nothing."""
    before = {name for name in sys.modules if name.partition(".")[0] in outside}
    sys.modules.update(dict.fromkeys(outside))  # None: importing it raises ModuleNotFoundError
    for name in modules:
        importlib.import_module(name)
    return before


def test_the_library_imports_without_the_systems_around_it(ranks: RankPool) -> None:
    """In a fork of a process that has imported torch and Lightning, which take most of the time."""
    modules = library_modules()
    assert {"stepvideo.stage", "stepvideo.models.dit"} <= set(modules)
    assert ranks(1, import_without, OUTSIDE, modules) == [set()]


def test_layers() -> None:
    script = "import sys; from importlinter.cli import lint_imports_command as lint; sys.exit(lint(['--no-cache']))"
    done = python("-c", script)
    assert "0 broken" in done.stdout, done.stdout[-4000:] + done.stderr[-2000:]
    assert done.returncode == 0
