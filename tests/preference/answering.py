"""A study's application for tests: asked in this process, by annotators who answer at once."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from made_study import session, study
from starlette.testclient import TestClient

from stepvideo.preference import tokens
from stepvideo.preference.access import Names
from stepvideo.preference.server import create_app
from stepvideo.preference.session import Session
from stepvideo.preference.store import Store

URL = "http://127.0.0.1:8020"
ANSWERS: Mapping[str, Mapping[str, Any]] = {
    "compare": {"choice": "left"},
    "prefer": {"choice": "tie"},
    "rate": {
        "scores": {
            "instruction_following": 5, "motion_smoothness": 4, "physical_plausibility": 3, "aesthetic_appeal": 2
        }
    },
    "label": {"labels": {n: "pass" for n in ("clarity", "aesthetics", "motion", "transitions", "watermark")}},
}  # fmt: skip


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 2_000_000.0

    def __call__(self) -> float:
        return self.now


class Scene:
    """A made study, its application, and a client for each of its people."""

    def __init__(
        self, folder: Path, people: int = 1, kind: str = "compare", database: str = "", **settings: Any
    ) -> None:
        self.folder, self.clock, self._open = folder, Clock(), ExitStack()
        made, _ = session(study(kind, **settings), folder)
        store = Store(folder, "scene", database) if database else made.store
        self.session = Session(made.study, store, self.clock)
        self.app = create_app(self.session, folder, Names())
        self.tokens = {f"p{n}": self.token(f"p{n}") for n in range(people)}

    def token(self, name: str, role: str = tokens.ANNOTATOR, days: float = 1.0) -> str:
        return self.session.store.write(lambda c: tokens.add(c, name, days, role, self.clock()))

    def client(self, name: str = "p0", token: str | None = None) -> TestClient:
        said = {"authorization": f"Bearer {self.tokens[name] if token is None else token}"}
        client = TestClient(self.app, URL, headers=said, raise_server_exceptions=False)
        return self._open.enter_context(client)  # one event loop for all its requests, not one for each

    def close(self) -> None:
        self._open.close()
        self.session.store.close()


def watch(client: TestClient, scene: Scene, given: Mapping[str, Any]) -> list[Any]:
    """Fetch what is shown, and let its length pass."""
    sent = [client.get(m["url"]) for m in given["media"]]
    scene.clock.now += scene.session.study.length_s
    return sent


def ballot(scene: Scene, given: Mapping[str, Any], **other: Any) -> dict[str, Any]:
    """A body of POST /api/votes."""
    seconds = [scene.session.study.length_s] * len(given["media"])
    answer = ANSWERS[scene.session.study.kind]
    said = {"assignment": given["assignment"], "key": str(uuid.uuid4()), "answer": answer, "watched": seconds}
    return said | {"dwell_s": 2.5} | other
