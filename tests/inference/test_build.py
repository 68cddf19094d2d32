"""Memory options and ranks change how a video is made, not the video (or slightly, where they say so)."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from stepvideo.cli import main
from stepvideo.data.video_io import read_video
from stepvideo.errors import ConfigError, StepVideoError
from stepvideo.inference import build as build_module
from stepvideo.inference.build import build, choose_memory
from stepvideo.inference.memory.config import MemoryConfig
from stepvideo.inference.pipeline import StepVideoPipeline
from stepvideo.parallel.config import ParallelConfig

PROMPT = "一个红色的大圆向右移动"
RUN = {"num_frames": 34, "height": 32, "width": 48, "num_inference_steps": 2, "seed": 3}


def run(model, memory: MemoryConfig | None = None) -> tuple[StepVideoPipeline, torch.Tensor, np.ndarray]:
    pipe = StepVideoPipeline.from_pretrained(model, device="cpu", precision="fp32", memory=memory)
    latents = pipe(PROMPT, **RUN, output_type="latent").frames[0]
    return pipe, latents, pipe(PROMPT, **RUN).frames[0]


@pytest.fixture(scope="module")
def resident(tiny_models):
    return run(tiny_models)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"offload": "component"}, marks=pytest.mark.soak),
        pytest.param({"offload": "layer"}, marks=pytest.mark.soak),
        {"offload": "layer", "prefetch": 0, "text": "free"},
        pytest.param({"text": "free"}, marks=pytest.mark.soak),
        {"offload": "component", "text": "free"},
    ],
)
def test_offload_is_exact(tiny_models, resident, options):
    pipe, latents, video = run(tiny_models, MemoryConfig(**options))
    assert torch.equal(latents, resident[1]) and np.array_equal(video, resident[2])
    if options.get("text") == "free":
        assert pipe.engine.text._held is None
    twice = pipe(PROMPT, **RUN).frames[0]
    assert np.array_equal(twice, video)


def test_the_process_of_the_text_ends_with_its_pipeline(tiny_models, resident):
    pipe, latents, video = run(tiny_models, MemoryConfig(text="process"))
    assert torch.equal(latents, resident[1]) and np.array_equal(video, resident[2])
    process = pipe.engine.text.module.process
    assert process.pid != os.getpid() and process.poll() is None
    del pipe
    gc.collect()
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.returncode == 0


def test_guidance_in_turn(tiny_models, resident):
    pipe, latents, _ = run(tiny_models, MemoryConfig(cfg_batched=False))
    sizes: list[int] = []
    hook = pipe.engine.dit.module.register_forward_hook(lambda _m, _a, out: sizes.append(len(out)))
    pipe(PROMPT, **RUN, output_type="latent")
    hook.remove()
    assert sizes == [1] * 4
    torch.testing.assert_close(latents, resident[1], atol=1e-5, rtol=1e-4)


def test_ranks_that_share_guidance_hold_a_half_each(tiny_models):
    """In turn, every rank would compute both."""
    ranks = SimpleNamespace(device=torch.device("cpu"), velocity=print, decode=print, load_dit=print)
    memory = MemoryConfig(cfg_batched=False)
    for degree, batched in ((2, True), (1, False)):
        ranks.config = ParallelConfig(cfg=degree)
        engine = build(tiny_models, tiny_models, tiny_models, "cpu", "fp32", memory, cast(Any, ranks))
        assert engine.batched_guidance is batched


@pytest.mark.parametrize("kind", ["int8", "fp8"])
@pytest.mark.parametrize(
    "offload",
    [pytest.param("none", marks=pytest.mark.soak), pytest.param("component", marks=pytest.mark.soak), "layer"],
)
def test_quantized_blocks_are_near(tiny_models, resident, kind, offload):
    pytest.importorskip("torchao", reason="torchao is not installed: pip install 'stepvideo[quant]'")
    pipe, latents, _ = run(tiny_models, MemoryConfig(quantization=kind, offload=offload))
    weight = pipe.engine.dit.module.transformer_blocks[0].attn1.wqkv.weight
    assert "torchao" in type(weight).__module__
    error = float((latents - resident[1]).norm() / resident[1].norm())
    assert 0 < error < 0.1


def test_tiles_are_near(tiny_models, resident):
    _, latents, video = run(tiny_models, MemoryConfig(vae_tile=32, vae_overlap=16))
    assert torch.equal(latents, resident[1]) and video.shape == resident[2].shape
    assert 0 < np.abs(video.astype(float) - resident[2]).mean() < 12


def test_options_that_exclude_each_other(tiny_models):
    class Ranks:
        config = ParallelConfig(tensor=2)

    with pytest.raises(ConfigError, match="quantized matrices cannot be divided"):
        build(tiny_models, tiny_models, tiny_models, "cpu", "fp32", MemoryConfig(quantization="int8"), Ranks())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gib", "offload"),
    [
        (80, "none"),
        (24, "layer"),
        (4, None),
    ],
)
def test_the_options_follow_the_card(tmp_path, monkeypatch, gib, offload):
    """For the released sizes; a card is imitated, as none is needed to choose."""
    from dataclasses import asdict, dataclass

    from stepvideo import storage
    from stepvideo.diffusion.sampling import Sampling
    from stepvideo.models.config import CLIPTextConfig, DiTConfig, StepLLMConfig

    @dataclass
    class Card:
        total_memory: int = gib * 2**30

    folders = {"transformer": DiTConfig(), "step_llm": StepLLMConfig()}
    folders["hunyuan_clip/clip_text_encoder"] = CLIPTextConfig()
    for name, cfg in folders.items():
        storage.write_json(tmp_path / name / "config.json", asdict(cfg))
    monkeypatch.setattr(build_module, "best_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Card())
    if offload is None:
        with pytest.raises(StepVideoError, match="this card has 4.0; choose fewer frames"):
            choose_memory(tmp_path, tmp_path, tmp_path, Sampling(), "auto", "bf16")
        return
    memory, notice = choose_memory(tmp_path, tmp_path, tmp_path, Sampling(), "auto", "bf16")
    assert memory.offload == offload and memory.exact
    assert memory.describe() in notice and "changes slightly" not in notice


@pytest.mark.slow
@pytest.mark.parametrize("nproc", [2, 3])
def test_ranks_make_the_same_video(tiny_models, tmp_path, nproc):
    """2 ranks share guidance's halves; 3 share tokens of a model of 2 heads, which cannot be."""
    model = ["--model", str(tiny_models), "--device", "cpu", "--precision", "fp32", "--frames", "34", "--steps", "2"]

    def arguments(name: str) -> list[str]:
        return ["generate", PROMPT, "--out", str(tmp_path / name), *model]

    command = [sys.executable, "-m", "stepvideo.cli", *arguments("several.mp4"), "--nproc", str(nproc)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if nproc == 3:
        assert done.returncode == 2 and "parallel.ulysses=3 exceeds the 2 heads that it divides" in done.stderr
        assert not list(tmp_path.iterdir())
        return
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("several.mp4: 34 frames") == 1
    assert main(arguments("one.mp4")) == 0
    several, one = (read_video(tmp_path / name).astype(int) for name in ("several.mp4", "one.mp4"))
    assert np.abs(several - one).mean() < 0.05 and one.std() > 1  # rounding, then h264
