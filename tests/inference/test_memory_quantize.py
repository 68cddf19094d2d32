"""int8 and fp8 weights: loaded block by block, half the memory of bf16, and how far the output is off."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from stepvideo.emulator.memory import Job, Networks, dit_block_weights
from stepvideo.emulator.tracker import LiveBytes, plain_tensors
from stepvideo.errors import ArtifactError, StepVideoError
from stepvideo.inference.memory.quantize import load_quantized_dit, quantizer
from stepvideo.models.checkpoints import load_dit, save_dit
from stepvideo.models.config import DiTConfig, VAEConfig
from stepvideo.models.dit import DiT

CFG = DiTConfig(8, 64, 6, caption_channels=[256, 128])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("model")
    dit, generator = DiT(CFG), torch.Generator().manual_seed(0)
    dit.init_weights(generator)
    with torch.no_grad():
        for p in dit.parameters():
            if p.ndim > 1 and not p.any():
                p.normal_(0, p.shape[1] ** -0.5, generator=generator)
    save_dit(dit.bfloat16(), root)
    return root


def inputs():
    g = torch.Generator().manual_seed(1)
    shapes = [(1, 3, 64, 8, 8), (1, 20, 256), (1, 10, 128)]
    return [*(torch.randn(s, generator=g) for s in shapes), torch.tensor([0.3])]


def size(module: nn.Module) -> int:
    """Bytes of all tensors, also of those inside quantized ones."""
    return sum(t.nbytes for p in module.parameters() for t in plain_tensors(p))


@pytest.mark.parametrize(("kind", "bar"), [("int8", 0.02), ("fp8", 0.05)])
@torch.no_grad()
def test_the_output_is_near_that_of_bf16(folder, kind, bar):
    plain, small = load_dit(folder), load_quantized_dit(folder, "cpu", kind)
    expected, found = plain(*inputs()).float(), small(*inputs()).float()
    error = (found - expected).norm() / expected.norm()
    assert 0 < error < bar


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_blocks_have_the_predicted_size_and_other_layers_stay(folder, kind):
    dit = load_quantized_dit(folder, "cpu", kind)
    nets = Networks(CFG, VAEConfig())
    assert size(dit.transformer_blocks) == CFG.num_layers * dit_block_weights(nets, Job(None), kind)  # type: ignore[arg-type]
    assert size(dit.transformer_blocks) < 0.52 * CFG.num_layers * dit_block_weights(nets, Job(None))  # type: ignore[arg-type]
    for part in (dit.adaln_single.linear, dit.proj_out, dit.caption_projection.linear_1):
        assert type(part.weight.data) is torch.Tensor and part.weight.dtype == torch.bfloat16


def test_loading_never_holds_the_whole_model(folder):
    with LiveBytes(device="cpu") as live:
        dit = load_quantized_dit(folder, "cpu", "int8")
    whole = size(load_dit(folder))
    block = size(load_dit(folder).transformer_blocks[0])
    assert live.now == pytest.approx(size(dit), rel=0.05)
    assert live.peak < size(dit) + 2 * block < 0.9 * whole


@torch.no_grad()
def test_quantized_where_told_equals_quantized_in_place(folder):
    a, b = load_quantized_dit(folder, "cpu", "int8", work="cpu"), load_dit(folder).requires_grad_(False)
    quantizer("int8")(b.transformer_blocks)
    assert torch.equal(a(*inputs()), b(*inputs()))


def test_weights_of_another_model_are_named(folder, tmp_path):
    save_dit(DiT(DiTConfig(8, 64, 2, caption_channels=[256, 128])).bfloat16(), tmp_path)
    config = (folder / "transformer" / "config.json").read_text()
    (tmp_path / "transformer" / "config.json").write_text(config)
    with pytest.raises(ArtifactError, match="transformer_blocks.2 does not fit"):
        load_quantized_dit(tmp_path, "cpu", "int8")


def test_without_torchao_the_fix_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(StepVideoError, match=r"pip install 'stepvideo\[quant\]'"):
        quantizer("int8")
