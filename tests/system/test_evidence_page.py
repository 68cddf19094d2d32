"""The page that a promotion rests on, in a real browser: read by people who have the last word."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from made_champions import Made

from flows.promote_evidence import Evidence


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Evidence]:
    made = Made(tmp_path_factory.mktemp("made"), "", 0.7, 1.0, 0.5, films=3)
    return {"better": made.evidence(2), "worse": made.evidence(3)}


def pictures(tmp_path: Path) -> Path:
    """Where pictures of pages are kept."""
    folder = Path(os.environ.get("STEPVIDEO_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize(("verdict", "dark"), [("better", False), ("worse", True)])
def test_the_decision_its_figures_and_the_videos(
    evidence: dict[str, Evidence], browser: type, tmp_path: Path, verdict: str, dark: bool
) -> None:
    with browser(1200, 900, dark) as b:
        b.open(evidence[verdict].page)
        said = b.run("document.querySelector('#decision').textContent")
        assert ("do not promote" in said) == (verdict == "worse") and "set beforehand" in said
        assert evidence[verdict].why in b.run("document.querySelector('p.lead').textContent")
        rows = b.run("[...document.querySelectorAll('#metrics tr')].map(r => r.children.length)")
        assert len(rows) == 2 + len(evidence[verdict].data["decision"]["guards"]) and set(rows) == {7}
        dots = b.run("document.querySelectorAll('#metrics svg circle').length")
        assert dots == len(rows) - 1  # a difference with its interval for each line
        wide = b.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0  # nothing to be scrolled to the side
        far = b.run("Math.max(...[...document.querySelectorAll('td, th')].map(c => c.getBoundingClientRect().right))")
        assert far <= 1200  # nor within a table
        cut = "[...document.querySelectorAll('#metrics svg text')].some(t => t.getBBox().x < 0)"
        assert not b.run(cut)
        b.run("document.querySelector('#videos').scrollIntoView()")
        assert b.run("document.querySelectorAll('#videos .prompt').length") == 3
        b.until("[...document.querySelectorAll('#videos video')].slice(0, 2).every(v => v.readyState > 1)")
        assert b.run("document.querySelectorAll('#videos .prompt:first-of-type video').length") == 2
        b.picture(pictures(tmp_path) / f"evidence-{verdict}.png", whole=True)
        assert b.problems == []


def test_on_a_telephone(evidence: dict[str, Evidence], browser: type, tmp_path: Path) -> None:
    with browser(390, 800) as b:
        b.open(evidence["better"].page)
        assert b.run("document.documentElement.scrollWidth") <= 390
        b.picture(pictures(tmp_path) / "evidence-narrow.png", whole=True)
        assert b.problems == []
