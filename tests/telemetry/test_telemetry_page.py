"""The page of telemetry in a real browser: as a file, and from its server."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from made_training import Fault, Made, durations, write_run

from stepvideo.telemetry.page.document import document
from stepvideo.telemetry.page.payload import payload
from stepvideo.telemetry.views import open_views

RUN = Made(ranks=16, steps=60, tensor=2, run="t2vi/<script>alert(1)</script>", faults=(Fault((9,), 1.2, since=31),))
READY = "document.body.dataset.ready === 'yes'"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("page")
    write_run(where, RUN)
    return where


def test_the_file_needs_no_network_and_drills_down(folder: Path, tmp_path: Path, browser: type) -> None:
    with open_views(folder) as views:
        (tmp_path / "page.html").write_text(document(payload(views)), encoding="utf-8")
    with browser(1250, 1000) as b:
        b.open(tmp_path / "page.html")
        b.until(READY)
        assert RUN.run in b.run("at('title').textContent")
        listed = b.run("[...document.querySelectorAll('#anomalies li')].map(e => e.textContent)")
        assert any(re.match(r"slow group: group 4 \(ranks 8 to 9\) on training1, since step 3[01]", t) for t in listed)

        b.click("#anomalies li button")  # to the group, where it began
        assert b.run("[at('section').value, at('rows').value, view.labels[chosen.row], steps(chosen.stretch)[0]]") == [
            "forward", "group", "group 4 (ranks 8 to 9)", 31,
        ]  # fmt: skip
        marked = "[...document.querySelectorAll('#detail tr')].filter(r => r.querySelector('.bad'))"
        assert b.run(f"{marked}.map(r => r.cells[0].textContent)") == ["forward"]

        b.run("at('rows').value = 'rank'; at('rows').dispatchEvent(new Event('input'))")
        made = np.exp(np.log(durations(RUN)["forward"][44, 8]) - np.log(np.sort(durations(RUN)["forward"][44])[7]))
        assert b.run("Math.exp(view.relative[8 * cube.stretches + 44])") == pytest.approx(made, rel=2e-3)
        box = b.run("(r => [r.x, r.y, r.width, r.height])(at('heat').getBoundingClientRect())")
        at = {"x": box[0] + box[2] * (44.5 / 60), "y": box[1] + box[3] * (8.5 / 16)}
        for kind in ("mousePressed", "mouseReleased"):
            b.call("Input.dispatchMouseEvent", type=kind, **at, button="left", clickCount=1)
        assert b.run("document.querySelector('#detail h3').textContent") == "rank 8 on training1, step 45"
        b.run("at('heat').focus()")
        b.key("ArrowDown", 40)
        assert b.run("document.querySelector('#detail h3').textContent") == "rank 9 on training1, step 45"
        b.run("at('order').value = 'slow'; at('order').dispatchEvent(new Event('input'))")
        assert sorted(b.run("view.order.slice(0, 2)")) == [8, 9]
        assert b.run("document.querySelectorAll('#stack path').length") == 8
        assert b.run("document.querySelectorAll('#speed path').length") == 2  # measured and predicted
        assert b.run("document.querySelectorAll('#data table').length") == 4
        assert b.problems == []


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator[str]:
    (tmp_path / "token").write_text("a-token-of-20-letters")
    command = [sys.executable, "-m", "stepvideo.cli", "telemetry", "serve", str(folder), "--port", "0"]
    command += ["--token-file", str(tmp_path / "token")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    found = re.search(r"http://[\d.:]+", process.stdout.readline())
    assert found
    yield found[0]
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_the_server_shows_what_comes_and_stretches_closely(folder: Path, server: str, browser: type) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        with pytest.raises(HTTPError) as refused:
            urlopen(Request(f"{server}/v1/telemetry", headers=headers))
        assert refused.value.code == 401
    with browser(900, 900, dark=True) as b:
        b.open(server)
        b.until("!at('login').hidden")
        b.run("at('token').focus()")
        b.type("a-token-of-20-letters")
        b.key("Enter", 13)
        b.until(READY)
        assert b.run("data.steps") == [1, 60]
        more = replace(RUN, first=61, steps=20, seed=1)
        write_run(folder, more)
        b.run("at('first').value = 51; at('last').value = 70; at('zoom').click()")
        b.until("data.steps[1] === 80 && cube.first === 51")
        assert b.run("[cube.first, cube.stretches, cube.width]") == [51, 20, 1]
        b.run("at('all').click()")
        b.until("cube.first === 1")
        assert [p for p in b.problems if "401" not in p] == []  # the first question was without a token
    said: dict[str, Any] = json.load(
        urlopen(Request(f"{server}/v1/telemetry?first=1", headers={"Authorization": "Bearer a-token-of-20-letters"}))
    )
    assert said["anomalies"][0]["kind"] == "slow_group"
