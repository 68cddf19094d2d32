"""What all tests share: no telemetry, no writes outside the checkout, GPU tests skipped where there is no GPU."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from rank_pool import RankPool
    from s3_server import S3Server

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes share two cores; also makes sums reproducible
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where there are several threads: they wait without a core
os.environ.setdefault("MPLBACKEND", "Agg")
for name in ("DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY", "DVC_NO_ANALYTICS"):
    os.environ.setdefault(name, "true")  # MLflow takes only this spelling
for name in ("PREFECT_SERVER_ANALYTICS_ENABLED", "GX_ANALYTICS_ENABLED"):
    os.environ.setdefault(name, "false")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job: what the tests start would ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("busy", deadline=None)  # a machine with other work has no deadlines
settings.load_profile("busy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = _places(items)
    items.sort(key=lambda item: place[item.path])
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    if not wanting:
        return
    import torch

    if not torch.cuda.is_available():
        for item in wanting:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; torch sees none"))


def _places(items: list[pytest.Item]) -> dict[Path, tuple[bool, float]]:
    """Files with slow tests first, as a file that begins last ends last. Folders are spread evenly, as the tests of one
    folder want the same: some a core, others an answer of a server, for which they wait side by side."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    groups: dict[tuple[bool, Path], list[Path]] = {}
    for path in dict.fromkeys(item.path for item in items):
        groups.setdefault((path not in slow, path.parent), []).append(path)
    return {path: (late, i / len(g)) for (late, _), g in groups.items() for i, path in enumerate(g)}


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """What a test does to the environment ends with it: commands that run in this process set defaults in theirs."""
    before = dict(os.environ)
    yield
    for name in {*before, *os.environ} - {"PYTEST_CURRENT_TEST"}:
        if name in before:
            os.environ[name] = before[name]
        else:
            del os.environ[name]


@pytest.fixture(scope="session")
def ranks() -> RankPool:
    from rank_pool import shared

    return shared()


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model of random weights in the released layout: 32×32 pixels, 17 frames, one folder, a few hundred kB."""
    import torch

    from stepvideo import storage
    from stepvideo.diffusion.sampling import Sampling
    from stepvideo.models import checkpoints
    from stepvideo.models.clip import CLIPTextEncoder
    from stepvideo.models.config import CLIPTextConfig, DiTConfig, StepLLMConfig, VAEConfig
    from stepvideo.models.dit import DiT
    from stepvideo.models.step_llm import StepLLM
    from stepvideo.models.text_encoders import TextEncoders, save_text_encoders
    from stepvideo.models.tokenizers import CLIPTokenizer, LLMTokenizer
    from stepvideo.models.video_vae import VideoVAE
    from stepvideo.world.attributes import all_combinations
    from stepvideo.world.captions import prompts

    root = tmp_path_factory.mktemp("tiny_models")
    draw = torch.Generator().manual_seed(0)
    texts = [p.text for p in prompts(all_combinations(), 600, 0)]
    llm_tokenizer, clip_tokenizer = LLMTokenizer.train(texts, 300, 40), CLIPTokenizer.train(texts, 300, 40)
    llm = StepLLM(StepLLMConfig(16, 1, 2, 1, 32, padded_vocab_size=llm_tokenizer.vocab_size))
    clip = CLIPTextEncoder(CLIPTextConfig(clip_tokenizer.vocab_size, 16, 1, 2, 32, 80))
    dit = DiT(DiTConfig(2, 16, 2, 4, 4, caption_channels=[16, 16]))
    for model in (llm, clip, dit):
        model.init_weights(draw)
    with torch.no_grad():  # as for training the output would be zero, whatever the prompt
        dit.proj_out.weight.normal_(0, 0.3, generator=draw)
        for block in dit.transformer_blocks:
            block.attn2.wo.weight.normal_(0, 0.3, generator=draw)
    torch.manual_seed(1)  # of other seeds the oracle reads something in what the VAE shows
    ones = [1, 1, 1, 1]
    widths = {"enc_ch": 8, "enc_ch_mult": ones, "dec_ch": 8, "dec_ch_mult": ones, "num_groups": 4}
    vae = VideoVAE(VAEConfig(z_channels=4, num_res_blocks=1, **widths))
    save_text_encoders(TextEncoders(llm, llm_tokenizer, clip, clip_tokenizer), root)
    storage.write_json(root / "text_lengths.json", {"llm_length": 40, "clip_length": 40})
    checkpoints.save_dit(dit, root)
    checkpoints.save_vae(vae, root)
    checkpoints.save_scheduler(root)
    storage.write_json(root / "transformer" / "latent_stats.json", {"mean": [0.1] * 4, "std": [0.5, 1, 1, 2]})
    Sampling(17, 32, 32, steps=4, cfg=3.0, time_shift=2.0).write(root)
    return root


@pytest.fixture(scope="session")
def browser() -> type:
    """The `Browser` class of browser.py; skips where there is no Chromium."""
    pytest.importorskip("websockets", reason="no websockets package to drive a browser with")
    spec = importlib.util.spec_from_file_location("browser", Path(__file__).with_name("browser.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not module.program():
        pytest.skip("no Chromium here: apt-get install chromium fonts-noto-cjk")
    return module.Browser


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    from s3_server import S3Server

    with S3Server() as running:
        yield running


@pytest.fixture
def s3_client(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """call(method, …) of the S3 server, which everything in this process and its children uses, without patience."""
    from s3_server import forget_clients

    from stepvideo import s3, storage

    for name, value in {**s3_server.environment, "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3, "PAUSE_S", 0.001)
    forget_clients()
    yield storage.filesystem("s3://any").call_s3
    forget_clients()
    s3_server.heal()
