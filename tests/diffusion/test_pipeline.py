"""The pipeline: noise per sample, batches, evaluations counted, latent statistics, errors."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from stepvideo.diffusion.latent_stats import LatentStats
from stepvideo.diffusion.noise import noise
from stepvideo.diffusion.pipeline import Pipeline, best_device
from stepvideo.diffusion.sampling import Sampling
from stepvideo.errors import ArtifactError, ConfigError, StepVideoError

PROMPTS = ["一个红色的大圆向右移动", "a small blue square moves up", "two large green triangles move left"]


@pytest.fixture(scope="module")
def pipe(tiny_models) -> Pipeline:
    return Pipeline.load(tiny_models, tiny_models, tiny_models, device="cpu", precision="fp32")


def test_defaults_come_with_the_model(pipe):
    assert pipe.defaults == Sampling(17, 32, 32, 4, 3.0, 2.0)
    assert pipe.latent_shape(pipe.defaults) == (3, 4, 2, 2)
    done = pipe.sample(PROMPTS)
    assert done.latents.shape == (3, 3, 4, 2, 2) and done.latents.dtype == torch.float32
    video = pipe.decode(done.latents)
    assert video.shape == (3, 17, 32, 32, 3) and video.dtype == np.uint8
    assert video.std() > 0


def test_a_sample_does_not_depend_on_its_batch(pipe):
    prompts = PROMPTS * 3
    whole = pipe.sample(prompts, seed=5, batch_size=32).latents
    for size in (1, 2, 4):
        torch.testing.assert_close(pipe.sample(prompts, seed=5, batch_size=size).latents, whole, atol=2e-5, rtol=1e-4)
    alone = pipe.sample(prompts[7:8], seed=5, indices=[7]).latents
    torch.testing.assert_close(alone, whole[7:8], atol=2e-5, rtol=1e-4)
    a, b = pipe.decode(whole, batch_size=2), pipe.decode(whole, batch_size=9)
    assert np.abs(a.astype(int) - b).max() <= 1


def test_noise_is_normal_and_different_for_every_sample_and_seed(pipe):
    big = Sampling(17 * 4, 128, 128)
    noise = pipe.noise(big, 0, range(4))
    assert torch.equal(noise, pipe.noise(big, 0, range(4)))
    assert abs(float(noise.mean())) < 0.02 and abs(float(noise.std()) - 1) < 0.02
    flat = torch.cat([noise, pipe.noise(big, 1, range(4))]).flatten(1)
    correlation = torch.corrcoef(flat) - torch.eye(8)
    assert float(correlation.abs().max()) < 0.1


def test_prompt_seed_and_guidance_change_the_sample(pipe):
    base = pipe.sample(PROMPTS[:1], seed=1).latents
    assert torch.equal(base, pipe.sample(PROMPTS[:1], seed=1).latents)
    for other in (
        pipe.sample(PROMPTS[1:2], seed=1),
        pipe.sample(PROMPTS[:1], seed=2),
        pipe.sample(PROMPTS[:1], seed=1, cfg=5.0),
        pipe.sample(PROMPTS[:1], seed=1, negative=PROMPTS[1]),
        pipe.sample(PROMPTS[:1], seed=1, time_shift=5.0),
    ):
        assert not torch.allclose(base, other.latents, atol=1e-4)


def test_given_noise_is_used(pipe):
    noise = pipe.noise(pipe.defaults, 9, [4])
    a, b = pipe.sample(PROMPTS[:1], noise=noise), pipe.sample(PROMPTS[:1], seed=9, indices=[4])
    assert torch.equal(a.latents, b.latents)
    with pytest.raises(StepVideoError, match=r"noise is \[2, 3"):
        pipe.sample(PROMPTS[:1], noise=torch.cat([noise, noise]))


@pytest.mark.parametrize(
    ("overrides", "nfe"),
    [
        ({}, 8),
        ({"cfg": 1.0}, 4),
        ({"steps": 10, "cfg": 5.0, "time_shift": 17.0, "cfg_schedule": "diminishing"}, 17),
        ({"steps": 8, "cfg": 5.0, "time_shift": 17.0, "cfg_schedule": "diminishing"}, 14),
    ],
)
def test_evaluations_are_counted(pipe, overrides, nfe):
    """17 at 10 steps and 14 at 8: notes/eval.md §0.6. The count is also that of the network's calls."""
    calls = []
    hook = pipe.dit.module.register_forward_hook(lambda _m, _a, kw, out: calls.append(len(out)), with_kwargs=True)
    done = pipe.sample(PROMPTS, **overrides)
    hook.remove()
    assert done.nfe == nfe
    assert sum(calls) == nfe * len(PROMPTS)


