"""Pages of the reference that come from the code: settings, commands, kinds of stages. Each is Markdown, as text.

Nothing heavy is imported: configs and the parser are light. `scripts/docs_hooks.py` puts the pages into the site.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import inspect
import os
import sys
import tokenize
import typing
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
WIDTH = "110"  # of the help texts, in characters
PATHS_SHOWN = 12  # where a class of settings is used; more are cut with a count


# ------------------------------------------------------------------------------------------------------------- settings


@dataclasses.dataclass
class Setting:
    """One field of a config, as its source has it."""

    name: str
    type: str
    default: str
    comment: str
    nested: list[type]  # config dataclasses in its type


@functools.cache
def settings_of(cls: type) -> list[Setting]:
    """The fields of a config dataclass, inherited ones first; type, default and comment as written in the source."""
    found: dict[str, Setting] = {}
    for base in reversed(cls.__mro__):
        if "__annotations__" in vars(base) and dataclasses.is_dataclass(base):
            hints = typing.get_type_hints(base)
            for name, (kind, default, comment) in _written(base).items():
                found[name] = Setting(name, kind, default, comment, list(_configs(hints[name])))
    return [found[f.name] for f in dataclasses.fields(cls)]


@functools.cache
def _written(cls: type) -> dict[str, tuple[str, str, str]]:
    """Field → (type, default, comment); the comment is the one behind the field, or the lines right above it."""
    source = inspect.getsource(cls)
    indent = len(source) - len(source.lstrip())
    lines = [line[indent:] for line in source.splitlines()]
    source = "\n".join(lines)
    tokens = tokenize.generate_tokens(StringIO(source).readline)
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    fields = {}
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            default = _default(node.value)
            comment = comments.get(node.end_lineno or 0) or _above(comments, lines, node.lineno)
            fields[node.target.id] = (ast.unparse(node.annotation), default, comment)
    return fields


def _above(comments: dict[int, str], lines: list[str], line: int) -> str:
    text = []
    while (line := line - 1) in comments and lines[line - 1].lstrip().startswith("#"):
        text.insert(0, comments[line])
    return " ".join(text)


def _default(value: ast.expr | None) -> str:
    if value is None:
        return "must be given"
    if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("field"):
        for k in value.keywords:
            if k.arg == "default":
                return ast.unparse(k.value)
            if k.arg == "default_factory":
                made = k.value.body if isinstance(k.value, ast.Lambda) else k.value
                return {"dict": "{}", "list": "[]"}.get(ast.unparse(made), ast.unparse(made))
    return ast.unparse(value)


def _configs(hint: typing.Any) -> Iterator[type]:
    if dataclasses.is_dataclass(hint):
        yield typing.cast(type, hint)
    for part in typing.get_args(hint):
        yield from _configs(part)


def _walk(cls: type, path: str, seen: dict[type, list[str]]) -> None:
    """Fill `seen`: every class of settings that is reached from `cls`, with the keys that it is reached by."""
    if path in seen.setdefault(cls, []):
        return
    seen[cls].append(path)
    for s in settings_of(cls):
        for nested in s.nested:
            _walk(nested, f"{path}.{s.name}".lstrip("."), seen)


@functools.cache
def settings_page() -> str:
    """Every key of the config with its type, default and comment, a section a dataclass."""
    from flows.config import CascadeConfig
    from flows.table import STAGES
    from stepvideo.stage import KINDS, kind, resolve

    seen: dict[type, list[str]] = {}
    _walk(CascadeConfig, "", seen)
    for name, kind_name in STAGES.items():
        _walk(resolve(kind(kind_name).config), f"stages.{name}", seen)
    for name in KINDS.keys() - STAGES.values():  # made by other stages, such as producers
        _walk(resolve(kind(name).config), f"(kind {name})", seen)
    parts = [
        "# Settings",
        "Every key that `stepvideo plan`, `run`, `align` and `curate` take as `key=value`, from the dataclasses that"
        " check them. A key that is not here is an error that names near misses. Lists are written `[1,2]`;"
        " `only.STAGE.KEY` changes one of several stages of a family (`only.t2vi_540.s6.steps=9`). All of it changes"
        " the result and the stage's key, except what is below `runtime`.",
        "## Choices",
        "| choice | what it is |\n|---|---|\n" + "\n".join(_choices()),
        "## Stages",
        "| settings | kind |\n|---|---|\n"
        + "\n".join(
            f"| `stages.{name}` | [{_class(kind(k).config)}](#{_class(kind(k).config).lower()}): {kind(k).help} |"
            for name, k in STAGES.items()
        ),
    ]
    for cls, paths in seen.items():
        shown = ", ".join(f"`{p or '(top)'}`" for p in paths[:PATHS_SHOWN])
        more = f" and {len(paths) - PATHS_SHOWN} more" if len(paths) > PATHS_SHOWN else ""
        where = f"`{cls.__module__}`, set as {shown}{more}."
        rows = [f"| `{s.name}` | {_type(s)} | `{_cell(s.default)}` | {_cell(s.comment)} |" for s in settings_of(cls)]
        said = inspect.getdoc(cls) or ""
        said = "" if said.startswith(f"{cls.__name__}(") else said  # dataclass makes one of its own
        table = "| key | type | default | |\n|---|---|---|---|\n" + "\n".join(rows)
        parts += [f"## {cls.__name__}", where, *([f"```text\n{said}\n```"] if said else []), table]
    return "\n\n".join(parts) + "\n"


def _choices() -> Iterator[str]:
    for path in sorted((ROOT / "conf").glob("*/*.yaml")):
        lead = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                break
            lead += [line.lstrip("# ")] if not line.startswith("# @package") else []
        yield f"| `{path.parent.name}={path.stem}` | {_cell(' '.join(lead))} |"


def _class(path: str) -> str:
    return path.partition(":")[2]


def _type(s: Setting) -> str:
    return f"[{s.type}](#{s.nested[0].__name__.lower()})" if s.nested else f"`{_cell(s.type)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


# ------------------------------------------------------------------------------------------------------------- commands


def commands(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command and sub-command: its words after `stepvideo`, and its parser; `parser` itself is the first."""
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, sub in action.choices.items():
                yield from commands(sub, f"{name} {word}".strip())


