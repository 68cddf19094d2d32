"""How far the two sides of a study's page are apart while they play, in a real Chromium.

    python benchmarks/study_playback.py [--json] [--check] [--plays 5] [--frames 102] [--windows 1280x800 1920x1080]

A study of two moving pictures of 544 × 992 at 25 fps, made and served by the commands. At every picture of the screen
the frames that both sides show are compared (that they are those of the pixels: tests/system/test_study_browser.py).
Without a GPU Chromium decodes and draws on the processor. `--check` exits 1 where a play was more than a frame apart.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
from moving_pictures import world  # noqa: E402

from stepvideo.data.video_io import VideoWriter  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
HEIGHT, WIDTH, FPS = 544, 992, 25
BAR = 1  # frames
PLAY = """import('/assets/main.js').then(async ({ player }) => {
  await player.pause();
  player.loop = false;
  player.drift = { worst: 0, pictures: 0, held: 0 };
  const apart = {}, shown = player.videos.map(() => new Set()), begin = performance.now();
  await player.play(0);
  await new Promise(done => requestAnimationFrame(function look() {
    if (!player.playing) return done();
    const d = Math.abs(player.shown[0] - player.shown[1]);
    apart[d] = (apart[d] ?? 0) + 1;
    player.shown.forEach((n, i) => shown[i].add(n));
    requestAnimationFrame(look);
  }));
  return { apart, drift: player.drift, frames: shown.map(s => s.size), seconds: (performance.now() - begin) / 1000 };
})"""


def film(path: Path, seed: int, frames: int) -> None:
    """A plane that moves: every picture differs, as in a model's video."""
    plane = world(np.random.default_rng(seed), 1400)
    with VideoWriter(path, HEIGHT, WIDTH, FPS) as writer:
        for n in range(frames):
            top, left = 3 * n % (1400 - HEIGHT), 4 * n % (1400 - WIDTH)
            writer.add(np.ascontiguousarray(plane[top : top + HEIGHT, left : left + WIDTH]))


@contextmanager
def served(folder: Path, frames: int) -> Iterator[tuple[str, str]]:
    """Address and token of a study of one pair."""
    for seed, model in enumerate(("one", "other")):
        (folder / model).mkdir()
        film(folder / model / "000.mp4", seed, frames)
    (folder / "prompts.txt").write_text("a plane that moves\n")
    command, study = [sys.executable, "-m", "stepvideo.cli", "study"], str(folder / "study")
    models = [f"--videos={m}={folder / m}" for m in ("one", "other")]
    made = [*models, f"--prompts={folder / 'prompts.txt'}", "practice=0", "gold=0", "aa=0", "repeats=0", "raters=1"]
    subprocess.run([*command, "create", study, *made], cwd=ROOT, check=True, capture_output=True)
    said = subprocess.run(
        [*command, "add-annotator", study, "eye"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    token = re.findall(r"#token=(\S+)", said.stdout)[-1]
    server = subprocess.Popen([*command, "serve", study, "--port", "0"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        found = re.search(r"serving (http://\S+)", server.stdout.readline())
        assert found
        yield found[1], token
    finally:
        server.terminate()
        server.wait(30)


def measure(url: str, token: str, size: tuple[int, int], plays: int) -> list[dict[str, Any]]:
    spec = importlib.util.spec_from_file_location("browser", ROOT / "tests" / "browser.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = []
    with module.Browser(*size) as page:
        page.server = url
        page.call("Page.navigate", url=f"{url}/#token={token}")
        page.until("document.querySelector('#intro')?.hidden === false")
        page.key("Enter", 13)
        page.until("import('/assets/main.js').then(m => Boolean(m.player) && m.player.playing)")
        for _ in range(plays):
            load = os.getloadavg()[0]
            page.call("Runtime.evaluate", expression=f"window.said = null; {PLAY}.then(r => {{ window.said = r; }})")
            page.until("window.said", timeout_s=120)
            found.append({"load": round(load, 1), **page.run("window.said")})
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plays", type=int, default=5)
    parser.add_argument("--frames", type=int, default=102)
    parser.add_argument("--windows", nargs="+", default=["1280x800", "1920x1080"])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, served(Path(name), args.frames) as (url, token):
        for window in args.windows:
            width, height = map(int, window.split("x"))
            result[window] = measure(url, token, (width, height), args.plays)
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        for window, plays in result.items():
            for p in plays:
                apart = ", ".join(f"{n} frames apart: {k}" for n, k in sorted(p["apart"].items()))
                print(f"{window}, load {p['load']}: worst {p['drift']['worst']}; pictures {apart}; frames shown "
                      f"{p['frames']} of {args.frames} in {p['seconds']:.1f} s")  # fmt: skip
    worst = max(p["drift"]["worst"] for plays in result.values() for p in plays)
    return int(args.check and worst > BAR)


if __name__ == "__main__":
    raise SystemExit(main())
