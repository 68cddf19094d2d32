"""Text encoders and VAE over HTTP: the same numbers as at home; garbage is refused and nothing is ever unpickled."""

from __future__ import annotations

import base64
import http.server
import io
import os
import pickle
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the `serve` extra")
import numpy as np
import safetensors.torch
import torch
import uvicorn
from PIL import Image

from stepvideo.diffusion.pipeline import Pipeline
from stepvideo.diffusion.sampling import Sampling
from stepvideo.errors import StepVideoError
from stepvideo.inference.pipeline import StepVideoPipeline
from stepvideo.inference.remote.client import Client, Connection
from stepvideo.inference.remote.networks import RemoteTextEncoders, RemoteVAE
from stepvideo.inference.remote.tensors import MEDIA_TYPE, pack, unpack
from stepvideo.inference.serve.access import Access
from stepvideo.inference.serve.app import Service, create_app
from stepvideo.inference.serve.engine import PipelineEngine
from stepvideo.inference.serve.jobs import History
from stepvideo.inference.serve.limits import Limits
from stepvideo.inference.serve.parts import TextPart, VAEPart
from stepvideo.inference.serve.videos import Videos
from stepvideo.inference.serve.worker import Worker
from stepvideo.models import checkpoints
from stepvideo.models.dit import DiT
from stepvideo.models.text_encoders import load_text_encoders

TOKEN = "a-token-of-some-length"
PROMPTS = ["一个红色的大圆向右移动", "two small cyan squares moving left"]


@contextmanager
def live(service: Service, access: Access) -> Iterator[str]:
    """The service on a port of this machine."""
    server = uvicorn.Server(uvicorn.Config(create_app(service, access), log_config=None))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        service.close()


@pytest.fixture(scope="module")
def parts(tiny_models) -> Iterator[str]:
    """A server of both parts with a token, in fp32, for small bodies."""
    limits = Limits(max_prompts=4, max_tensors=2 << 20, max_pixels=34 * 32 * 32, max_videos=1)
    text, vae = TextPart.open(tiny_models, "cpu"), VAEPart.open(tiny_models, "cpu", "fp32", limits)
    with live(Service(Worker(4), limits, text=text, vae=vae), Access(token=TOKEN)) as url:
        yield url


@pytest.fixture(scope="module")
def home(tiny_models) -> Pipeline:
    return Pipeline.load(tiny_models, tiny_models, tiny_models, "cpu", "fp32")


def test_text_features_are_those_of_the_encoders(parts, tiny_models):
    ours = load_text_encoders(tiny_models, torch.device("cpu")).encode(PROMPTS)
    theirs = RemoteTextEncoders(parts, TOKEN).encode(PROMPTS)
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name])


