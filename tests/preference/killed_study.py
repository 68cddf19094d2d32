"""A study's server that is killed at random moments while annotators answer, and what is left of their votes.

As a script it serves the study of a folder: it loads everything once and forks a server for each line "start" that it
reads, so that a start costs milliseconds.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

PEOPLE = 4
START_S, KILL_S = 60.0, 0.05


class Farm:
    """Servers, one after another, on one port."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        command = [sys.executable, __file__, str(folder), str(self.port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._pid = 0

    def start(self) -> None:
        """A new server that takes connections."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write("start\n")
        self._process.stdin.flush()
        self._pid = int(self._process.stdout.readline())
        until = time.monotonic() + START_S
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), 0.5).close()
            except OSError:
                assert time.monotonic() < until, "the server does not start"
                time.sleep(0.01)

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(10)


class Annotator(threading.Thread):
    """Votes, skips and undoes without a pause; a request that got no answer is sent again as it was."""

    def __init__(self, url: str, token: str, seed: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._url, self._random, self._halt = url, random.Random(seed), stop
        self._token = token
        self.taken: dict[str, tuple[str, Any]] = {}  # key: (assignment, what was said), of requests with an answer
        self.again = 0
        self.strange: list[str] = []

    def run(self) -> None:
        import httpx

        with httpx.Client(base_url=self._url, headers={"authorization": f"Bearer {self._token}"}) as client:
            while not self._halt.is_set():
                given = self._ask(lambda: client.post("/api/next", json={}))
                if given is None or given.json().get("done"):
                    return
                self._answer(client, given.json())

    def _answer(self, client: Any, given: dict[str, Any]) -> None:
        for media in given["media"]:
            if self._ask(lambda url=media["url"]: client.get(url)) is None:
                return
        if self._random.random() < 0.5:  # as the page: the next one's films, early
            ahead = self._ask(lambda: client.post("/api/ahead", json={}))
            for media in ahead.json()["media"] if ahead else ():
                self._ask(lambda url=media["url"]: client.get(url))
        key, choice = str(uuid.UUID(int=self._random.getrandbits(128), version=4)), self._random.random()
        body: dict[str, Any] = {"assignment": given["assignment"], "key": key}
        if choice < 0.1:
            path, body = "/api/skip", body | {"reason": f"why {key}"}
        else:
            answer = {"choice": self._random.choice(["left", "right", "tie", "both_bad"])}
            path, body = "/api/votes", body | {"answer": answer, "watched": [1.0, 1.0], "dwell_s": choice}
        sent = self._ask(lambda: client.post(path, json=body))
        if sent is None:
            return
        self.taken[key] = (given["assignment"], body.get("answer") or body["reason"])
        if self._random.random() < 0.05:
            self._ask(lambda: client.post("/api/undo"))

    def _ask(self, send: Callable[[], Any]) -> Any:
        """The answer; None if the test ends first."""
        import httpx

        while not self._halt.is_set():
            try:
                answer = send()
            except httpx.TransportError:
                self.again += 1
                time.sleep(0.05)
                continue
            if answer.status_code not in (200, 201):
                self.strange.append(f"{answer.status_code} {answer.text}")
            return answer
        return None


def kill_at_random(folder: Path, kills: int, votes: int, seed: int) -> dict[str, int]:
    """Figures of a study whose server was killed so often.

    Raises:
        AssertionError: a vote that was acknowledged is not there as it was sent, or is there twice.
    """
    from made_study import session, study
    from sqlalchemy import select

    from stepvideo.preference import tokens
    from stepvideo.preference.store import assignments, events

    made = study(votes=votes, golds=9, alike=9, raters=PEOPLE, must_watch=0.0)
    found, _ = session(made, folder)
    given = [found.store.write(lambda c, n=n: tokens.add(c, f"p{n}", 1.0)) for n in range(PEOPLE)]
    farm, draw, stop = Farm(folder), random.Random(seed), threading.Event()
    url = f"http://127.0.0.1:{farm.port}"
    people = [Annotator(url, token, seed + n, stop) for n, token in enumerate(given)]
    try:
        for trial in range(kills + 1):
            farm.start()
            if trial == 0:
                for person in people:
                    person.start()
            _wait_for_votes(people, draw.randint(1, 6))  # not for a time: a busy machine may do nothing in it
            time.sleep(draw.uniform(0.0, KILL_S))
            if trial < kills:
                farm.kill()
        time.sleep(0.5)
        stop.set()
        for person in people:
            person.join(30)
        farm.kill()
    finally:
        stop.set()
        farm.close()
    rows = found.store.read(lambda c: c.execute(select(events).order_by(events.c.seq)).all())
    state = found.store.read(lambda c: c.execute(select(assignments.c.assignment, assignments.c.state)).all())
    found.store.close()
    strange = [s for p in people for s in p.strange]
    assert not strange, strange[:3]
    kept = {r.key: r for r in rows}
    assert len(kept) == len(rows)
    for person in people:
        for key, (assignment, said) in person.taken.items():
            there = json.loads(kept[key].said)
            assert (kept[key].assignment, there.get("answer") or there.get("reason")) == (assignment, said)
    courses: dict[str, list[str]] = {}
    for row in rows:
        courses.setdefault(row.assignment, []).append("undo" if row.what == "undo" else "said")
    for assignment, course in courses.items():  # said, undo, said, …: nothing is counted twice
        assert course == ["said", "undo"] * (len(course) // 2) + ["said"] * (len(course) % 2), assignment
    stands = {a for a, course in courses.items() if course[-1] == "said"}
    assert stands == {row.assignment for row in state if row.state in ("voted", "skipped")}
    count = Counter(r.what for r in rows)
    figures = {
        "kills": kills,
        "acknowledged": sum(len(p.taken) for p in people),
        "sent again": sum(p.again for p in people),
    }
    return figures | {"votes": count["vote"], "skips": count["skip"], "undone": count["undo"]}


def _wait_for_votes(people: list[Annotator], count: int) -> None:
    wanted, until = sum(len(p.taken) for p in people) + count, time.monotonic() + START_S
    while sum(len(p.taken) for p in people) < wanted and any(p.is_alive() for p in people):
        assert time.monotonic() < until, "the server does not answer"
        time.sleep(0.005)


def main() -> None:
    import uvicorn

    from stepvideo.inference.serve.command import listen
    from stepvideo.preference import access
    from stepvideo.preference.server import create_app
    from stepvideo.preference.session import Session
    from stepvideo.preference.store import Store
    from stepvideo.preference.study import load

    access.PER_S = access.BURST = 10**6  # no annotator answers a hundred times a second; these do
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    last = 0
    for _ in sys.stdin:
        if last := os.fork():
            print(last, flush=True)
            continue
        made = load(folder)
        app = create_app(Session(made, Store(folder, made.opaque("database"))), folder, access.Names())
        listener = listen("127.0.0.1", port)
        listener.listen()
        uvicorn.Server(uvicorn.Config(app, log_config=None)).run([listener])
        os._exit(0)
    if last:
        try:
            os.kill(last, signal.SIGKILL)
        except ProcessLookupError:
            pass


if __name__ == "__main__":
    main()
