"""The page of `stepvideo compare` in a real browser, from a file: videos in step, curves that answer, no error."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from made_runs import BITS, FRAMES, SIDE, MadeRuns

from stepvideo import cli

A, B, C = "20261101-120000-aaaaaa", "20261102-120000-bbbbbb", "20261103-120000-cccccc"

# The number of the frame that each video shows, read from its picture. A file:// page may draw its own videos, but not
# read them back from a canvas, so the player's own report is compared with what the test asks for there.
SHOWN = "compared.player.shown"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    runs = MadeRuns(folder)
    runs.run(A)
    runs.run(B, lr=0.2, better=25)
    runs.run(C, lr=0.4, better=3)
    assert cli.main(["compare", A, B, C, *runs.at, "--html", str(folder / "made" / "compare.html")]) == 0
    shutil.move(folder / "made", folder / "moved")  # it is whole by itself
    shutil.rmtree(runs.store.root)
    return folder / "moved" / "compare.html"


def test_videos_in_step_and_curves_by_hand(page: Path, browser: type, tmp_path: Path) -> None:
    assert BITS and SIDE
    with browser(1300, 900) as b:
        b.open(page)
        b.until("compared.player !== null")
        assert b.run("document.querySelectorAll('#film-stage video').length") == 3
        assert b.run("document.querySelector('#film-stage p span').textContent") == "a red square <0>"
        b.click("#film-play")
        b.until("compared.player.frame > 3")
        # what the three showed at the same picture of the screen, over a while
        worst = b.run(
            """new Promise(done => {
            let worst = 0, pictures = 0;
            const look = () => {
                const shown = compared.player.shown;
                worst = Math.max(worst, Math.max(...shown) - Math.min(...shown) === FRAMES - 1 ? 0
                    : Math.max(...shown) - Math.min(...shown));
                if (++pictures < 60) requestAnimationFrame(look); else done([worst, pictures]);
            };
            look();
        })""".replace("FRAMES", str(FRAMES))
        )  # one that begins anew is not apart
        print("frames apart", worst)
        assert worst[0] <= 1
        b.click("#film-play")
        b.until("!compared.player.playing")
        for n in (0, 7, 13, FRAMES - 1):
            b.run(f"compared.player.seek({n})")
            b.until(f"{SHOWN}.every(f => f === {n})")
        b.run("compared.player.seek(7)")
        b.click("#film-on")
        b.until(f"{SHOWN}.every(f => f === 8)")
        b.key("ArrowLeft", 37)
        b.until(f"{SHOWN}.every(f => f === 7)")
        b.run("(e => { e.value = 12; e.dispatchEvent(new Event('input')); })(document.querySelector('#film-scrub'))")
        b.until(f"{SHOWN}.every(f => f === 12)")
        b.key("ArrowDown", 40)
        b.until("document.querySelector('#film-stage p span').textContent === 'a red square <1>'")
        b.run("(e => { e.value = '2'; e.dispatchEvent(new Event('change')); })(document.querySelector('#film-rows'))")
        b.until("document.querySelectorAll('#film-stage video').length === 6 && compared.player?.videos.length === 6")
        line = "document.querySelector('[data-stage=\"sft.1\"] polyline.main').getAttribute('points')"
        before = b.run(line)
        b.run("(e => { e.value = 0; e.dispatchEvent(new Event('input')); })(document.querySelector('#curve-smooth'))")
        plain = b.run(line)
        b.click("#curve-log")
        assert len({before, plain, b.run(line)}) == 3
        b.run("""(s => { const r = s.getBoundingClientRect();
            s.dispatchEvent(new PointerEvent('pointermove', { clientX: r.right - 5, clientY: r.y + 40 })); })(
            document.querySelector('[data-stage=\"sft.1\"] svg'))""")
        tip = b.run("document.querySelector('[data-stage=\"sft.1\"] .tip').textContent")
        assert tip == "step 40 · aaaaaa: 0.2 · bbbbbb: 0.1111 · cccccc: 0.05882"
        b.run(
            "(e => { e.value = 'lr'; e.dispatchEvent(new Event('change')); })(document.querySelector('.plots select'))"
        )
        assert b.run("document.querySelectorAll('[data-stage=\"sft.1\"] polyline.main').length") == 3
        text = b.run("document.querySelector('main').textContent")
        for said in ("the first difference is sft.1", "stages.sft.optim.lr", "no difference shown", "Not compared"):
            assert said.lower() in text.lower()
        b.picture(tmp_path / "compare.png", whole=True)
        assert b.problems == []


def test_a_page_without_its_videos_says_so(page: Path, browser: type, tmp_path: Path) -> None:
    lone = tmp_path / page.name
    shutil.copy(page, lone)
    with browser(1300, 900) as b:
        b.open(lone)
        b.until("!document.querySelector('#film-trouble').hidden")
        assert "folder of the videos" in b.run("document.querySelector('#film-trouble').textContent")
