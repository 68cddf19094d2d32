"""What the documents tell people to type exists: commands, options, settings, make targets, scripts, modules."""

from __future__ import annotations

import functools
import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from doc_blocks import ROOT, Line, blocks, excepted, exceptions, inline, name_of, pages

import stepvideo.cli as cli
from flows.compose import compose
from stepvideo.errors import ConfigError

GROUPS = sorted(p.name for p in (ROOT / "conf").iterdir() if p.is_dir())
PLACEHOLDER = re.compile(r"^[A-Z][A-Z_]*$|^…$|^\.\.\.$|^\[|^\{")
OTHER_SETTINGS = ("study", "suite", "label", "funnel", "evaluate", "telemetry")  # KEY=VALUE means another thing there
KEY = re.compile(r"^(stages|cluster|weights|tracking|only|runtime)(\.[\w*-]+)+(=.*)?$")
PARSER = cli._parser
FOLDER = str(ROOT / "weights")  # in the place of folders that the documents name


@functools.cache
def parser():
    """The command line's own parser, whose commands only say what they were given."""
    made = PARSER()

    def quiet(parser) -> None:
        parser.set_defaults(call=lambda args: args)
        for action in parser._actions:
            for sub in (action.choices or {}).values() if hasattr(action, "add_parser") else ():
                quiet(sub)

    quiet(made)
    return made


def parsed(words: list[str]):
    """The arguments, by `main` itself; exits as the command line would."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cli, "_parser", parser)
        return cli.main(words)


def stepvideo_lines() -> list[Line]:
    found = []
    for page in pages():
        for block in blocks(page):
            if not block.said or block.mark != "run":  # a mistake that the page shows is tried by test_commands_run.py
                found += [line for line in block.lines if line.words[:1] == ["stepvideo"]]
    return found


def synopsis(line: Line) -> bool:
    """A form to fill in, rather than a command: `[--watch]`, `DIR`."""
    return any(w.startswith("[") for w in line.words) or "…" in line.words[-1:]


def test_the_documents_have_commands() -> None:
    assert len(stepvideo_lines()) > 80


def test_every_command_in_a_block_parses(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = []
    for line in stepvideo_lines():
        if synopsis(line):
            wrong += loosely(line)
            continue
        try:
            parsed(shell_part(line.words)[1:])
        except SystemExit:
            wrong.append(f"{line.where}\n    {capsys.readouterr().err.strip().splitlines()[-1]}")
    assert not wrong, "\n".join(wrong)


def shell_part(words: list[str]) -> list[str]:
    """Up to a pipe, a redirection or the next command."""
    ends = [i for i, w in enumerate(words) if w in ("|", ">", "2>&1", "&&", "||", ";", "&")]
    return words[: ends[0]] if ends else words


def test_every_command_within_a_line_exists() -> None:
    lines = [line for page in pages() for line in inline(page) if line.text.startswith("stepvideo ")]
    assert len(lines) > 50
    wrong = [finding for line in lines for finding in loosely(line)]
    assert not wrong, "\n".join(wrong)


def loosely(line: Line) -> list[str]:
    """What of a form is not there: its command, its options. `a | b` are alternatives."""
    at, wrong = parser(), []
    words = shlex.split(line.text.replace("'", "").replace("[", " ").replace("]", " "))[1:]
    for i, word in enumerate(words):
        choices = {n: s for a in at._actions if hasattr(a, "add_parser") for n, s in a.choices.items()}
        if word.startswith("-"):
            for option in word.split("|"):
                if (name := option.partition("=")[0]) not in at._option_string_actions:
                    wrong.append(f"{line.where}\n    no option {name} of {at.prog}")
        elif choices and word != "|" and not PLACEHOLDER.match(word):
            if f"{word} {' '.join(words[i + 1 : i + 2])}" in choices:  # `inspect attention`
                return wrong
            if word not in choices:
                return [*wrong, f"{line.where}\n    no command {word} of {at.prog}"]
            if "|" not in words[i + 1 : i + 2] and "|" not in words[i - 1 : i]:
                at = choices[word]
    return wrong


def settings_of(line: Line) -> tuple[str, list[str]] | None:
    """(graph, settings) of a line of `stepvideo` that takes a cascade's settings."""
    words = shell_part(line.words)[1:]
    if not words or words[0] in OTHER_SETTINGS or synopsis(line):
        return None
    options = {i + 1 for i, w in enumerate(words) if w.startswith("-")}  # what follows an option is its own
    settings = [w for i, w in enumerate(words) if re.match(r"^[a-z_0-9.]+=", w) and i not in options]
    return ("flows.curate" if words[0] == "curate" else "flows.table", settings)