def test_latent_statistics_are_undone_before_decoding(pipe, tiny_models):
    assert pipe.stats.std_z.tolist() == [0.5, 1, 1, 2]
    z = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pipe.stats.normalise(pipe.stats.denormalise(z)), z)
    raw = pipe.vae.module.decode(pipe.stats.denormalise(z)).clamp(-1, 1)
    expected = ((raw + 1) * 127.5).round().permute(0, 1, 3, 4, 2).numpy()
    assert np.array_equal(pipe.decode(z), expected.astype(np.uint8))
    identity = LatentStats.read(tiny_models / "nowhere", 4)
    assert torch.equal(identity.denormalise(z), z)


def test_reconstruction_goes_through_the_vae(pipe):
    video = np.random.default_rng(0).integers(0, 256, (3, 17, 32, 32, 3), dtype=np.uint8)
    out = pipe.reconstruct(video, batch_size=2)
    x = torch.from_numpy(video[2:]).permute(0, 1, 4, 2, 3).float() / 127.5 - 1
    expected = pipe.vae.module.decode(pipe.vae.module.encode(x, sample=False)).clamp(-1, 1)
    assert np.abs(out[2].astype(float) - ((expected[0] + 1) * 127.5).permute(0, 2, 3, 1).numpy()).max() <= 0.51


def test_words_outside_the_vocabulary_are_named(pipe):
    for prompt, word in (("a red circle moves 5 px", "5"), ("一个红色的龙", "龙"), ("a red circle 🙂", "🙂")):
        with pytest.raises(StepVideoError, match=f"no token for '{word}' in the prompt '{prompt}'"):
            pipe.sample([prompt])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"height": 40}, "height=40 must be a multiple of 16; nearest: 32 or 48"),
        ({"frames": 6}, "frames=6"),
        ({"steps": -1}, "steps=-1"),
        ({"cfg_schedule": "cosine"}, "cfg_schedule='cosine': choose one of constant, diminishing"),
        ({"step": 4}, "sampling has no step"),
    ],
)
def test_impossible_requests_name_the_fix(pipe, overrides, message):
    with pytest.raises(StepVideoError, match=message):
        pipe.sample(PROMPTS, **overrides)


def test_models_that_do_not_fit_are_refused(tiny_models, tmp_path):
    with pytest.raises(ArtifactError, match="transformer/config.json is missing"):
        Pipeline.load(tmp_path, tiny_models, tiny_models)
    other = shutil.copytree(tiny_models, tmp_path / "other")
    stats = other / "transformer" / "latent_stats.json"
    for bad in ({"mean": [0.0] * 3, "std": [1.0] * 4}, {"mean": [0.0] * 4, "std": [0.0] * 4}, {"mean": [0.0] * 4}):
        stats.write_text(json.dumps(bad))
        with pytest.raises(ArtifactError, match="latent_stats.json"):
            Pipeline.load(other, tiny_models, tiny_models)
    stats.unlink()
    (other / "sampling.json").write_text('{"steps": 0.5}')
    with pytest.raises(ArtifactError, match="sampling.json: steps=0.5"):
        Pipeline.load(other, tiny_models, tiny_models)
    with pytest.raises(StepVideoError, match="precision='fp8'"):
        Pipeline.load(tiny_models, tiny_models, tiny_models, precision="fp8")


def test_sampling_defaults_are_the_released_ones():
    s = Sampling()
    assert (s.frames, s.height, s.width, s.steps, s.cfg, s.time_shift) == (204, 544, 992, 50, 9.0, 13.0)
    assert s.with_({"steps": 10.0, "cfg": None}).steps == 10
    with pytest.raises(ConfigError, match="time_shift"):
        s.with_({"time_shift": -1})


def test_noise_of_large_and_negative_seeds_is_its_own():
    pairs = [(0, 0), (0, 1), (1, 0), (2**32, 0), (2**32, 1), (2**40, 0), (-1, 0), (-1, 1), (5, -1), (2**32 - 1, 0)]
    drawn = {tuple(noise([4], seed, [index])[0].tolist()) for seed, index in pairs}
    assert len(drawn) == len(pairs)


def test_devices_that_are_not_here():
    assert best_device("cpu") == torch.device("cpu")
    for name, message in (("foo", "choose auto, cpu, cuda"), ("cuda:99", "torch sees . CUDA devices")):
        with pytest.raises(StepVideoError, match=message):
            best_device(name)


@pytest.mark.parametrize("values", [{"frames": "x"}, {"cfg": "3"}, {"steps": float("nan")}, {"time_shift": 1e39}])
def test_impossible_defaults_name_their_file(tmp_path, values):
    (tmp_path / "sampling.json").write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match=f"sampling.json: {next(iter(values))}="):
        Sampling.read(tmp_path)
