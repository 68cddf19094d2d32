"""A headless Chromium driven over the DevTools protocol: enough to open a file, run script and take a picture."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def program() -> str | None:
    return next((p for name in PROGRAMS if (p := shutil.which(name))), None)


class Browser:
    """Use as a context manager. `problems` collects console errors, warnings and exceptions of the page, and requests
    to anywhere but the server whose page was opened."""

    def __init__(self, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        self.problems: list[str] = []
        self.server: str | None = None
        self._folder = tempfile.mkdtemp(prefix="browser-")
        command = [
            str(program()), "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={self._folder}",
            f"--window-size={width},{height}", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--autoplay-policy=no-user-gesture-required", "--disable-background-networking", "--disable-extensions",
        ]  # fmt: skip
        if os.geteuid() == 0:
            command.append("--no-sandbox")  # Chromium refuses its sandbox to root
        self._process = subprocess.Popen(
            [*command, "about:blank"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        self._number = 0
        self._open_page(dark, width, height)

    def _open_page(self, dark: bool, width: int, height: int) -> None:
        from urllib.request import urlopen

        from websockets.sync.client import connect

        port_file = Path(self._folder) / "DevToolsActivePort"
        end = time.monotonic() + 60
        while not (port_file.exists() and "\n" in port_file.read_text()):
            if time.monotonic() > end or self._process.poll() is not None:
                raise RuntimeError("Chromium did not open its debugging port")
            time.sleep(0.05)
        port = port_file.read_text().split("\n")[0]
        with urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            page = next(t for t in json.load(answer) if t["type"] == "page")
        self._socket = connect(page["webSocketDebuggerUrl"], max_size=None)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            self._note(message)
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.problems.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.problems.append(str(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.problems.append(params["entry"]["text"])
            case "Network.requestWillBeSent" if params["request"]["url"].startswith(("http:", "https:", "ws:", "wss:")):
                if self.server is None or not params["request"]["url"].startswith(f"{self.server}/"):
                    self.problems.append(f"request to {params['request']['url']}")

    def open(self, page: Path | str) -> None:
        """A file, or the page of a server, such as http://127.0.0.1:8000."""
        if isinstance(page, str):
            self.server = page
        self.call("Page.navigate", url=f"{page}/" if isinstance(page, str) else page.absolute().as_uri())
        self.until("document.readyState === 'complete'")

    def key(self, key: str, code: int, modifiers: int = 0) -> None:
        """Press a key; modifiers: 1 Alt, 2 Ctrl, 4 Meta, 8 Shift."""
        more = {"text": "\r"} if key == "Enter" and not modifiers else {}  # without it a form is not submitted
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, modifiers=modifiers, **more
            )

    def type(self, text: str) -> None:
        """Into what has the focus, as an input method does."""
        self.call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """In the middle of the first element that matches, as a mouse does."""
        box = self.run(
            f"(e => {{ e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect(); "
            f"return [r.x + r.width / 2, r.y + r.height / 2]; }})(document.querySelector({json.dumps(selector)}))"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def until(self, script: str, timeout_s: float = 60) -> None:
        end = time.monotonic() + timeout_s
        while not self.run(script):
            if time.monotonic() > end:
                raise TimeoutError(script)
            time.sleep(0.1)

    def picture(self, path: Path, whole: bool = False) -> None:
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._socket.close()
        finally:
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            shutil.rmtree(self._folder, ignore_errors=True)
