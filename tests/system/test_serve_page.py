"""The page in a real browser: a prompt is typed, progress watched, the video plays, the history remembers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from stepvideo.inference.remote.client import Client

TOKEN = "a-token-of-some-length"
PROMPT = "一个红色的大圆向右移动"
READY = "document.querySelectorAll('#examples button').length > 0"
PLAYS = (
    "document.querySelector('#videos video')?.duration > 0 && document.querySelector('#videos video').currentTime > 0"
)


@pytest.fixture(scope="module")
def server(serve, browser, tmp_path_factory) -> Iterator:
    yield serve(tmp_path_factory.mktemp("served"), token=TOKEN)


def field(name: str) -> str:
    return f"document.forms.form.elements.{name}.value"


def text(selector: str) -> str:
    return f"document.querySelector('{selector}').textContent"


def enter(page, server) -> None:
    """Open the page and log in, by keyboard."""
    page.open(server.url)
    page.until("!document.querySelector('#login').hidden")
    page.type(TOKEN)
    page.key("Enter", 13)
    page.until(READY)


def write(page, prompt: str, **settings: int) -> None:
    page.click("#prompt")
    page.run("document.querySelector('#prompt').select()")
    page.type(prompt)
    for name, value in settings.items():
        page.run(f"{field(name)} = '{value}'")


def test_from_the_prompt_to_the_video(server, browser, tmp_path):
    with browser(1000, 900) as page:
        enter(page, server)
        page.problems.clear()  # the first question, without a token, is refused with 401, which the console notes
        assert "text to video" in page.run(text("#model"))
        write(page, PROMPT, num_inference_steps=120, num_frames=51, width=128, height=128, seed=7)
        page.key("Enter", 13, modifiers=2)
        page.until(f"/^Step [0-9]+ of 120 · [0-9]+ s left$/.test({text('#status')})")
        page.until("document.querySelector('#bar').position > 0.3")
        page.until(PLAYS)
        size = page.run("(v => [v.videoWidth, v.videoHeight, v.duration])(document.querySelector('#videos video'))")
        assert size == [256, 256, pytest.approx(51 / 25, abs=0.05)]
        assert page.run(text("#stage-title")) == PROMPT
        settings = dict(
            zip(
                *page.run(
                    "['dt', 'dd'].map(t => [...document.querySelectorAll(`#settings ${t}`)].map(e => e.textContent))"
                )
            )
        )
        assert settings.items() >= {"Size": "128×128", "Frames": "51", "Steps": "120", "Seed": "7"}.items()
        page.until("document.querySelector('#history img')?.naturalWidth > 0")
        assert PROMPT in page.run(text("#history"))
        assert page.run("document.querySelector('#videos a').download").endswith("-0.mp4")
        page.run("document.forms.form.reset()")
        page.click("#again")
        assert page.run(f"[{field('prompt')}, {field('num_inference_steps')}, {field('seed')}]") == [PROMPT, "120", "7"]
        page.picture(tmp_path / "page.png", whole=True)
        assert page.problems == []
        page.open(server.url)  # the token is kept in the tab; the history on the server
        page.until("document.querySelectorAll('#history li').length > 0")
        page.click("#history button")
        page.until(PLAYS)
        assert TOKEN not in page.run(
            "document.documentElement.outerHTML + location.href + JSON.stringify(localStorage)"
        )


def test_cancelling(server, browser):
    with browser(1000, 900) as page:
        enter(page, server)
        write(page, PROMPT, num_inference_steps=200, num_frames=68, width=160, height=160)
        page.click("#generate")
        page.until(f"{text('#status')}.startsWith('Step')")
        for _ in range(4):  # progress may move the page under the mouse; a person clicks again
            page.click("#cancel")
            with contextlib.suppress(TimeoutError):
                page.until(f"document.querySelector('#cancel').disabled || {text('#stage-error')} === 'Cancelled.'", 3)
                break
        page.until(f"{text('#stage-error')} === 'Cancelled.'")
        page.until("document.querySelector('#history .state').textContent === 'cancelled'")
    assert Client(server.url, TOKEN).history(1)[0]["state"] == "cancelled"


def test_errors_are_shown_as_errors(server, browser):
    shown = "!document.querySelector('{0}').hidden && document.querySelector('{0}').textContent"
    with browser(1000, 900) as page:
        page.open(server.url)
        page.until("!document.querySelector('#login').hidden")
        page.type("not the token at all")
        page.key("Enter", 13)
        page.until(shown.format("#login-error"))
        assert "not the server's token" in page.run(text("#login-error"))
        enter(page, server)
        write(page, PROMPT, width=8)
        page.click("#generate")
        page.until(shown.format("#form-error"))
        assert "width=8 is too small" in page.run(text("#form-error"))
        write(page, "<img src=x onerror=alert(1)>", width=64)
        page.click("#generate")
        page.until(shown.format("#stage-error"))
        assert "no token for" in page.run(text("#stage-error"))
        assert page.run(text("#stage-title")) == "<img src=x onerror=alert(1)>"
        assert page.run("document.querySelectorAll('#stage img').length") == 0


def test_it_fits_a_phone_in_the_dark(server, browser, tmp_path):
    Client(server.url, TOKEN).generate(PROMPT)
    with browser(390, 800, dark=True) as page:
        enter(page, server)
        page.click("summary")
        page.until("document.querySelectorAll('#history li').length > 0")
        page.click("#history button")
        page.until(PLAYS)
        assert page.run("document.documentElement.scrollWidth") <= 390
        assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
        small = (
            "[...document.querySelectorAll('button, input, select')].filter(e => e.offsetParent && e.offsetHeight < 34)"
        )
        assert page.run(f"{small}.length") == 0  # large enough for a finger
        page.picture(tmp_path / "phone.png", whole=True)