def test_every_setting_is_composed() -> None:
    """All of one scale at once, which is quick; where that fails, each by itself, which names the line."""
    groups: dict[tuple[str, str], dict[tuple[str, ...], list[Line]]] = {}
    lines = stepvideo_lines()
    lines += [x for p in pages() for x in inline(p) if re.match(r"stepvideo (plan|run|align|curate) ", x.text)]
    for line in lines:
        graph, settings = settings_of(line) or ("", [])
        choices = {k: v for k, _, v in (s.partition("=") for s in settings)}
        scale = choices.get("profile", "curate" if graph == "flows.curate" else "micro")
        for group in GROUPS:
            if (name := choices.get(group)) and not PLACEHOLDER.match(name):
                assert (ROOT / f"conf/{group}/{name}.yaml").exists(), f"{line.where}: no {group}={name}"
        rest = [filled(s) for s in settings if s.partition("=")[0] not in (*GROUPS, "profile", "graph")]
        rest = [s for s in rest if "NAME" not in s.partition("=")[0]]
        if rest:
            groups.setdefault((graph, scale), {}).setdefault(tuple(rest), []).append(line)
    assert sum(len(same) for g in groups.values() for same in g.values()) > 20
    wrong = []
    for (graph, scale), given in groups.items():
        base = [f"graph={graph}", f"profile={scale}"]
        try:
            compose(base + [s for settings in given for s in settings])
        except ConfigError:
            for settings, same in given.items():
                try:
                    compose([*base, *settings])
                except ConfigError as e:
                    wrong += [f"{line.where}\n    {e}" for line in same if not said_there(line, e)]
    assert not wrong, "\n".join(wrong)


def said_there(line: Line, error: ConfigError) -> bool:
    """Whether the page shows the error as what this command says."""
    return f"error: {error}" in (ROOT / line.page).read_text(encoding="utf-8")


def filled(setting: str) -> str:
    """With a folder that exists in the place of one that the documents only name."""
    key, _, value = setting.partition("=")
    return f"{key}={FOLDER}" if key.startswith("weights.") and (PLACEHOLDER.match(value) or "/" in value) else setting


@functools.cache
def smoke() -> dict[str, Any]:
    return compose(["profile=smoke"])


def test_every_key_that_is_named_exists() -> None:
    known = [smoke(), compose(["graph=flows.curate", "profile=curate"])]
    roots = known + [stage for k in known for stage in k["stages"].values()]
    lines = [line for page in pages() for line in inline(page) if KEY.match(line.text)]
    assert len(lines) > 20
    wrong = [line.where for line in lines if not any(has(r, path_of(line.text)) for r in roots)]
    assert not wrong, "\n".join(wrong)


def path_of(text: str) -> list[str]:
    return text.partition("=")[0].split(".")


def has(at: object, path: list[str]) -> bool:
    """Whether a key is there; NAME and t2vi_* stand for any. Below a free mapping anything may be."""
    if not path:
        return True
    if not isinstance(at, dict):
        return False
    if not at or path[0] == "only":
        return True
    if PLACEHOLDER.match(path[0]) or "*" in path[0]:
        return any(has(child, path[1:]) for child in at.values())
    return path[0] in at and has(at[path[0]], path[1:])


def test_other_programs_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = {t for line in re.findall(r"^([\w -]+):", makefile, re.MULTILINE) for t in line.split()}
    wrong = []
    for page in pages():
        coded = [line for block in blocks(page) for line in block.lines] + list(inline(page))
        for line in coded:
            if made := re.match(r"(?:\$ )?make ([a-z][a-z-]*)", line.text):
                wrong += [] if made[1] in targets else [f"{line.where}\n    no such target"]
            if run := re.match(r"(?:\$ )?python -m ((?:stepvideo|flows|tasks)[\w.]*)", line.text):
                wrong += [] if importlib.util.find_spec(run[1]) else [f"{line.where}\n    no such module"]
            for path in re.findall(r"(?:^|[\s(])((?:scripts|benchmarks|tests)/[\w./-]*\w\.\w+)", line.text):
                wrong += [] if (ROOT / path).exists() else [f"{line.where}\n    no such file: {path}"]
    assert not wrong, "\n".join(wrong)


def test_what_is_not_run_says_why_and_is_needed() -> None:
    lines = [line for page in pages() for block in blocks(page) for line in block.lines]
    for pattern, why in exceptions().items():
        assert len(why) > 10, f"{pattern}: give a reason"
    assert any(excepted(line) for line in lines)
    marked = [b for page in pages() for b in blocks(page) if b.mark == "no run"]
    assert all(len(b.said) > 10 for b in marked), "a block that is not run says why"


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("stepvideo generaet x --out y", "no command"),
        ("stepvideo plan --untli sft", "no option"),
        ("stepvideo telemetry sumary STORE", "no command"),
    ],
)
def test_a_wrong_command_is_found(text: str, finding: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = Line("page.md", 3, text)
    assert finding in loosely(line)[0] and "page.md:3" in loosely(line)[0]
    with pytest.raises(SystemExit):
        parsed(line.words[1:])


def test_a_wrong_key_is_found() -> None:
    assert has(smoke(), path_of("stages.sft.steps=5")) and has(smoke(), path_of("stages.NAME.optim.lr"))
    assert not has(smoke(), path_of("stages.sft.stpes=5")) and not has(smoke(), path_of("cluster.slurm.partitoin"))


def test_blocks_are_found_with_their_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n\n<!-- run: 2 -->\n```sh\nstepvideo plan \\\n  x=1  # why\n```\n\n```python\nstepvideo\n```\n")
    monkeypatch.setattr("doc_blocks.ROOT", tmp_path)
    (block,) = blocks(page)
    assert (name_of(page), block.mark, block.said, block.number) == ("page.md", "run", "2", 4)
    assert [line.words for line in block.lines] == [["stepvideo", "plan", "x=1"]]
