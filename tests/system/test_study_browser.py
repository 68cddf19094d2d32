"""The pages of a study in a real browser: watched, judged by key, undone, skipped, resumed, and sent exactly once."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from stepvideo.cli import main
from stepvideo.data.video_io import write_video
from stepvideo.preference.store import Store, events
from stepvideo.preference.study import load

ROOT = Path(__file__).resolve().parents[2]
FPS, FRAMES, SIDE, BITS = 10, 20, 64, 5
NASTY = "<img src=x onerror=alert(1)>"

# The number of the frame that each video shows, read from its picture.
READ = f"""(() => {{
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = {SIDE};
  const context = canvas.getContext("2d", {{ willReadFrequently: true }});
  return [...document.querySelectorAll("#stage canvas")].map(video => {{
    context.drawImage(video, 0, 0);
    let n = 0;
    for (let b = 0; b < {BITS}; b++) n |= (context.getImageData(12 * b + 6, {SIDE - 8}, 1, 1).data[0] > 127) << b;
    return n;
  }});
}})()"""

# What both sides show at every picture of one play, while the right video stands still for half a second.
PLAYED = f"""import('/assets/main.js').then(async ({{ player }}) => {{
  const shown = [];
  await player.play(0);
  setTimeout(() => player.videos[1].pause(), 300);
  setTimeout(() => player.videos[1].play(), 800);
  await new Promise(done => requestAnimationFrame(function look() {{
    if (!player.playing) return done();
    shown.push({READ});
    requestAnimationFrame(look);
  }}));
  return shown;
}})"""


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two models, five prompts each; every frame carries its number in its lowest rows, as bits."""
    root = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for model in ("ours", "other"):
        for n in range(5):
            film = rng.integers(0, 255, (FRAMES, 1, 1, 3)).repeat(SIDE, 1).repeat(SIDE, 2).astype(np.uint8)
            for frame in range(FRAMES):
                bits = [255 * (frame >> b & 1) for b in range(BITS)]
                film[frame, -16:, : 12 * BITS] = np.repeat(bits, 12)[None, :, None]
            write_video(root / model / f"{n:03d}.mp4", film, FPS)
    (root / "prompts.txt").write_text("".join(f"{NASTY} {n}\n" for n in range(5)))
    return root