def test_the_vae_codes_as_at_home(parts, home):
    ours, theirs = home.vae.module, RemoteVAE(parts, TOKEN)
    assert theirs.cfg == ours.cfg and theirs.num_latents(34) == 6
    video = torch.rand(1, 34, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(theirs.encode_moments(video), ours.encode_moments(video))
    drawn = [vae.encode(video, torch.Generator().manual_seed(3)) for vae in (ours, theirs)]
    assert torch.equal(*drawn)
    latents = ours.encode(video, sample=False)
    assert torch.equal(theirs.encode(video, sample=False), latents)
    for mix in (True, False):
        assert torch.equal(theirs.decode(latents, mix), ours.decode(latents, mix))


def test_a_pipeline_with_served_parts_makes_the_same_video(parts, tiny_models, tmp_path, monkeypatch):
    """The released design: the machine of the transformer has neither text encoders nor VAE."""
    monkeypatch.setenv("STEPVIDEO_TOKEN", TOKEN)
    shutil.copytree(tiny_models / "transformer", tmp_path / "transformer")
    shutil.copy(tiny_models / "sampling.json", tmp_path)
    options = {"device": "cpu", "precision": "fp32"}
    here = StepVideoPipeline.from_pretrained(tiny_models, **options)
    there = StepVideoPipeline.from_pretrained(tmp_path, vae=parts, text=parts, **options)
    first, second = (pipe(PROMPTS[0], seed=5).frames[0] for pipe in (here, there))
    assert np.array_equal(first, second)


class Bomb:
    """Unpickled anywhere, it leaves a folder behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def bodies(mark: Path) -> dict[str, bytes]:
    good = pack({"latents": torch.zeros(1, 3, 4, 2, 2)})
    return {
        "nothing": b"",
        "garbage": b"\x93NUMPY" * 50,
        "pickle": pickle.dumps(Bomb(mark)),
        "cut": good[:-7],
        "a header that lies": (2**62).to_bytes(8, "little") + good[8:],
        "other names": pack({"samples": torch.zeros(1, 3, 4, 2, 2)}),
        "a tensor too many": pack({"latents": torch.zeros(1, 3, 4, 2, 2), "more": torch.zeros(1)}),
        "whole numbers": pack({"latents": torch.zeros(1, 3, 4, 2, 2, dtype=torch.int64)}),
        "other channels": pack({"latents": torch.zeros(1, 3, 5, 2, 2)}),
        "four dimensions": pack({"latents": torch.zeros(3, 4, 2, 2)}),
        "no frames": pack({"latents": torch.zeros(1, 0, 4, 2, 2)}),
        "more than it codes": pack({"latents": torch.zeros(1, 30, 4, 2, 2)}),
    }


@pytest.mark.parametrize("name", list(bodies(Path())))
def test_garbage_is_refused_and_never_unpickled(parts, tmp_path, name):
    mark = tmp_path / "unpickled"
    connection = Connection(parts, TOKEN)
    with pytest.raises(StepVideoError, match=r"\(422\)"):
        connection.bytes("POST", "/v1/vae-decode", bodies(mark)[name], MEDIA_TYPE)
    assert not mark.exists()
    assert set(
        unpack(connection.bytes("POST", "/v1/vae-decode", pack({"latents": torch.zeros(1, 3, 4, 2, 2)})), "video")
    )


def test_the_servers_reason_reaches_the_client(parts):
    text, vae = RemoteTextEncoders(parts, TOKEN), RemoteVAE(parts, TOKEN)
    with pytest.raises(StepVideoError, match="5 prompts; this server encodes at most 4"):
        text.encode(["x"] * 5)
    with pytest.raises(StepVideoError, match=r"8 frames cannot be coded.*nearest"):
        vae.encode_moments(torch.zeros(1, 8, 3, 32, 32))
    with pytest.raises(StepVideoError, match="must be multiples of 16"):
        vae.encode_moments(torch.zeros(1, 17, 3, 30, 32))
    with pytest.raises(StepVideoError, match=r"larger than 2097152 bytes.*413"):
        vae.encode_moments(torch.zeros(1, 17, 3, 128, 128))
    with pytest.raises(StepVideoError, match=r"413|hung up on a body of [0-9]+ bytes.*limits"):
        vae.encode_moments(torch.zeros(1, 17, 3, 1024, 1024))
    with pytest.raises(StepVideoError, match=r"a token is needed.*401"):
        RemoteVAE(parts, "wrong").num_latents(17)
    with pytest.raises(StepVideoError, match="404"):
        Client(parts, TOKEN).submit("this server makes no videos")


def test_a_missing_server_and_a_silent_one():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(StepVideoError, match="no answer within 0.2 s"):
            RemoteTextEncoders(url, timeout_s=0.2).encode(["x"])
    with pytest.raises(StepVideoError, match="is `stepvideo serve` running there"):
        RemoteTextEncoders(url).encode(["x"])
    with pytest.raises(StepVideoError, match="no address of a server"):
        Client("127.0.0.1:8000")
    with pytest.raises(StepVideoError, match="Invalid IPv6 URL"):
        Client("http://[").model()
    with pytest.raises(StepVideoError, match="Invalid header value"):
        Client(url).submit("x", key="a\r\nb")
    with pytest.raises(StepVideoError, match="other than ASCII") as error:
        Client(url, token="secret\nsecret")
    assert "secret" not in str(error.value)


def test_a_redirect_does_not_carry_the_token_away(parts):
    class Redirect(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"{parts}/v1/model")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Redirect) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(StepVideoError, match="302"):
            Client(f"http://127.0.0.1:{server.server_port}", TOKEN).model()
        server.shutdown()


def test_tensors_travel_in_every_type():
    tensors = {
        d: torch.arange(6).reshape(2, 3).to(getattr(torch, d)).T for d in ("float32", "bfloat16", "float16", "int64")
    }
    back = unpack(pack(tensors), *tensors)
    assert all(torch.equal(back[n], t) and back[n].dtype == t.dtype for n, t in tensors.items())
    assert safetensors.torch.load(pack({"x": torch.zeros(2, requires_grad=True)}))["x"].shape == (2,)


def test_image_to_video_through_the_pipeline(tiny_models, tmp_path):
    """The uploaded picture decides the video, whatever its size; a model that takes none says so."""
    model = tmp_path / "ti2v"
    shutil.copytree(tiny_models, model)
    dit = DiT(replace(checkpoints.dit_config(tiny_models), use_additional_conditions=True))
    dit.init_weights(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(dit.proj_out.weight, 0, 0.3, generator=torch.Generator().manual_seed(1))
    shutil.rmtree(model / "transformer")
    checkpoints.save_dit(dit, model)
    Sampling(17, 32, 32, steps=2, cfg=1.0).write(model)

    def picture(colour: str) -> str:
        Image.new("RGBA", (50, 20), colour).save(out := io.BytesIO(), "png")
        return base64.b64encode(out.getvalue()).decode()

    for folder, takes in ((model, True), (tiny_models, False)):
        engine = PipelineEngine(StepVideoPipeline.from_pretrained(folder, device="cpu"), {"model": "tiny"})
        assert engine.describe()["image_to_video"] is takes
        worker, limits = Worker(4), Limits()
        videos = Videos(engine, History(tmp_path / f"served-{takes}"), worker, limits)
        with live(Service(worker, limits, videos), Access()) as url:
            client = Client(url)
            if not takes:
                with pytest.raises(StepVideoError, match="give no image"):
                    client.submit(PROMPTS[0], image=picture("red"))
                continue
            with pytest.raises(StepVideoError, match="give an image"):
                client.submit(PROMPTS[0])
            red, blue, calm = (
                client.generate(PROMPTS[0], image=picture(c), motion_score=m)[0]
                for c, m in (("red", 5.0), ("blue", 5.0), ("red", 0.0))
            )
            assert red != blue and red != calm
            newest = client.history(1)[0]
            assert newest["settings"][0]["motion_score"] == 0 and len(newest["settings"][0]["image"]) == 16
