"""Models on disk: the released layout, equal bytes for equal models, strict loading whose errors name the tensor."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stepvideo.errors import ArtifactError
from stepvideo.models import checkpoints
from stepvideo.models.clip import CLIPImageEncoder, CLIPTextEncoder
from stepvideo.models.config import CLIPImageConfig, CLIPTextConfig, DiTConfig, StepLLMConfig, VAEConfig
from stepvideo.models.dit import DiT
from stepvideo.models.step_llm import StepLLM
from stepvideo.models.text_encoders import TextEncoders, load_text_encoders, save_text_encoders
from stepvideo.models.tokenizers import CLIPTokenizer, LLMTokenizer
from stepvideo.models.video_vae import VideoVAE

CAPTIONS = ["a red circle moves left", "一个红色的圆向左移动"]


def seeded(model):
    model.init_weights(torch.Generator().manual_seed(0))
    return model


def dit() -> DiT:
    return seeded(DiT(DiTConfig(2, 16, 2, 4, 4, 1, caption_channels=[12, 8])))


def vae(dual_path: bool = True) -> VideoVAE:
    torch.manual_seed(0)
    widths: dict = dict(enc_ch=4, enc_ch_mult=[1, 2, 4, 4], dec_ch=4, dec_ch_mult=[1, 2, 4, 4])
    return VideoVAE(VAEConfig(z_channels=4, num_res_blocks=1, num_groups=2, dual_path=dual_path, **widths))


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return a.cfg == b.cfg and x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def digest(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_every_network_comes_back(tmp_path):
    models = {
        "dit": dit(),
        "vae": vae(),
        "step_llm": seeded(StepLLM(StepLLMConfig(32, 2, 4, 2, 64, 1e-5, 20))),
        "clip_text": seeded(CLIPTextEncoder(CLIPTextConfig(30, 16, 1, 2, 24, 12, projection_dim=8))),
        "clip_image": seeded(CLIPImageEncoder(CLIPImageConfig(widths=[8, 16]))),
    }
    for name, model in models.items():
        getattr(checkpoints, f"save_{name}")(model, tmp_path)
        back = getattr(checkpoints, f"load_{name}")(tmp_path)
        assert same(model, back), name
        assert not back.training and all(p.requires_grad for p in back.parameters())
    assert checkpoints.load_dit(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_files_are_those_of_the_release(tmp_path):
    llm, clip = LLMTokenizer.train(CAPTIONS, length=12), CLIPTokenizer.train(CAPTIONS, length=12)
    encoders = TextEncoders(
        seeded(StepLLM(StepLLMConfig(16, 1, 2, 1, 32, 1e-5, llm.vocab_size))),
        llm,
        seeded(CLIPTextEncoder(CLIPTextConfig(clip.vocab_size, 16, 1, 2, 24, 12))),
        clip,
    )
    checkpoints.save_dit(dit(), tmp_path)
    checkpoints.save_vae(vae(), tmp_path)
    save_text_encoders(encoders, tmp_path)
    checkpoints.save_scheduler(tmp_path)
    checkpoints.save_model_index(tmp_path)
    assert set(digest(tmp_path)) == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/vae_v2.safetensors",
        "step_llm/config.json",
        "step_llm/model.safetensors",
        "step_llm/step1_chat_tokenizer.model",
        "hunyuan_clip/clip_text_encoder/config.json",
        "hunyuan_clip/clip_text_encoder/model.safetensors",
        "hunyuan_clip/tokenizer/vocab.txt",
    }
    assert (tmp_path / "model_index.json").stat().st_size == 209  # the released size, in bytes
    back = load_text_encoders(tmp_path, llm_length=12, clip_length=12).encode(CAPTIONS)
    for name, value in encoders.encode(CAPTIONS).items():
        assert torch.equal(value, back[name]), name
    assert back["encoder_attention_mask"][:, :12].all()  # CLIP's padding is attended, as released


def test_image_to_video_index_has_the_released_size(tmp_path):
    checkpoints.save_model_index(tmp_path, image_to_video=True)
    assert (tmp_path / "model_index.json").stat().st_size == 243


def test_stage_1_vae_has_its_own_file_name(tmp_path):
    model = vae(dual_path=False)
    checkpoints.save_vae(model, tmp_path)
    assert (tmp_path / "vae" / "vae.safetensors").exists()
    assert same(model, checkpoints.load_vae(tmp_path))


def test_equal_models_give_equal_bytes(tmp_path):
    for name in "ab":
        checkpoints.save_dit(dit(), tmp_path / name)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_shards_with_an_index(tmp_path):
    model = dit()
    checkpoints.save_dit(model, tmp_path, shard_bytes=50_000)
    folder = tmp_path / "transformer"
    index = json.loads((folder / "diffusion_pytorch_model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    n = len(shards)
    assert n > 1 and shards[0] == f"diffusion_pytorch_model-00001-of-{n:05d}.safetensors"
    assert index["metadata"]["total_size"] == sum(p.nbytes for p in model.state_dict().values())
    assert same(model, checkpoints.load_dit(tmp_path))
    (folder / f".{shards[0]}.tmp-0123abcd").touch()  # of a save that was killed
    checkpoints.save_dit(model, tmp_path)  # whole again: no shard of the earlier saves remains
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    checkpoints.save_dit(model, tmp_path, shard_bytes=50_000)
    (folder / shards[1]).unlink()
    with pytest.raises(ArtifactError, match=shards[1]):
        checkpoints.load_dit(tmp_path)


def edit(root: Path, change) -> None:
    path = root / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = {k: v.clone() for k, v in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("proj_out.bias"), "1 tensors are missing: proj_out.bias"),
        (lambda t: t.update(extra=torch.zeros(1)), r"1 tensors are not of this model: extra \(diffusion_pytorch_model"),
        (
            lambda t: t.update({"proj_out.bias": torch.zeros(7)}),
            r"proj_out.bias in diff\S+ is \[7\], the config .+ \[4\]",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, change, message):
    checkpoints.save_dit(dit(), tmp_path)
    edit(tmp_path, change)
    with pytest.raises(ArtifactError, match=message):
        checkpoints.load_dit(tmp_path)


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"transformer/config.json is missing"):
        checkpoints.load_dit(tmp_path)
    checkpoints.save_dit(dit(), tmp_path)
    path = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="diffusion_pytorch_model.safetensors is damaged"):
        checkpoints.load_dit(tmp_path)
    path.unlink()
    with pytest.raises(ArtifactError, match="diffusion_pytorch_model.safetensors is missing"):
        checkpoints.load_dit(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_type": "layer_norm"}, "norm_type is 'layer_norm'; only 'ada_norm_single'"),
        ({"num_layer": 3}, "unknown keys num_layer"),
        ({"attention_head_dim": 20}, "attention_head_dim=20"),
    ],
)
def test_configs_that_we_cannot_honour_are_errors(tmp_path, change, message):
    checkpoints.save_dit(dit(), tmp_path)
    path = tmp_path / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtifactError, match=message):
        checkpoints.load_dit(tmp_path)


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stepvideo.models.weights.os.replace", full)
    with pytest.raises(ArtifactError, match="No space left on device"):
        checkpoints.save_dit(dit(), tmp_path)
    assert not list((tmp_path / "transformer").iterdir())


def test_the_released_clip_file_loads(tmp_path):
    """A torch pickle with the unused parts of Hunyuan-CLIP; its config has no projection."""
    model = seeded(CLIPTextEncoder(CLIPTextConfig(30, 16, 1, 2, 24, 12)))
    checkpoints.save_clip_text(model, tmp_path)
    folder = tmp_path / "hunyuan_clip" / "clip_text_encoder"
    (folder / "model.safetensors").unlink()
    unused = ["visual.proj", "text_projection", "logit_scale", "bert.pooler.dense.weight"]
    unused.append("bert.embeddings.position_ids")
    torch.save(model.state_dict() | {k: torch.zeros(1) for k in unused}, folder / "pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text())
    del config["projection_dim"]
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert", "pad_token_id": 0}))
    assert same(model, checkpoints.load_clip_text(tmp_path))
