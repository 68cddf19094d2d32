"""`stepvideo compare`."""

from __future__ import annotations

import json
import shlex
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from flows import screen
from flows.comparison.compared import comparison
from flows.comparison.page import write_page
from flows.comparison.terminal import show
from flows.status import store_of


def compare_command(folder: str | None, refs: Sequence[str], as_json: bool, html: str | None, look: bool) -> int:
    """Print what differs between runs or artifacts; with `html` also as a page, which `look` opens in a browser.

    Raises:
        ConfigError: fewer than two names.
        ArtifactError: a name that stands for nothing, or a page that cannot be written.
    """
    store = store_of(folder)
    found = comparison(store, refs)
    called = "-".join(s.name.replace("/", "-") for s in found.subjects)
    page = Path(html) if html else store.root / "_comparisons" / f"{called}.html"
    if html or look:
        write_page(found, page)
    if look:
        webbrowser.open(page.absolute().as_uri())
    if as_json:
        print(json.dumps(found.as_dict(), indent=1, ensure_ascii=False))
        return 0
    console = screen.console()
    show(found, console)
    if html or look:
        console.print(f"next: open {page.absolute().as_uri()}", soft_wrap=True, markup=False, highlight=False)
    else:
        again = " ".join(["stepvideo compare", *map(shlex.quote, refs), "--html compare.html"])
        console.print(f"next: {again}   (curves, videos in sync)", soft_wrap=True, markup=False, highlight=False)
    return 0
