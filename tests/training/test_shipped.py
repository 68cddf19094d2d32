"""Shipped weights: packed from a finished stage, unpacked as that stage's artifact, checked on the way."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from stepvideo import storage
from stepvideo.errors import ArtifactError
from stepvideo.training.shipped import folder_digest, pack


@pytest.fixture
def packed(tmp_path):
    stage = tmp_path / "store" / "vae2" / "k"
    (stage / "out" / "vae").mkdir(parents=True)
    tensors = {"w": torch.linspace(-1, 1, 300), "n": torch.arange(3)}
    save_file(tensors, stage / "out" / "vae" / "vae_v2.safetensors")
    (stage / "out" / "metrics.json").write_text('{"psnr_64": 30.0}')
    lineage = {"command": "stepvideo run profile=micro weights.vae=train store=/somewhere/store --until vae2"}
    storage.write_json(stage / "manifest.json", {"metrics": {"psnr_64": 30.0}, "lineage": lineage, "key": "k"})
    pack(stage, tmp_path / "weights" / "vae")
    return tmp_path / "weights" / "vae", tensors


def test_weights_come_back_as_float32_rounded_to_bfloat16(packed, stage):
    folder, tensors = packed
    assert load_file(folder / "vae" / "vae_v2.safetensors")["w"].dtype == torch.bfloat16
    assert storage.read_json(folder / "manifest.json")["lineage"]["command"] == (
        "stepvideo run profile=micro weights.vae=train --until vae2"
    )
    out, metrics = stage("shipped", {}, {"content": folder_digest(folder), "runtime": {"path": str(folder)}})
    back = load_file(out / "vae" / "vae_v2.safetensors")
    assert back["w"].dtype == torch.float32 and torch.equal(back["w"], tensors["w"].bfloat16().float())
    assert torch.equal(back["n"], tensors["n"]) and metrics == {"psnr_64": 30.0}
    assert (out / "shipped_manifest.json").exists() and not (out / "manifest.json").exists()


def test_other_weights_than_planned_and_none_at_all(packed, stage, tmp_path):
    folder, _ = packed
    content = folder_digest(folder)
    (folder / "metrics.json").write_text("{}")
    with pytest.raises(ArtifactError, match="plan again"):
        stage("shipped", {}, {"content": content, "runtime": {"path": str(folder)}})
    with pytest.raises(ArtifactError, match="weights.vae=train"):
        folder_digest(tmp_path)
