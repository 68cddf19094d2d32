"""The service in this process, over a model that is not one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from stepvideo.errors import StepVideoError
from stepvideo.inference.serve.access import Access
from stepvideo.inference.serve.app import Service, create_app
from stepvideo.inference.serve.engine import Made, Plan
from stepvideo.inference.serve.jobs import History
from stepvideo.inference.serve.limits import Limits
from stepvideo.inference.serve.videos import Videos
from stepvideo.inference.serve.worker import Worker

URL = "http://127.0.0.1:8000"
TOKEN = "a-token-of-some-length"
STEPS = 3


class FakeEngine:
    """Makes "videos" of a few bytes; waits before every step while `go` is clear."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.order: list[str] = []

    def describe(self) -> dict[str, Any]:
        return {"name": "fake", "image_to_video": False, "examples": ["a prompt"], "defaults": {}}

    def plan(self, options: Mapping[str, Any], image: Path | None) -> Plan:
        if options["prompt"] == "impossible":
            raise StepVideoError("width=1 is too small")
        size = {name: options.get(name, 32) for name in ("height", "width")}
        steps = options.get("num_inference_steps", STEPS)
        one = {"frames": options.get("num_frames", 17), "steps": steps, "image": str(image or ""), **size}
        return Plan([one] * options["num_videos_per_prompt"], ["a notice"])

    def generate(
        self, options: Mapping[str, Any], image: Path | None, stem: Path, on_step: Callable[[int, int], None]
    ) -> Made:
        self.order.append(stem.name)
        for step in range(STEPS):
            assert self.go.wait(30)
            on_step(step + 1, STEPS)
        if options["prompt"] == "refuse":
            raise StepVideoError("no token for '?'")
        if options["prompt"] == "break":
            raise ZeroDivisionError("by nothing")
        files = [stem.with_name(f"{stem.name}-{j}.mp4") for j in range(options["num_videos_per_prompt"])]
        for j, file in enumerate(files):
            file.write_bytes(bytes(range(100)) + bytes([j]))
            file.with_suffix(".png").write_bytes(b"picture")
        return Made(files, [f.with_suffix(".png") for f in files], ["said meanwhile"])


class Server:
    """The service in this process, and a client of it."""

    def __init__(self, folder: Path, access: Access, limits: Limits) -> None:
        self.engine, self.history = FakeEngine(), History(folder)
        self.videos = Videos(self.engine, self.history, Worker(limits.max_queue), limits)
        self.app = create_app(Service(self.videos.worker, limits, self.videos), access)
        self.http = TestClient(self.app, base_url=URL, raise_server_exceptions=False)

    def post(self, prompt: str = "a red circle", headers: dict[str, str] | None = None, **settings: Any) -> Any:
        return self.http.post("/v1/videos", json={"prompt": prompt, **settings}, headers=headers)

    def wait(self, id: str, *states: str) -> dict[str, Any]:
        end = time.monotonic() + 60
        while (view := self.http.get(f"/v1/videos/{id}").json())["state"] not in states:
            assert time.monotonic() < end, f"{view['state']}, not {states}"
            time.sleep(0.01)
        return view

    def die(self) -> None:
        """What kill -9 leaves: the files, and no lock. The worker's thread stays at its step for ever."""
        self.history.close()
