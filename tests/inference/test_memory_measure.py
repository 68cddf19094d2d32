"""Predictions against what this library's own sampler, offload, quantization and decoding allocate, at released widths.

Everything runs on the meta device, which stands for the accelerator. Bar: 2 % a phase (asked for: 10 %).
"""

from __future__ import annotations

import pytest

from stepvideo.diffusion.sampling import Sampling
from stepvideo.emulator.memory import Job, Networks
from stepvideo.inference.memory.config import MemoryConfig
from stepvideo.inference.memory.measure import measure
from stepvideo.inference.memory.plan import predict
from stepvideo.models.config import CLIPTextConfig, DiTConfig, StepLLMConfig, VAEConfig

RELEASED = Networks(DiTConfig(), VAEConfig(), StepLLMConfig(), CLIPTextConfig())
# Every layer costs the same, in memory and in seconds of a test.
SHALLOW = Networks(DiTConfig(num_layers=8), VAEConfig(), StepLLMConfig(num_layers=8), CLIPTextConfig())
IMAGE_TO_VIDEO = Networks(DiTConfig(use_additional_conditions=True), VAEConfig())
ONE_STREAM = Networks(
    DiTConfig(8, 64, 4, 16, 16, caption_channels=[256]), VAEConfig(z_channels=16, enc_ch=8, dec_ch=16, num_groups=8)
)


def agree(nets: Networks, job: Job, options: MemoryConfig) -> None:
    measured = measure(nets, job, options)
    predicted = {p.name: p.weights + p.activations for p in predict(nets, job, options).phases}
    assert predicted == pytest.approx(measured, rel=0.02), options.describe()


@pytest.mark.soak
@pytest.mark.parametrize(
    "options",
    [
        {"offload": "component"},
        {"offload": "component", "quantization": "int8", "cfg_batched": False, "vae_tile": 512},
        {"offload": "component", "quantization": "fp8"},
        {"offload": "layer", "prefetch": 2, "vae_tile": 256},
        {"offload": "layer", "prefetch": 0, "quantization": "int8", "cfg_batched": False},
    ],
    ids=lambda o: MemoryConfig(**o).describe(),
)
def test_released_model_at_540p(options):
    agree(RELEASED, Job(Sampling(frames=34)), MemoryConfig(**options))


@pytest.mark.soak
def test_released_model_at_540p_and_204_frames():
    agree(RELEASED, Job(Sampling()), MemoryConfig(offload="component"))


def test_a_shallow_one_at_540p_layer_by_layer():
    options = MemoryConfig(offload="layer", prefetch=0, quantization="int8", cfg_batched=False)
    agree(SHALLOW, Job(Sampling(frames=34)), options)


def test_a_shallow_one_at_540p_and_204_frames():
    agree(SHALLOW, Job(Sampling()), MemoryConfig(offload="component"))


def test_image_to_video():
    agree(IMAGE_TO_VIDEO, Job(Sampling(frames=17, height=256, width=256), batch=2), MemoryConfig(offload="component"))


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_small_model(precision):
    agree(ONE_STREAM, Job(Sampling(frames=34, height=128, width=192), precision=precision), MemoryConfig())
    agree(ONE_STREAM, Job(Sampling(frames=17, height=128, width=192, cfg=1.0), 2, precision), MemoryConfig())
