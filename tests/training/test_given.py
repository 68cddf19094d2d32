"""Training that starts from somebody's weights in the released layout."""

from __future__ import annotations

import shutil

import pytest
import torch

from stepvideo import storage
from stepvideo.diffusion.latent_stats import LatentStats
from stepvideo.errors import ArtifactError
from stepvideo.models.checkpoints import load_dit, save_dit
from stepvideo.models.config import DiTConfig
from stepvideo.models.dit import DiT
from stepvideo.training.given import content


@pytest.fixture
def released(tiny_models, tmp_path):
    """As the release has it: bfloat16, no latent statistics, no sampling defaults."""
    root = shutil.copytree(tiny_models, tmp_path / "released")
    for name in ("transformer/latent_stats.json", "sampling.json", "text_lengths.json"):
        (root / name).unlink()
    save_dit(load_dit(root, dtype=torch.bfloat16), root)
    return root


@pytest.mark.parametrize(
    ("part", "files"),
    [
        ("dit", {"transformer/config.json", "transformer/diffusion_pytorch_model.safetensors"}),
        ("vae", {"vae/config.json", "vae/vae_v2.safetensors"}),
    ],
)
def test_a_part_is_taken_as_it_is(released, stage, part, files):
    out, metrics = stage(
        "given", {}, {"part": part, "content": content(released, part), "runtime": {"path": str(released)}}
    )
    assert {p.relative_to(out).as_posix() for p in storage.tree(out)} == files
    assert storage.checksums(out) == {k: v for k, v in storage.checksums(released).items() if k in files}
    assert metrics["files"] == 2 and metrics["bytes"] == sum(p.stat().st_size for p in storage.tree(out))


def test_other_weights_than_planned_and_none_at_all(released, stage, tmp_path):
    planned = content(released, "dit")
    save_dit(DiT(DiTConfig(2, 16, 1, 4, 4, caption_channels=[16, 16])), released)
    with pytest.raises(ArtifactError, match="plan again"):
        stage("given", {}, {"part": "dit", "content": planned, "runtime": {"path": str(released)}})
    with pytest.raises(ArtifactError, match=r"weights.text=.* holds no step_llm/"):
        content(tmp_path, "text")


def test_files_beside_the_networks_count(released):
    """The number of tokens is no weight, but decides what the text encoders give."""
    bare = content(released, "text")
    seen = {bare}
    for length in (40, 41):
        storage.write_json(released / "text_lengths.json", {"llm_length": length, "clip_length": 40})
        seen.add(content(released, "text"))
    assert len(seen) == 3 and bare == storage.sampled_digest(released / n for n in ("step_llm", "hunyuan_clip"))


def test_training_starts_from_it(released, cache, subsets, stage, tmp_path):
    """In float32, on latents as the given model sees them (not normalised), and it goes on from its weights."""
    from latent_cache import IMAGES, TRAIN

    shutil.copytree(cache, tmp_path / "raw")
    storage.write_json(tmp_path / "raw" / "latent_stats.json", {"mean": [0.0] * 4, "std": [1.0] * 4})
    inputs = {"latents": tmp_path / "raw", "subsets": subsets, "init": released}
    before = load_dit(released).state_dict()
    out, _ = stage("train", inputs, TRAIN | {"steps": 1, "optim": {"name": "adamw", "lr": 1e-9}} | IMAGES)
    after = load_dit(out).state_dict()
    assert all(v.dtype == torch.float32 for v in after.values())
    moved = {k: float((after[k] - v.float()).abs().max()) for k, v in before.items()}
    assert max(moved.values()) < 1e-6, moved
    assert LatentStats.read(out, 4).std_z.tolist() == [1.0] * 4