def command_line() -> argparse.ArgumentParser:
    """The parser of `stepvideo`, with the checkout's own `flows` beside it."""
    from stepvideo import cli

    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    return cli._parser()


@functools.cache
def commands_page() -> str:
    """What `--help` prints of every command."""
    parts = ["# Commands", "What `stepvideo COMMAND --help` prints. Made from the parser that the command line uses."]
    with mock.patch.dict(os.environ, {"COLUMNS": WIDTH}):
        for name, parser in commands(command_line()):
            level = min(2 + name.count(" "), 3)
            help_text = parser.format_help().rstrip()
            parts += [f"{'#' * level} {name or 'stepvideo'}", f"```text\n{help_text}\n```"]
    return "\n\n".join(parts) + "\n"


# ---------------------------------------------------------------------------------------------------------------- kinds


def kinds_page() -> str:
    """Every kind of stage: what it does, which function, which settings, and which stages of the cascade are of it."""
    from flows.table import STAGES
    from stepvideo.stage import KINDS

    rows = []
    for name, k in KINDS.items():
        users = ", ".join(f"`{stage}`" for stage, used in STAGES.items() if used == name) or "not in the cascade"
        cls = _class(k.config)
        rows.append(f"| `{name}` | {k.help} | `{k.run}` | [{cls}](settings.md#{cls.lower()}) | {users} |")
    return (
        "# Kinds of stages\n\nA stage is a function from typed settings and input artifacts to an output artifact and"
        " metrics. `STEPVIDEO_KINDS` adds kinds of your own (`stepvideo/stage.py`).\n\n"
        "| kind | what it does | function | settings | stages |\n|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )
