"""`stepvideo serve` as a process: clients that die, servers that stop, bodies without end."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np
import pytest

from stepvideo import cli, storage
from stepvideo.data.video_io import read_video, video_fps
from stepvideo.errors import StepVideoError
from stepvideo.inference.outputs import read_made_by
from stepvideo.inference.remote.client import Client

PROMPT = "一个红色的大圆向右移动"
LONG = {"num_inference_steps": 200, "num_frames": 68, "height": 160, "width": 160}  # some 10 s on one core
FOLLOW = """
import sys
from stepvideo.inference.remote.client import Client
for view in Client(sys.argv[1]).events(sys.argv[2]):
    print(view["step"], flush=True)
"""


@pytest.fixture(scope="module")
def server(serve, tmp_path_factory) -> Iterator:
    yield serve(tmp_path_factory.mktemp("served"))


def eventually(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_client_gets_a_video_that_its_settings_decide(server, tmp_path):
    client, seen = Client(server.url), []
    first = client.generate(PROMPT, on_progress=lambda v: seen.append((v["state"], v["step"])), seed=3, fps=10)[0]
    assert seen[-1] == ("done", 4)
    (tmp_path / "a.mp4").write_bytes(first)
    assert read_video(tmp_path / "a.mp4").shape == (17, 192, 192, 3) and video_fps(tmp_path / "a.mp4") == 10
    made_by = read_made_by(tmp_path / "a.mp4")
    assert made_by.items() >= {"prompt": PROMPT, "seed": 3, "steps": 4, "cfg": 3.0}.items() and made_by["weights"]
    again, other = (client.generate(PROMPT, seed=s, fps=10)[0] for s in (3, 4))
    assert again == first != other
    two = client.generate(PROMPT, seed=3, fps=10, num_videos_per_prompt=2)
    for name, data in zip("bcd", (*two, other)):
        (tmp_path / f"{name}.mp4").write_bytes(data)
    assert np.array_equal(*(read_video(tmp_path / f"{n}.mp4") for n in "ab"))
    assert np.array_equal(*(read_video(tmp_path / f"{n}.mp4") for n in "cd"))


def test_what_the_model_cannot_do_is_told(server):
    client = Client(server.url)
    with pytest.raises(StepVideoError, match=r"num_inference_steps=300.*at most 200.*422"):
        client.submit(PROMPT, num_inference_steps=300)
    with pytest.raises(StepVideoError, match=r"height=8 is too small.*422"):
        client.submit(PROMPT, height=8)
    with pytest.raises(StepVideoError, match="colour: Extra inputs"):
        client.submit(PROMPT, colour="red")
    with pytest.raises(StepVideoError, match="there is no video 'none'"):
        list(client.events("none"))
    job = client.submit(PROMPT, num_frames=20, height=40)
    assert sorted(job["notices"]) == ["frames=20 becomes 17", "height=40 becomes 32"]


def test_killed_clients_cost_nothing(server):
    """Five are killed while they follow a video: it goes on, their connections are closed, others are served."""
    client = Client(server.url)
    client.generate(PROMPT)
    time.sleep(1)  # until the server has let go of that
    files, threads = server.open_files(), server.threads()
    job = client.submit(PROMPT, **LONG)["id"]
    followers = [
        subprocess.Popen([sys.executable, "-c", FOLLOW, server.url, job], stdout=subprocess.PIPE) for _ in range(5)
    ]
    for follower in followers:
        assert follower.stdout and follower.stdout.readline()
    assert server.open_files() >= files + 5
    for follower in followers:
        follower.kill()
        follower.wait()
        assert follower.stdout
        follower.stdout.close()
    eventually(lambda: server.open_files() <= files + 1)
    assert client.status(job)["state"] == "running"
    client.cancel(job)
    assert client.generate(PROMPT)
    assert server.threads() <= threads + 5  # of the pool that answers requests; five streams held none


def test_a_running_video_is_cancelled_within_a_step(server):
    client = Client(server.url)
    job = client.submit(PROMPT, **LONG)["id"]
    eventually(lambda: client.status(job)["step"] > 1)
    client.cancel(job)
    eventually(lambda: client.status(job)["state"] == "cancelled", 5)
    assert client.status(job)["step"] < 200
    assert not list(server.out.glob(f"{job}-*"))


def test_a_burst_over_as_many_connections(server):
    """50 at once: 16 wait behind the running one and are made, 34 are refused."""
    client = Client(server.url)
    first = client.submit(PROMPT, **LONG)["id"]
    eventually(lambda: client.status(first)["step"] > 1)

    def ask(seed: int) -> str:
        try:
            return client.submit(PROMPT, seed=seed, num_inference_steps=1)["id"]
        except StepVideoError as e:
            assert "16 requests are waiting" in str(e) and "429" in str(e)
            return ""

    with ThreadPoolExecutor(50) as pool:
        ids = [i for i in pool.map(ask, range(50)) if i]
    assert len(ids) == 16
    client.cancel(first)
    assert all([v["state"] for v in client.events(i)][-1] == "done" for i in ids)
    finished = sorted((client.status(i) for i in ids), key=lambda v: v["started"])
    assert [v["id"] for v in finished] == sorted(ids)


def test_an_endless_body_is_refused(server):
    """Without a Content-Length, 1 MiB at a time; the server's memory must not follow."""
    address = urlsplit(server.url)
    assert address.hostname
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    chunk = b" " * (1 << 20)
    headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
    connection.request("POST", "/v1/videos", iter([chunk] * 40), headers, encode_chunked=True)
    answer = connection.getresponse()
    assert answer.status == 413 and "33554432 bytes" in json.load(answer)["error"]
    connection.close()
    assert Client(server.url).generate(PROMPT)


@pytest.mark.slow
def test_stopped_and_started_again(serve, tmp_path):
    token = "this-token-is-a-secret"
    first = serve(tmp_path / "out", token=token)
    client = Client(first.url, token)
    running, queued = client.submit(PROMPT, **LONG)["id"], client.submit(PROMPT, seed=2)["id"]
    eventually(lambda: client.status(running)["step"] > 1)
    with pytest.raises(StepVideoError, match="401"):
        Client(first.url).history()
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(20) == 0
    record = storage.read_json(tmp_path / "out" / f"{running}.json")
    assert (record["state"], record["error"][:18]) == ("failed", "the server stopped")
    assert storage.read_json(tmp_path / "out" / f"{queued}.json")["state"] == "queued"
    second = serve(tmp_path / "out", token=token)
    client = Client(second.url, token)
    assert [v["state"] for v in client.events(queued)][-1] == "done"
    assert [v["id"] for v in client.history()] == [queued, running]
    second.process.send_signal(signal.SIGINT)
    assert second.process.wait(20) == 0
    assert token not in first.said + second.said and "Traceback" not in first.said + second.said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "needs a token"),
        (["--port", "99999"], "choose another --port"),
        (["--token-file", "nowhere"], "cannot be read"),
        (["--max-steps", "0"], "max_steps=0"),
        (["--part", "vae", "--model", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_exit_with_2_and_say_what_to_do(options, words, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("STEPVIDEO_TOKEN", raising=False)
    assert cli.main(["serve", "--port", "0", "--out", str(tmp_path), "--store", str(tmp_path), *options]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.soak
def test_text_encoders_and_vae_in_processes_of_their_own(serve, tiny_models, tmp_path):
    """As released: three processes make one video, the same as one process does."""
    text, vae = (serve(tmp_path, "--part", part, "--precision", "fp32") for part in ("text", "vae"))
    shutil.copytree(tiny_models / "transformer", tmp_path / "model" / "transformer")
    shutil.copy(tiny_models / "sampling.json", tmp_path / "model")
    for name, model in (
        ("apart", ["--model", str(tmp_path / "model"), "--text", text.url, "--vae", vae.url]),
        ("together", ["--model", str(tiny_models)]),
    ):
        command = [sys.executable, "-m", "stepvideo.cli", "generate", PROMPT, *model, "--precision", "fp32"]
        out = ["--device", "cpu", "--out", str(tmp_path / f"{name}.mp4")]
        done = subprocess.run([*command, *out], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    assert np.array_equal(*(read_video(tmp_path / f"{name}.mp4") for name in ("apart", "together")))