class Served:
    """A study of one kind, served by the command in a process of its own."""

    def __init__(self, folder: Path, videos: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.port = folder, "0"
        models = [f"--videos={m}={videos / m}" for m in ("ours", "other")[: 1 if kind == "label" else 2]]
        settings = ["practice=1" if kind == "compare" else "practice=0", "raters=1", "gold=0", "aa=0", "repeats=0"]
        prompts = f"--prompts={videos / 'prompts.txt'}"
        assert main(["study", "create", str(folder), "--kind", kind, *models, prompts, *settings]) == 0
        self.tokens = {}
        for name, more in (("ann", []), ("owner", ["--admin"])):
            assert main(["study", "add-annotator", str(folder), name, *more]) == 0
            self.tokens[name] = re.findall(r"#token=(\S+)", capsys.readouterr().out)[-1]
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "stepvideo.cli", "study", "serve", str(self.folder), "--port", self.port]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        found = re.search(r"serving (http://\S+:(\d+))", self.process.stdout.readline())
        assert found
        self.url, self.port = found.groups()

    def stop(self, how: int = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.wait(30)

    def events(self) -> list[Any]:
        store = Store(self.folder, load(self.folder).opaque("database"))
        try:
            return store.read(lambda c: list(c.execute(select(events).order_by(events.c.seq)).all()))
        finally:
            store.close()


@pytest.fixture
def served(tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    running: list[Served] = []

    def start(kind: str) -> Served:
        running.append(Served(tmp_path / kind, videos, kind, capsys))
        return running[-1]

    yield start
    for one in running:
        one.stop()


def module(script: str) -> str:
    return f"import('/assets/main.js').then(async m => {{ {script} }})"


def text(selector: str) -> str:
    return f"document.querySelector('{selector}').textContent"


def enter(page: Any, study: Served, language: str) -> None:
    """Open the page with the token in the address, and begin."""
    page.server = study.url
    page.call("Page.navigate", url=f"{study.url}/#token={study.tokens['ann']}")
    page.until("document.querySelector('#intro')?.hidden === false")
    page.run(f"document.querySelector('#languages [lang={language}]').click()")
    assert "token" not in page.run("location.href")
    page.key("Enter", 13)


def watch(page: Any) -> None:
    page.until(module("return Boolean(m.player) && m.player.coverage().every(c => c === 1) && !m.player.playing"))


def test_from_the_token_to_the_end(served: Any, browser: type, tmp_path: Path) -> None:
    study = served("compare")
    with browser(1280, 800) as page:
        enter(page, study, "zh")
        page.until("document.querySelector('.choice')?.disabled === true && !document.querySelector('#work').hidden")
        page.key("1", 49)  # too early: nothing happens
        assert "看完" in page.run(text("#hint")) or "载入" in page.run(text("#hint"))
        watch(page)
        assert study.events() == []
        page.key("1", 49)  # the practice: what was expected is told
        page.until("!document.querySelector('#feedback').hidden")
        assert page.run(text("#verdict")).startswith(("正确", "与参考答案不同"))
        page.key("Enter", 13)
        page.until(f"{text('#count')}.includes('2 / ')")
        assert NASTY in page.run(text("#prompt")) and page.run("document.images.length") == 0
        page.run("document.querySelector('#languages [lang=en]').click()")
        watch(page)
        worst, pictures = page.run(module("return [m.player.drift.worst, m.player.drift.pictures]"))
        print("drift", worst, "frames over", pictures, "pictures")
        assert pictures > 5 and worst <= 1
        shown = page.run(PLAYED)
        assert len(shown) > 5 and max(abs(left - right) for left, right in shown) <= 1
        assert shown == sorted(shown) and page.run(READ) == [FRAMES - 1, FRAMES - 1]
        for n in np.random.default_rng(1).integers(0, FRAMES, 20).tolist():
            assert page.run(module(f"await m.player.seek({n}); return {READ}")) == [n, n]
        page.run(module("await m.player.seek(7)"))
        page.key("ArrowRight", 39)
        page.until(module("return m.player.frame === 8"))
        assert page.run(READ) == [8, 8]
        page.key(",", 188)
        page.until(module("return m.player.frame === 7"))
        page.key("f", 70)
        assert page.run("[...document.querySelectorAll('figure')].map(f => f.className.includes('away'))") == [0, 1]
        page.key("v", 86)
        page.picture(tmp_path / "compare.png")
        page.key("2", 50)
        page.until(f"{text('#count')} === '3 of 6'")
        page.key("u", 85)  # undone: the same item, seen already
        page.until(f"{text('#count')} === '2 of 6'")
        page.until("document.querySelector('.choice.before')?.disabled === false")
        page.key("0", 48)
        page.until(f"{text('#count')} === '3 of 6'")
        page.until(module("return Boolean(m.player)"))
        page.key("s", 83)
        page.until("document.querySelector('#skip-dialog').open")
        page.key("2", 50)
        page.key("Enter", 13)
        page.until(f"{text('#count')} === '4 of 6'")
        page.call("Page.reload")  # it goes on where it was
        page.until(f"document.readyState === 'complete' && {text('#count')} === '4 of 6'")
        watch(page)
        assert page.problems == []
        study.stop(signal.SIGKILL)
        page.key("3", 51)
        page.until(f"{text('#banner')}.includes('it will count once')")
        study.start()
        page.until(f"{text('#count')} === '5 of 6'")
        for _ in range(2):
            count = page.run(text("#count"))
            watch(page)
            page.key("3", 51)
            page.until(f"document.querySelector('#work').hidden || {text('#count')} !== '{count}'")
        page.until("!document.querySelector('#end').hidden")
        assert page.run(text("#end-count")) == "You answered 5 and skipped 1."
        page.run(f"sessionStorage.setItem('stepvideo-token', '{study.tokens['owner']}')")
        page.call("Page.navigate", url=f"{study.url}/admin")
        page.until("document.querySelectorAll('#annotators tbody tr').length === 1")
        page.picture(tmp_path / "admin.png")
    said = [(e.what, e.said) for e in study.events()]
    assert [what for what, _ in said] == ["vote", "vote", "undo", "vote", "skip", "vote", "vote", "vote"]
    assert "both_bad" in said[3][1] and "unclear prompt" in said[4][1]


@pytest.mark.parametrize(
    "kind", [pytest.param("rate", marks=pytest.mark.soak), pytest.param("label", marks=pytest.mark.soak)]
)
def test_scores_and_labels_by_key(served: Any, browser: type, tmp_path: Path, kind: str) -> None:
    study = served(kind)
    with browser(1280, 800) as page:
        enter(page, study, "en")
        watch(page)
        if kind == "rate":
            assert "fully consistent with the prompt" in page.run(text("#answer"))
        assert page.run("document.querySelector('.submit button').disabled")
        for key in "5432" if kind == "rate" else "13211":
            page.key(key, 48 + int(key))
        if kind == "label":
            page.type("A corrected caption.")
        page.picture(tmp_path / f"{kind}.png")
        page.key("Enter", 13, modifiers=2 if kind == "label" else 0)
        page.until(f"{text('#count')}.startsWith('2 of')")
        assert page.problems == []
    (vote,) = study.events()
    expected = '"motion_smoothness": 4' if kind == "rate" else "A corrected caption."
    assert vote.what == "vote" and expected in vote.said
