"""Simulated annotators in a study that runs: over HTTP as a browser does, or in the process that has the study.

They see what people see, the prompt and the bytes of the videos, and take part in studies that are made for them alone
(`simulated=true`): any other is refused.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from stepvideo.errors import StepVideoError
from stepvideo.preference.session import Session
from stepvideo.preference.simulated import Annotator
from stepvideo.preference.study import MEDIA
from stepvideo.world.attributes import Attrs

if TYPE_CHECKING:
    import httpx

Judge = Callable[[Mapping[str, str], bytes], float]
"""(language → prompt, an mp4 file) → quality in [0, 1]."""
TRIES = 200  # requests that are refused for now, before it gives up


class Place(Protocol):
    """A running study as one annotator sees it."""

    def next(self) -> Mapping[str, Any]: ...

    def media(self, media_id: str) -> bytes: ...

    def vote(
        self, assignment: str, key: str, answer: Mapping[str, Any], watched: list[float], dwell_s: float
    ) -> None: ...


def take_part(place: Place, who: Annotator, judge: Judge, seed: int = 0, most: int | None = None) -> int:
    """Answer until nothing is left for this annotator, or `most` items; how many were answered, checks among them."""
    done = 0
    while most is None or done < most:
        item = place.next()
        if item.get("done"):
            break
        qualities = [judge(item["prompt"], place.media(m["id"])) for m in item["media"]]
        watched = [item["frames"] / item["fps"]] * len(qualities)
        key = str(uuid.uuid5(uuid.NAMESPACE_URL, f"simulated/{who.name}/{item['assignment']}"))
        answer = _answer(who, qualities, item.get("questions"), seed, item["number"])
        dwell = max(watched) + who.seconds(seed, item["number"])
        place.vote(item["assignment"], key, answer, watched, dwell)
        done += 1
    return done


class Direct:
    """The study of this process. Its length need not pass: make it with must_watch=0, or with a clock of its own."""

    def __init__(self, session: Session, folder: Path, name: str) -> None:
        _must_be_simulated(session.study.config.simulated, session.study.name)
        self._session, self._folder, self._name = session, folder, name

    def next(self) -> Mapping[str, Any]:
        return {"questions": self._session.study.texts.get("questions")} | self._session.next(self._name)

    def media(self, media_id: str) -> bytes:
        file = self._session.media(self._name, media_id, lambda _: True)
        return (self._folder / MEDIA / file).read_bytes()

    def vote(self, assignment: str, key: str, answer: Mapping[str, Any], watched: list[float], dwell_s: float) -> None:
        self._session.vote(self._name, assignment, key, answer, watched, dwell_s)


class Http:
    """A study that is served.

    Args:
        token: of this annotator.
        client: for tests; else a new one.

    Raises:
        StepVideoError: the server refuses, or the study is not made for simulated annotators.
    """

    def __init__(self, url: str, token: str, client: httpx.Client | None = None) -> None:
        import httpx

        self._client = client or httpx.Client(timeout=60.0, trust_env=False)
        self._url, self._headers = url.rstrip("/"), {"Authorization": f"Bearer {token}"}
        about = self._ask("GET", "/api/study").json()
        _must_be_simulated(bool(about.get("simulated")), self._url)
        self._questions = about.get("questions")

    def next(self) -> Mapping[str, Any]:
        return {"questions": self._questions} | self._ask("POST", "/api/next", {}).json()

    def media(self, media_id: str) -> bytes:
        return self._ask("GET", f"/api/media/{media_id}").content

    def vote(self, assignment: str, key: str, answer: Mapping[str, Any], watched: list[float], dwell_s: float) -> None:
        said = {"assignment": assignment, "key": key, "answer": answer, "watched": watched, "dwell_s": dwell_s}
        self._ask("POST", "/api/votes", said)

    def _ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Asked again while the server says to wait (429) or that the videos still play (422), or cannot be reached.

        A vote has a key, so that sending it twice is harmless.
        """
        import httpx

        said = ""
        for _ in range(TRIES):
            try:
                answer = self._client.request(method, self._url + path, headers=self._headers, json=body)
            except httpx.TransportError as e:
                said = str(e)
                time.sleep(0.2)
                continue
            if answer.is_success:
                return answer
            said = f"{answer.status_code} {answer.text[:200]}"
            if answer.status_code != 429 and not (answer.status_code == 422 and path == "/api/votes"):
                break
            time.sleep(min(5.0, float(answer.headers.get("retry-after", 0.1))))
        raise StepVideoError(f"{self._url}{path}: {said}")


def oracle_judge(attributes: Mapping[str, Attrs]) -> Judge:
    """The small world's oracle: how well a video shows what its prompt asks for.

    Args:
        attributes: prompt, in any language → what it asks for.
    """
    from stepvideo.data.video_io import read_video
    from stepvideo.world import oracle

    def judge(prompt: Mapping[str, str], film: bytes) -> float:
        asked = next((attributes[t] for t in prompt.values() if t in attributes), None)
        if asked is None:
            raise StepVideoError(f"no attributes are known of prompt {next(iter(prompt.values()), '')!r}")
        with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
            file.write(film)
            file.flush()
            return oracle.fidelity(oracle.read(read_video(Path(file.name))), asked)

    return judge


def _answer(who: Annotator, qualities: list[float], questions: Any, seed: int, number: int) -> dict[str, Any]:
    if len(qualities) == 2:
        return {"choice": who.choose(qualities[0], qualities[1], seed, number)}
    if not questions:
        return {"scores": who.rate(qualities[0], seed, number)}
    asked = [q for q in questions if q["type"] == "choice"]
    seen = who.rate(qualities[0], seed, number)
    good = sum(seen.values()) / len(seen) > 2.5
    return {"labels": {q["id"]: q["options"][0 if good else 1]["value"] for q in asked}}


def _must_be_simulated(simulated: bool, where: str) -> None:
    if not simulated:
        raise StepVideoError(
            f"{where} is a study for people; simulated annotators answer only studies made with simulated=true"
        )
