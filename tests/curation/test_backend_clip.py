"""CLIP towers and the heads on them, with random weights in the released layouts, against reference networks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from clip_folders import HEAD_WIDTH, clip_frames, save_chinese_clip, save_clip
from safetensors.torch import save_file
from torch import nn

from stepvideo.curation.backends import Absent
from stepvideo.curation.backends.aesthetic import LAIONAesthetic
from stepvideo.curation.backends.clip_model import ReleasedTowers, released
from stepvideo.curation.backends.clip_pixels import Pixels
from stepvideo.curation.backends.embedding import ClipEmbedding
from stepvideo.curation.backends.nsfw import LAIONNSFW
from stepvideo.errors import ArtifactError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip():
    return clip_frames()


def reference(folder, clip):
    """Embeddings [S, E] by transformers' own processor and model."""
    from transformers import CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    pixels = CLIPImageProcessorPil.from_pretrained(folder)([f[..., ::-1] for f in clip.frames], return_tensors="pt")
    with torch.no_grad():
        found = CLIPModel.from_pretrained(folder).eval().get_image_features(**pixels).pooler_output
    return nn.functional.normalize(found, dim=-1)


@pytest.mark.parametrize("size", [(90, 160), (160, 91), (33, 33), (45, 32), (400, 300)])
@pytest.mark.parametrize(
    "said",
    [
        {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
        {"size": {"height": 32, "width": 40}, "do_center_crop": False, "resample": 2},
    ],
)
def test_pixels_are_those_of_transformers(tmp_path, size, said):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    expected = CLIPImageProcessorPil.from_pretrained(tmp_path)(frame[..., ::-1], return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(Pixels.of(tmp_path, 32)(frame), expected, atol=1e-6)


def test_old_and_missing_processor_files_say_the_same(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 32, "crop_size": 32, "do_resize": True}))
    assert Pixels.of(tmp_path, 99) == Pixels.of(tmp_path / "none", 32)


def test_frames_and_texts_are_those_of_transformers(folder, clip):
    from transformers import CLIPModel

    towers = ReleasedTowers(folder)
    frames = towers.frames(clip)
    np.testing.assert_allclose(frames, reference(folder, clip), atol=1e-6)
    texts = towers.texts(["a b", "b " * 200])
    tokens = towers.tokenizer(["a b"], return_tensors="pt")
    with torch.no_grad():
        expected = CLIPModel.from_pretrained(folder).eval().get_text_features(**tokens).pooler_output
    np.testing.assert_allclose(texts[:1], nn.functional.normalize(expected, dim=-1), atol=1e-6)
    assert towers.languages == ("en",)


def test_chinese_clip_has_the_same_two_towers(tmp_path, clip):
    from transformers import ChineseCLIPModel
    from transformers.models.chinese_clip.image_processing_pil_chinese_clip import ChineseCLIPImageProcessorPil

    towers = ReleasedTowers(save_chinese_clip(tmp_path))
    model = ChineseCLIPModel.from_pretrained(tmp_path).eval()
    pixels = ChineseCLIPImageProcessorPil.from_pretrained(tmp_path)(
        [f[..., ::-1] for f in clip.frames], return_tensors="pt"
    )
    tokens = towers.tokenizer(["猫 跑"], return_tensors="pt")
    with torch.no_grad():
        images = model.get_image_features(**pixels).pooler_output
        text = model.get_text_features(**tokens).pooler_output
    np.testing.assert_allclose(towers.frames(clip), nn.functional.normalize(images, dim=-1), atol=1e-6)
    np.testing.assert_allclose(towers.texts(["猫 跑"]), nn.functional.normalize(text, dim=-1), atol=1e-6)


def test_frames_of_a_clip_are_embedded_once_for_all_backends(folder, clip, monkeypatch):
    towers = released(folder)
    calls = []
    monkeypatch.setattr(towers, "_images", lambda frames, real=towers._images: calls.append(1) or real(frames))
    first, other = clip_frames(seed=1), clip_frames(seed=2)
    expected = ReleasedTowers(folder).frames(other)
    for _ in range(2):
        towers.frames(first)
    np.testing.assert_array_equal(towers.frames(other), expected)
    assert len(calls) == 2


def test_threads_are_given_back(folder, clip):
    before = torch.get_num_threads()
    released(folder).frames(clip)
    assert torch.get_num_threads() == before


def test_embedding_is_the_unit_mean_of_the_frames(folder, clip):
    mean = reference(folder, clip).mean(0)
    found = ClipEmbedding(str(folder))(clip)
    np.testing.assert_allclose(found["embedding"], mean / mean.norm(), atol=1e-6)
    assert np.linalg.norm(found["embedding"]) == pytest.approx(1, abs=1e-6)
    assert found["embedding_length"] == pytest.approx(float(mean.norm()), abs=1e-6)


