"""`StepVideoPipeline`: diffusers-like calls, image-to-video, sizes, guidance, seeds, placement."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stepvideo.data.video_io import write_image
from stepvideo.diffusion.component import Component
from stepvideo.diffusion.noise import generator
from stepvideo.diffusion.sampling import Sampling
from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.inference.generate import generate
from stepvideo.inference.pipeline import StepVideoPipeline, open_image
from stepvideo.inference.requests import Request
from stepvideo.models import checkpoints
from stepvideo.models.config import DiTConfig
from stepvideo.models.dit import DiT
from stepvideo.models.video_vae import DiagonalGaussian

PROMPT = "一个红色的大圆向右移动"
SMALL = {"num_inference_steps": 2}


@pytest.fixture(scope="module")
def pipe(tiny_models) -> StepVideoPipeline:
    return StepVideoPipeline.from_pretrained(tiny_models, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def image_model(tiny_models, tmp_path_factory) -> Path:
    """The tiny model with an image-to-video transformer, whose motion score matters."""
    root = tmp_path_factory.mktemp("image_model") / "model"
    shutil.copytree(tiny_models, root)
    shutil.rmtree(root / "transformer")
    dit = DiT(DiTConfig(2, 16, 2, 4, 4, caption_channels=[16, 16], use_additional_conditions=True))
    draw = torch.Generator().manual_seed(0)
    dit.init_weights(draw)
    with torch.no_grad():
        for p in dit.parameters():
            if not p.any():
                p.normal_(0, 0.3, generator=draw)
    checkpoints.save_dit(dit, root)
    (root / "sampling.json").unlink()
    return root


@pytest.fixture(scope="module")
def image_pipe(image_model) -> StepVideoPipeline:
    return StepVideoPipeline.from_pretrained(image_model, device="cpu", precision="fp32")


def test_called_like_a_diffusers_pipeline(pipe):
    steps: list[tuple[int, int]] = []
    out = pipe(
        [PROMPT, "a small blue square moves up"],
        num_videos_per_prompt=2,
        num_inference_steps=3,
        seed=7,
        callback_on_step_end=lambda *s: steps.append(s),
    )
    assert [v.shape for v in out.frames] == [(17, 32, 32, 3)] * 4 and out.frames[0].dtype == np.uint8
    assert [(s.prompt, s.seed) for s in out.settings] == [
        (p, s) for p in (PROMPT, "a small blue square moves up") for s in (7, 8)
    ]
    assert steps == [(i, 12) for i in range(1, 13)] and out.nfe == 6 and out.notices == []
    alone = pipe("a small blue square moves up", num_inference_steps=3, seed=8)
    assert np.array_equal(alone.frames[0], out.frames[3])
    together = pipe([PROMPT] * 2, num_inference_steps=3, seed=7, batch_size=2, output_type="latent")
    one = pipe(PROMPT, num_inference_steps=3, seed=7, output_type="latent")
    torch.testing.assert_close(together.frames[1], one.frames[0], atol=2e-5, rtol=1e-4)


def test_output_types(pipe):
    np_, pt, latent = (pipe(PROMPT, **SMALL, output_type=kind).frames[0] for kind in ("np", "pt", "latent"))
    assert pt.shape == (17, 3, 32, 32) and latent.shape == (3, 4, 2, 2)
    assert np.array_equal((pt * 255).round().byte().permute(0, 2, 3, 1).numpy(), np_)
    with pytest.raises(StepVideoError, match="output_type='pil'"):
        pipe(PROMPT, **SMALL, output_type="pil")


def test_sizes_are_floored_with_a_notice_and_never_cropped(pipe):
    out = pipe(PROMPT, num_frames=40, height=79, width=40, **SMALL)
    assert out.frames[0].shape == (34, 64, 32, 3)
    assert out.notices == ["height=79 becomes 64", "width=40 becomes 32", "frames=40 becomes 34"]
    assert pipe(PROMPT, num_frames=16, **SMALL).frames[0].shape[0] == 1


def test_guidance_at_and_below_one(pipe):
    def run(scale: float) -> tuple[torch.Tensor, int]:
        out = pipe(PROMPT, num_inference_steps=1, guidance_scale=scale, output_type="latent")
        return out.frames[0], out.nfe

    (one, nfe), (zero, _), (half, _), (three, _) = (run(s) for s in (1.0, 0.0, 0.5, 3.0))
    assert nfe == 1
    noise = pipe.engine.noise(pipe.engine.defaults, 0, [0])[0]
    v_cond, v_uncond = one - noise, zero - noise  # of a single step of size 1
    assert (v_cond - v_uncond).abs().max() > 1e-3
    for out, scale in ((half, 0.5), (three, 3.0)):
        torch.testing.assert_close(out - noise, v_uncond + scale * (v_cond - v_uncond), atol=1e-5, rtol=1e-4)


def test_suffix_and_negative_prompt(pipe):
    whole = pipe("a small blue square moves up", **SMALL, output_type="latent").frames[0]
    split = pipe("a small blue", positive_suffix=" square moves up", **SMALL, output_type="latent").frames[0]
    assert torch.equal(whole, split)
    other = pipe("a small blue square moves up", negative_prompt=PROMPT, **SMALL, output_type="latent").frames[0]
    assert not torch.equal(whole, other)


def test_features_made_before(pipe, monkeypatch):
    features = pipe.encode([PROMPT, "a red circle", ""])
    expected = pipe(PROMPT, **SMALL, output_type="latent").frames[0]
    monkeypatch.setattr(pipe.engine, "encode_prompts", None)
    out = pipe(PROMPT, prompt_embeds=features, **SMALL, output_type="latent").frames[0]
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=1e-4)
    with pytest.raises(StepVideoError, match="no text features of 'a blue circle'"):
        pipe("a blue circle", prompt_embeds=features, **SMALL)


def test_an_empty_prompt_is_answered_with_a_notice(pipe):
    assert pipe("", **SMALL).notices == ["an empty prompt: the video will be of anything"]


def test_image_to_video(image_pipe):
    assert image_pipe.image_to_video
    assert image_pipe.engine.defaults == Sampling(frames=102)
    picture = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    run = {"height": 32, "width": 32, "num_frames": 34, **SMALL, "output_type": "latent"}
    base = image_pipe(PROMPT, image=picture, **run)
    assert base.settings[0].motion_score == 5.0 and len(base.settings[0].image) == 16
    assert torch.equal(base.frames[0], image_pipe(PROMPT, image=picture, **run).frames[0])
    for change in ({"image": 255 - picture}, {"motion_score": 20.0}, {"seed": 1}):
        other = image_pipe(PROMPT, **({"image": picture} | run | change))
        assert not torch.allclose(base.frames[0], other.frames[0], atol=1e-4), change
    assert image_pipe(PROMPT, image=picture, **(run | {"output_type": "np"})).frames[0].shape == (34, 32, 32, 3)


@torch.no_grad()
def test_the_condition_is_the_images_posterior_sample(image_pipe):
    engine = image_pipe.engine
    sampling = replace(Sampling(), frames=17, height=32, width=48)
    picture = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    latent = engine.encode_image(picture, sampling, seed=3)
    x = torch.from_numpy(picture).permute(2, 0, 1)[None, None].float() / 127.5 - 1
    posterior = DiagonalGaussian(engine.vae.module.encode_moments(x))
    torch.testing.assert_close(latent, posterior.sample(generator(3, -1))[0, 0])
    assert not torch.equal(latent, engine.encode_image(picture, sampling, seed=4))


def test_an_image_only_where_it_belongs(pipe, image_pipe):
    with pytest.raises(StepVideoError, match="text-to-video model: give no image"):
        pipe(PROMPT, image=np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(StepVideoError, match="image-to-video model: give an image"):
        image_pipe(PROMPT)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "YCbCr"])
@pytest.mark.parametrize("size", [(1, 1), (3, 700), (640, 481)])
def test_images_of_any_mode_and_size(tmp_path, mode, size):
    from PIL import Image

    image = Image.new(mode, size) if mode == "I;16" else Image.new("RGB", size, (200, 30, 60)).convert(mode)
    suffix = {"CMYK": "tif", "YCbCr": "jpg"}.get(mode, "png")
    image.save(tmp_path / f"a.{suffix}")
    array = open_image(tmp_path / f"a.{suffix}")
    assert array.shape == (size[1], size[0], 3) and array.dtype == np.uint8
    if mode in ("RGB", "RGBA", "P"):
        assert np.abs(array[0, 0].astype(int) - (200, 30, 60)).max() < 25  # a web palette
    if mode != "I;16":
        assert open_image(image).shape == array.shape


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (-1, -1)), (6, (0, -1)), (8, (-1, 0))])
def test_images_are_turned_upright(tmp_path, orientation, corner):
    from PIL import Image

    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:10, :10] = 255  # top left as stored
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    with Image.open(tmp_path / "a.jpg") as opened:
        for array in (open_image(tmp_path / "a.jpg"), open_image(opened)):
            assert array.shape[:2] == ((60, 40) if orientation > 4 else (40, 60))
            assert array[corner].min() > 200
            assert array[tuple(-1 - c for c in corner)].max() < 50


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_what_is_no_image_is_named(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ArtifactError, match="a.png is not an image"):
        open_image(tmp_path / "a.png")
    with pytest.raises(ArtifactError, match="missing.png cannot be read"):
        open_image(tmp_path / "missing.png")
    with pytest.raises(StepVideoError, match=r"uint8 \[H, W, 3\]"):
        open_image(np.zeros((4, 4), np.uint8))


class Loads:
    """Counts loads and remembers where the network went."""

    def __init__(self) -> None:
        self.loads, self.moves = 0, []

    def __call__(self, device: torch.device) -> Loads:
        self.loads += 1
        self.moves.append(f"load {device}")
        return self

    def to(self, device: torch.device) -> None:
        self.moves.append(f"to {device}")


@pytest.mark.parametrize(
    ("rest", "moves"),
    [
        ("device", ["load meta"]),
        ("host", ["load cpu", "to meta", "to cpu", "to meta", "to cpu"]),
        ("nowhere", ["load meta", "load meta"]),
    ],
)
def test_where_a_component_waits(rest, moves):
    network = Loads()
    component = Component(None, network, torch.device("meta"), rest)
    assert network.loads == 0
    for _ in range(2):
        with component.use() as a, component.use() as b:
            assert a is b is network
    assert network.moves == moves


def test_the_image_is_never_overwritten(image_pipe, tmp_path):
    path = tmp_path / "a.png"
    write_image(path, np.zeros((8, 8, 3), np.uint8))
    before = path.read_bytes()
    request = Request(PROMPT, tmp_path / "a.mp4", image=str(path), options={"height": 32, "width": 32})
    with pytest.raises(StepVideoError, match="the image .*a.png would be overwritten"):
        generate(image_pipe, [request], preview="png", overwrite=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_motion_scores_are_numbers(image_pipe, score):
    with pytest.raises(StepVideoError, match="motion_score=.*: give a finite number"):
        image_pipe(PROMPT, image=np.zeros((8, 8, 3), np.uint8), motion_score=score)


def test_a_result_that_is_no_number_is_an_error(pipe, monkeypatch):
    """Rather than a black video."""
    shape = pipe.engine.latent_shape(pipe.engine.defaults)
    with pytest.raises(StepVideoError, match="not a finite number"):
        pipe(PROMPT, **SMALL, latents=torch.full((1, *shape), torch.nan))


def test_a_cut_negative_prompt_is_noticed(pipe):
    long = "a red circle " * 100
    assert any("too long" in notice for notice in pipe(PROMPT, **SMALL, negative_prompt=long).notices)
    assert pipe(PROMPT, **SMALL, negative_prompt=long, guidance_scale=1.0).notices == []


def test_presets_of_the_released_models(tiny_models):
    turbo = StepVideoPipeline.from_pretrained(tiny_models, device="cpu", preset="turbo").engine.defaults
    assert (turbo.steps, turbo.cfg, turbo.time_shift, turbo.frames) == (10, 5.0, 17.0, 204)
    with pytest.raises(StepVideoError, match="preset='pro': choose one of t2v, ti2v, turbo"):
        StepVideoPipeline.from_pretrained(tiny_models, preset="pro")


def test_nothing_is_read_before_it_is_needed(tiny_models):
    pipe = StepVideoPipeline.from_pretrained(tiny_models, device="cpu")
    assert pipe.engine.dit._held is None
    pipe.encode([PROMPT])
    assert pipe.engine.dit._held is None and pipe.engine.text._held is not None


ANY_TEXT = [
    "",
    " \n",
    "红色的circle向右移动🙂",
    "a red circle " * 800,
    "红" * 10_000,
    "\x00\u202e\ud800 end",
    "ﷺ e\u0301",
]


@pytest.mark.parametrize("text", ANY_TEXT, ids=range(len(ANY_TEXT)))
def test_a_released_vocabulary_takes_any_text(tiny_models, tmp_path, text):
    """Without our `text_lengths.json` a vocabulary counts as released: what it cannot spell is replaced, and said."""
    root = shutil.copytree(tiny_models, tmp_path / "released")
    (root / "text_lengths.json").unlink()
    pipe = StepVideoPipeline.from_pretrained(root, device="cpu", precision="fp32")
    out = pipe(text, **SMALL, negative_prompt=text)
    assert out.frames[0].shape == (17, 32, 32, 3)
    expected = "an empty prompt" if not text.strip() else "too long" if len(text) > 9_000 else "has no token"
    assert any(expected in notice for notice in out.notices), out.notices
