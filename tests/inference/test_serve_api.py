"""The service over a model that is not one: what is accepted, in which order it is done, what is remembered."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import random
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the `serve` extra")
from PIL import Image

from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.inference.serve.errors import Refused
from stepvideo.inference.serve.jobs import STOPPED
from stepvideo.inference.serve.limits import Limits
from stepvideo.inference.serve.videos import check_image


def bomb() -> bytes:
    """A PNG whose header promises 3.6 gigapixels."""
    body = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    chunk = (13).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT" + zlib.crc32(b"IDAT").to_bytes(4, "big")


def test_from_a_request_to_the_file(start):
    server = start()
    asked = server.post(num_videos_per_prompt=2, seed=2**53 - 1, guidance_scale=0, fps=12.5)
    assert asked.status_code == 202
    job = asked.json()
    assert asked.headers["location"] == f"/v1/videos/{job['id']}" == job["links"]["self"]
    assert job["request"]["seed"] == 2**53 - 1 and job["request"]["guidance_scale"] == 0
    done = server.wait(job["id"], "done")
    assert (done["step"], done["error"], done["notices"]) == (done["total"], None, ["a notice", "said meanwhile"])
    assert done["created"] <= done["started"] <= done["finished"]
    for j, link in enumerate(done["links"]["files"]):
        whole = server.http.get(link)
        assert whole.content == bytes(range(100)) + bytes([j]) and whole.headers["content-type"] == "video/mp4"
    part = server.http.get(link, headers={"range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == bytes(range(10, 20))
    assert part.headers["content-range"] == "bytes 10-19/101"
    assert server.http.get(link, headers={"range": "bytes=500-"}).status_code == 416
    assert server.http.head(link).headers["content-length"] == "101"
    assert server.http.get(done["links"]["previews"][0]).content == b"picture"
    assert [v["id"] for v in server.http.get("/v1/videos").json()["videos"]] == [job["id"]]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 422, "prompt: Field required"),
        ({"prompt": "x", "stepps": 4}, 422, "stepps: Extra inputs are not permitted"),
        ({"prompt": 5}, 422, "prompt: Input should be a valid string"),
        ({"prompt": "x", "num_inference_steps": "4"}, 422, "num_inference_steps"),
        ({"prompt": "x", "num_inference_steps": 201}, 422, "at most 200 steps"),
        ({"prompt": "x", "seed": -1}, 422, "seed"),
        ({"prompt": "x", "seed": 2**53}, 422, "seed"),
        ({"prompt": "x", "fps": 0.05}, 422, "fps"),
        ({"prompt": "x", "time_shift": 1e-300}, 422, "time_shift"),
        ({"prompt": "x", "guidance_schedule": "rising"}, 422, "'constant' or 'diminishing'"),
        ({"prompt": "x", "num_videos_per_prompt": 5}, 422, "at most 4"),
        ({"prompt": "x" * 10_001}, 422, "at most 10000"),
        ({"prompt": "x", "num_frames": 500, "height": 512, "width": 512}, 422, "pixels"),
        ({"prompt": "impossible"}, 422, "width=1 is too small"),
        ({"prompt": "x", "image": "%%%"}, 422, "no base64"),
        ({"prompt": "x", "image": base64.b64encode(b"no picture").decode()}, 422, "not an image"),
        ({"prompt": "x", "image": base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n").decode()}, 422, "not an image"),
        ({"prompt": "x", "image": base64.b64encode(bomb()).decode()}, 422, "3600000000 pixels"),
        ([1, 2], 422, "valid dictionary"),
        (b'{"prompt": "x"', 400, "not JSON"),
        (b"\xff\xfe{}", 400, "body"),
        (b'{"prompt": "x", "fps": NaN}', 422, "fps"),
        (b'{"prompt": "\\ud800"}', 422, "half of a character"),
        (b'{"prompt": "x", "\\ud800": 1}', 422, "unicode string"),
        (b"[" * 100_000, 400, "body"),
    ],
)
def test_what_cannot_be_met_is_refused_with_the_reason(start, body, status, words):
    server = start()
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = server.http.post("/v1/videos", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]
    assert server.http.get("/v1/videos").json() == {"videos": []}
    assert {p.name for p in server.history.folder.iterdir()} == {".lock"}


def test_any_text_is_a_prompt(start):
    server = start()
    for prompt in ("", "一只猫 and 🐈‍⬛\u0000\n", "长" * 10_000):
        answer = server.post(prompt)
        assert answer.status_code == 202 and answer.json()["request"]["prompt"] == prompt
        assert server.wait(answer.json()["id"], "done")["request"]["prompt"] == prompt


def test_an_image_reaches_the_engine_as_a_file(start):
    server = start(max_image=1000)
    out = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(out, "png")
    coded = base64.b64encode(out.getvalue()).decode()
    for text in (coded, f"data:image/png;base64,{coded}"):
        job = server.post(image=text, motion_score=7).json()
        assert Path(job["settings"][0]["image"]).read_bytes() == out.getvalue()
        assert "image" not in job["request"] and job["request"]["motion_score"] == 7
    Image.new("RGB", (40, 30), "red").save(out, "png")
    Image.new("RGB", (40, 30), "red").save(large := io.BytesIO(), "png")
    assert "40x30" in server.post(image=base64.b64encode(large.getvalue()).decode()).json()["error"]


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # Pillow says what is damaged
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF"])
def test_damaged_images_are_refused_or_taken_and_nothing_else(kind):
    out, rng = io.BytesIO(), random.Random(0)
    Image.new("RGB", (64, 48), "red").save(out, kind)
    check_image(out.getvalue(), Limits())
    for _ in range(200):
        data = bytearray(out.getvalue())
        for _ in range(4):
            data[rng.randrange(min(len(data), 200))] = rng.randrange(256)
        with contextlib.suppress(Refused):
            check_image(bytes(data), Limits())


def test_oversize_bodies_are_refused_whether_declared_or_not(start):
    server = start(max_body=1000)
    head = {"content-type": "application/json"}
    body = json.dumps({"prompt": "x" * 2000}).encode()
    assert server.http.post("/v1/videos", content=body, headers=head).status_code == 413
    answer = server.http.post("/v1/videos", content=iter([body[:900], body[900:]]), headers=head)
    assert answer.status_code == 413 and "1000 bytes" in answer.json()["error"]
    assert server.post("x").status_code == 202


def test_a_burst_fills_the_queue_and_no_more(start):
    """50 at once, 16 places: 16 are accepted, done in order, and none is lost; 34 are told when to come again."""
    server = start()
    server.engine.go.clear()
    first = server.post("first").json()["id"]
    server.wait(first, "running")
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda i: server.post(f"prompt {i}"), range(50)))
    accepted = sorted(a.json()["id"] for a in answers if a.status_code == 202)
    refused = [a for a in answers if a.status_code == 429]
    assert (len(accepted), len(refused)) == (16, 34)
    assert all(int(a.headers["retry-after"]) >= 1 and "16 requests" in a.json()["error"] for a in refused)
    views = {v["id"]: v for v in server.http.get("/v1/videos?limit=500").json()["videos"]}
    assert [views[i]["state"] for i in [first, *accepted]] == ["running"] + 16 * ["queued"]
    assert [views[i]["position"] for i in accepted] == list(range(1, 17))
    server.engine.go.set()
    for id in accepted:
        server.wait(id, "done")
    assert server.engine.order == [first, *accepted]
    assert len(list(server.history.folder.glob("*.json"))) == 17 == len(server.http.get("/v1/videos").json()["videos"])


def test_cancelled_while_queued_and_while_running(start):
    server = start()
    server.engine.go.clear()
    running, queued = (server.post(p).json()["id"] for p in ("one", "two"))
    server.wait(running, "running")
    assert server.http.delete(f"/v1/videos/{queued}").json()["state"] == "cancelled"
    assert server.http.delete(f"/v1/videos/{running}").json()["cancelling"]
    server.engine.go.set()
    assert server.wait(running, "cancelled", "done")["state"] == "cancelled"
    assert server.engine.order == [running]
    assert server.http.delete(f"/v1/videos/{running}").status_code == 200
    late = server.wait(server.post("three").json()["id"], "done")
    assert server.http.delete(late["links"]["self"]).status_code == 409
    assert server.http.get(f"/v1/videos/{running}/file").status_code == 409
    assert server.http.delete("/v1/videos/nothing").status_code == 404


@pytest.mark.parametrize(
    ("prompt", "error"), [("refuse", "no token for '?'"), ("break", "ZeroDivisionError: by nothing")]
)
def test_a_failure_reaches_the_client_and_the_next_request_is_served(start, prompt, error):
    server = start()
    failed = server.wait(server.post(prompt).json()["id"], "failed")
    assert failed["error"] == error
    assert error in server.http.get(f"{failed['links']['self']}/file").json()["error"]
    events = server.http.get(failed["links"]["events"]).text
    assert events.startswith("event: failed\n") and json.loads(events.split("data: ")[1])["error"] == error
    server.wait(server.post("fine").json()["id"], "done")


def test_events_end_with_the_end(start):
    server = start()
    server.engine.go.clear()
    job = server.post().json()
    threading.Timer(0.3, server.engine.go.set).start()
    answer = server.http.get(job["links"]["events"])
    assert answer.headers["content-type"].startswith("text/event-stream")
    names = [line[7:] for line in answer.text.splitlines() if line.startswith("event: ")]
    assert names[-1] == "done" and set(names[:-1]) <= {"queued", "running"} and len(names) >= 2


def test_one_key_is_one_request(start):
    server = start()
    key = {"idempotency-key": "k1"}
    with ThreadPoolExecutor(8) as pool:
        ids = {a.json()["id"] for a in pool.map(lambda _: server.post("same", key), range(8))}
    assert len(ids) == 1
    other = server.post("another", key)
    assert other.status_code == 409 and "k1" in other.json()["error"]
    assert server.post("same").json()["id"] not in ids


def test_history_survives_a_killed_server(start):
    dead = start()
    done = dead.wait(dead.post("kept").json()["id"], "done")
    dead.engine.go.clear()
    running, queued = (dead.post(p, {"idempotency-key": p}).json()["id"] for p in ("lost", "waiting"))
    dead.wait(running, "running")
    with pytest.raises(StepVideoError, match="another server writes"):
        start()
    dead.die()
    (dead.history.folder / "stranger.json").write_text("{}")
    server = start()
    view = server.wait(running, "failed")
    assert view["error"] == STOPPED
    assert server.wait(queued, "done")["request"]["prompt"] == "waiting"
    assert server.engine.order == [queued]
    assert server.http.get(done["links"]["files"][0]).content == dead.http.get(done["links"]["files"][0]).content
    assert server.post("waiting", {"idempotency-key": "waiting"}).json()["id"] == queued
    assert [v["id"] for v in server.http.get("/v1/videos").json()["videos"]] == [queued, running, done["id"]]
    assert [v["id"] for v in server.http.get(f"/v1/videos?limit=1&before={running}").json()["videos"]] == [done["id"]]


@pytest.mark.parametrize(
    "change",
    [
        {"files": ["../secret"]},
        {"files": ["/etc/passwd"]},
        {"files": [".lock"]},
        {"previews": ["secret.png"]},
        {"image": "../secret", "state": "queued"},
        {"files": 5},
        {"settings": ["x"]},
        {"state": "paused"},
        {"created": "yesterday"},
        {"created": float("nan")},
        {"request": {"prompt": "\ud800"}},
        {"more": 1},
    ],
    ids=str,
)
def test_a_record_that_somebody_changed_is_no_history(start, change):
    dead = start()
    done = dead.wait(dead.post("kept").json()["id"], "done")
    dead.die()
    (dead.history.folder.parent / "secret").write_text("secret")
    path = dead.history.folder / f"{done['id']}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    server = start()
    assert server.http.get("/v1/videos").json() == {"videos": []}
    assert server.http.get(done["links"]["files"][0]).status_code == 404
    assert server.engine.order == []


def test_a_record_cannot_have_other_files_removed(start):
    """What was running is dropped with all that begins with its id: an id that matches everything would be a rake."""
    dead = start()
    done = dead.wait(dead.post("kept").json()["id"], "done")
    dead.die()
    record = json.loads((dead.history.folder / f"{done['id']}.json").read_text())
    (dead.history.folder / "*.json").write_text(json.dumps(record | {"id": "*", "state": "running", "files": []}))
    assert start().http.get(done["links"]["files"][0]).status_code == 200


def test_a_stopping_server_ends_the_running_and_keeps_the_queued(start):
    server = start()
    server.engine.go.clear()
    running, queued = (server.post(p).json()["id"] for p in ("one", "two"))
    server.wait(running, "running")
    threading.Timer(0.2, server.engine.go.set).start()
    server.videos.close(10)
    assert server.wait(running, "failed")["error"] == STOPPED
    assert server.wait(queued, "queued") and server.post("three").status_code == 503
    again = start()
    assert again.wait(queued, "done")


def test_what_was_cancelled_while_the_server_stopped_stays_so(start):
    server = start()
    server.engine.go.clear()
    running, queued = (server.post(p).json()["id"] for p in ("one", "two"))
    server.wait(running, "running")
    stopping = threading.Thread(target=server.videos.close, args=(10,))
    stopping.start()
    while not server.videos.closing:
        time.sleep(0.01)
    assert server.http.delete(f"/v1/videos/{queued}").json()["state"] == "cancelled"
    server.engine.go.set()
    stopping.join()
    again = start()
    assert again.wait(queued, "cancelled") and again.engine.order == []


def test_a_full_disk_fails_the_request_and_not_the_server(start, monkeypatch):
    server = start()
    server.engine.go.clear()
    first, second = (server.post(p).json()["id"] for p in ("one", "two"))
    server.wait(first, "running")

    def full(_job: object) -> None:
        raise ArtifactError("cannot write: No space left on device; free space")

    with monkeypatch.context() as m:
        m.setattr(server.history, "save", full)
        answer = server.post("three")
        assert answer.status_code == 500 and "No space left" in answer.json()["error"]
        server.engine.go.set()
        assert "No space left" in server.wait(second, "failed")["error"]
    server.wait(server.post("four").json()["id"], "done")
    assert len(server.http.get("/v1/videos").json()["videos"]) == 3