def aesthetic_mlp():
    """LAION's improved-aesthetic-predictor, as published, on small embeddings."""
    widths, drops = [HEAD_WIDTH, 1024, 128, 64, 16, 1], [0.2, 0.2, 0.1]
    parts: list[nn.Module] = []
    for i, (a, b) in enumerate(zip(widths, widths[1:])):
        parts += [nn.Linear(a, b), *([nn.Dropout(drops[i])] if i < 3 else [])]
    return nn.ModuleDict({"layers": nn.Sequential(*parts)}).eval(), lambda m: m["layers"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("make", [aesthetic_mlp, lambda: (nn.Linear(HEAD_WIDTH, 1), lambda m: m)])
def test_aesthetic_score_of_both_published_heads(folder, clip, make, suffix):
    module, head = make()
    path = folder / f"aesthetic{suffix}"
    save_file(module.state_dict(), path) if suffix == ".safetensors" else torch.save(module.state_dict(), path)
    with torch.no_grad():
        expected = head(module)(reference(folder, clip)).mean()
    assert LAIONAesthetic(str(path))(clip)["aesthetic"] == pytest.approx(float(expected), abs=1e-5)


class NSFWReference(nn.Module):
    """LAION's detector as its torch port has it: 4 layers for ViT-L/14, 3 for ViT-B/32."""

    def __init__(self, widths):
        super().__init__()
        self.norm = nn.Module()
        self.norm.register_buffer("mean", torch.randn(HEAD_WIDTH) * 0.1)
        self.norm.register_buffer("variance", torch.rand(HEAD_WIDTH) + 0.5)
        for i, (a, b) in enumerate(zip([HEAD_WIDTH, *widths], widths)):
            self.add_module(f"linear_{i + 1}", nn.Linear(a, b))

    def forward(self, x):
        x = (x - self.norm.get_buffer("mean")) / self.norm.get_buffer("variance").sqrt()
        *hidden, last = [m for n, m in self.named_children() if n.startswith("linear")]
        for layer in hidden:
            x = torch.relu(layer(x))
        return torch.sigmoid(last(x))


@pytest.mark.parametrize("widths", [[64, 512, 256, 1], [32, 32, 1]])
def test_nsfw_score_is_the_worst_frame_of_laions_detector(folder, clip, widths):
    module = NSFWReference(widths)
    torch.save(module.state_dict(), folder / "nsfw.pth")
    with torch.no_grad():
        expected = module(reference(folder, clip)).max()
    assert LAIONNSFW(str(folder / "nsfw.pth"))(clip)["nsfw"] == pytest.approx(float(expected), abs=1e-5)


def test_a_head_may_lie_elsewhere(folder, clip, tmp_path):
    head = nn.Linear(HEAD_WIDTH, 1)
    save_file(head.state_dict(), tmp_path / "head.safetensors")
    with torch.no_grad():
        expected = float(head(reference(folder, clip)).mean())
    found = LAIONAesthetic(str(tmp_path / "head.safetensors"), clip=str(folder))(clip)
    assert found["aesthetic"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("make", [LAIONAesthetic, LAIONNSFW, ClipEmbedding])
def test_without_weights_a_backend_is_absent_and_says_what_to_give(make, tmp_path):
    with pytest.raises(Absent, match="no weights were given; give"):
        make()
    with pytest.raises(Absent, match="is missing; give"):
        make(str(tmp_path / "nothing"))


def test_a_hub_that_cannot_be_reached_makes_a_backend_absent(monkeypatch):
    import huggingface_hub

    def offline(repository, **options):
        raise OSError(f"no network for {repository}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(Absent, match="hub:a/b did not come: OSError: no network for a/b"):
        ClipEmbedding("hub:a/b")


def test_weights_that_do_not_fit_are_refused(folder, tmp_path):
    save_file({"weight": torch.zeros(1, 7), "bias": torch.zeros(1)}, tmp_path / "wide.safetensors")
    with pytest.raises(ArtifactError, match="does not take vectors of 16"):
        LAIONAesthetic(str(tmp_path / "wide.safetensors"), clip=str(folder))
    save_file({"weight": torch.zeros(2, 16), "bias": torch.zeros(2)}, tmp_path / "two.safetensors")
    with pytest.raises(ArtifactError, match="gives 2 values"):
        LAIONAesthetic(str(tmp_path / "two.safetensors"), clip=str(folder))
    save_file({"linear_1.weight": torch.zeros(1, 16), "linear_1.bias": torch.zeros(1)}, tmp_path / "raw.safetensors")
    with pytest.raises(ArtifactError, match="norm.mean and norm.variance"):
        LAIONNSFW(str(tmp_path / "raw.safetensors"), clip=str(folder))


def test_a_clip_that_lacks_tensors_is_refused_not_filled_with_noise(folder, tmp_path):
    from safetensors.torch import load_file

    save_clip(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ArtifactError, match="lacks 1 tensors of its CLIP \\(visual_projection.weight"):
        ReleasedTowers(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ArtifactError, match="'bert'; give one of clip, chinese_clip"):
        ReleasedTowers(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ArtifactError, match="holds no CLIP in safetensors"):
        ReleasedTowers(tmp_path)
