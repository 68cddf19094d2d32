"""The site: pages from the code, links between pages and to files, nothing fetched from elsewhere.

The whole site is built by `make docs` and, strictly, by tests/soak/test_docs_soak.py; here it is built without the
library's pages, whose modules must exist.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from doc_blocks import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import docs_hooks  # noqa: E402
import docs_reference  # noqa: E402

REMOTE = re.compile(
    r"""<(?:script|img|iframe|source)[^>]*\ssrc=["']?(?:https?:)?//|<link[^>]*\shref=["']?(?:https?:)?//"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site without the library's pages, built as strictly as the whole."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("NO_MKDOCS_2_WARNING", "1")
        return build(tmp_path_factory.mktemp("site"), library=False)


def build(out: Path, library: bool) -> Path:
    from mkdocs.commands.build import build as mkdocs_build
    from mkdocs.config import load_config
    from mkdocs.exceptions import Abort

    less: dict[str, Any] = {} if library else {"plugins": []}  # neither the library's pages nor the index of words
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(out), **less)
    if not library:
        config.validation.anchors = logging.INFO  # those of the library's pages are not there
    said = Warnings()
    logging.getLogger("mkdocs").addHandler(said)
    try:
        mkdocs_build(config)
    except Abort:
        pytest.fail("\n".join(said.lines))
    finally:
        logging.getLogger("mkdocs").removeHandler(said)
    return out


class Warnings(logging.Handler):
    """What mkdocs found wrong, for the failure's message."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def test_the_site_builds(site: Path) -> None:
    made = {p.relative_to(site).as_posix() for p in site.rglob("*.html")}
    assert {"index.html", "reference/settings.html", "reference/commands.html", "decisions/index.html"} <= made


def test_nothing_is_fetched(site: Path) -> None:
    pages = [p for p in site.rglob("*.html") if p.name != "404.html"]
    assert len(pages) > 40
    assert [p.name for p in pages if REMOTE.search(p.read_text())] == []
    assert REMOTE.search('<script src="https://x/y.js">') and REMOTE.search('<link rel="s" href="//fonts.x/css">')


def test_settings_have_type_default_and_comment() -> None:
    page = docs_reference.settings_page()
    assert "| `ema` | `float` | `0.0` | decay of the exponential moving average" in page
    assert "`stages.sft.optim`" in page and "[OptimConfig](#optimconfig)" in page
    assert "torch" not in {m.partition(".")[0] for m in sys.modules} or "stepvideo.models.dit" not in page


def test_every_command_has_its_help() -> None:
    page = docs_reference.commands_page()
    for words in ("plan", "telemetry summary", "study create", "emulate search", "inspect attention"):
        assert f" {words}\n" in page
        assert f"usage: stepvideo {words}" in page


def test_modules_of_the_librarys_pages_exist() -> None:
    for _, modules in docs_hooks.LIBRARY.values():
        for name in modules.split():
            assert importlib.util.find_spec(f"stepvideo.{name}"), name


def link(text: str, source: str = "docs/x.md", uri: str = "x.md") -> str:
    class Files:
        def get_file_from_path(self, path: str) -> bool:
            return (ROOT / "docs" / path).exists()

    return docs_hooks.LINK.sub(lambda m: docs_hooks._link(m, source, uri, Files()), text)  # type: ignore[arg-type]


def test_links_of_the_repository(caplog: pytest.LogCaptureFixture) -> None:
    assert link("[log](docs/log.md#a)", "README.md", "index.md") == "[log](log.md#a)"
    assert link("![p](docs/pictures/vae.png)", "README.md", "index.md") == "![p](pictures/vae.png)"
    assert link("[its code](../stepvideo/data/feed.py)") == "its code (`stepvideo/data/feed.py`)"
    assert link("[x](https://a.b/c)") == "[x](https://a.b/c)" and not caplog.records
    link("[gone](../stepvideo/gone.py)")
    assert "docs/x.md links to ../stepvideo/gone.py" in caplog.text


def test_a_broken_link_and_a_missing_anchor_end_the_build(tmp_path: Path) -> None:
    """A site of two pages with our hooks' markdown and validation."""
    from mkdocs.commands.build import build as mkdocs_build
    from mkdocs.config import load_config
    from mkdocs.exceptions import Abort

    (tmp_path / "docs").mkdir()
    (tmp_path / "mkdocs.yml").write_text("site_name: x\nstrict: true\nvalidation: {anchors: warn}\n")
    for text in ("[a](gone.md)", "[a](#gone)"):
        (tmp_path / "docs/index.md").write_text(f"# X\n\n{text}\n")
        with pytest.raises(Abort):
            mkdocs_build(load_config(str(tmp_path / "mkdocs.yml"), site_dir=str(tmp_path / "site")))


def test_lists_below_paragraphs_are_lists() -> None:
    assert docs_hooks.spaced("a:\n- b\n- c\n  d") == "a:\n\n- b\n- c\n  d"
    kept = "```\na\n- b\n```"
    assert docs_hooks.outside_code(kept, docs_hooks.spaced) == kept
