"""Fingerprint of the code behind a stage: its import closure inside `stepvideo`, without comments and docstrings.

A commit that touches only a README, a comment or another stage's code does not re-run anything. A stage that lives
outside the package (`STEPVIDEO_KINDS`) counts with its own module and what that imports from the package.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PACKAGE = "stepvideo"
# The driver's side of the contract moves and records results and cannot change them; the values that stage configs hold
# are in the key already.
NOT_RESULT = {
    f"{PACKAGE}.{m}"
    for m in (
        *("sink", "s3", "mirror", "storage", "artifact", "errors", "job", "cli", "stage", "fingerprint", "config"),
        *("world.config", "curation.config", "data.config", "training.config", "evaluation.config"),
        *(f"telemetry.{m}" for m in ("config", "schema", "recorder", "rings", "device", "frames", "segments")),
        *("training.recording", "training.monitor.consumed", "data.sources"),
    )
}


def fingerprint(*modules: str) -> str:
    """16 hex digits over the normalised sources that `modules` import, directly or not, within the package."""
    digest = hashlib.sha256()
    for name in sorted(closure(*modules) - NOT_RESULT):
        digest.update(f"{name}\0{_normalised(name)}\0".encode())
    return digest.hexdigest()[:16]


def packages(*modules: str) -> dict[str, str]:
    """{distribution: version} of what the closure of `modules` imports from outside the package, on this machine."""
    from importlib.metadata import version

    named = {i.partition(".")[0] for m in closure(*modules) for i in _imports(m)}
    known = _distributions()
    found = {d for name in named - set(sys.stdlib_module_names) - {PACKAGE} for d in known.get(name, ())}
    return {d: version(d) for d in sorted(found)}


def closure(*modules: str) -> set[str]:
    """`modules` and all modules of the package reached from them; imports inside functions count too."""
    seen: set[str] = set()
    todo = list(modules)
    while todo:
        name = todo.pop()
        if name in seen or not (_in_package(name) or name in modules) or _source(name) is None:
            continue
        seen.add(name)
        todo.extend(_imports(name))
        if "." in name:
            todo.append(name.rpartition(".")[0])
    return seen


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    from importlib.metadata import packages_distributions

    return packages_distributions()  # takes half a second


def _in_package(name: str) -> bool:
    return name.split(".")[0] == PACKAGE


@functools.cache
def _source(name: str) -> Path | None:
    if not _in_package(name):
        spec = importlib.util.find_spec(name)
        return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None
    root = Path(__file__).parent.parent.joinpath(*name.split("."))
    for candidate in (root / "__init__.py", root.with_suffix(".py")):
        if candidate.exists():
            return candidate
    return None


def _imports(name: str) -> tuple[str, ...]:
    return _parsed(name)[0]


def _normalised(name: str) -> str:
    return _parsed(name)[1]


@functools.cache
def _parsed(name: str) -> tuple[tuple[str, ...], str]:
    """(modules that it imports, its source without comments and docstrings). The tree is not kept: to go through the
    trees of all modules again and again takes the garbage collector longer than to make them."""
    source = _source(name)
    assert source is not None
    tree = ast.parse(source.read_text(encoding="utf-8"))
    package = name if source.name == "__init__.py" else name.rpartition(".")[0]
    found: list[str] = []
    for node in [tree, *_statements(tree)]:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = importlib.util.resolve_name("." * node.level + base, package)
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body[0] = ast.Pass()
    return tuple(found), ast.dump(tree)


def _statements(node: Any) -> Iterator[ast.AST]:
    """All within it, at any depth, and what holds them; expressions hold none."""
    for block in ("body", "handlers", "cases", "orelse", "finalbody"):
        for child in getattr(node, block, ()):
            yield child
            yield from _statements(child)
