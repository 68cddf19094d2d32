"""Predicted memory against the real modules on the meta device, at the released shapes and at small ones.

The meta device runs the code path of an accelerator; `LiveBytes` counts what is alive. Bars: parameters exact, peaks of
the networks within 1 % (10 % for variants that were never released).
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from stepvideo.emulator.dit_memory import IN_PLACE_ELEMENTS, dit_forward, dit_parameters
from stepvideo.emulator.ledger import Ledger
from stepvideo.emulator.text_memory import clip_forward, clip_parameters, step_llm_forward, step_llm_parameters
from stepvideo.emulator.tracker import FusedKernels, LiveBytes
from stepvideo.emulator.vae_memory import vae_decode_chunk, vae_encode_chunk, vae_parameters
from stepvideo.models import qk_norm
from stepvideo.models.clip import CLIPTextEncoder
from stepvideo.models.config import CLIPTextConfig, DiTConfig, StepLLMConfig, VAEConfig
from stepvideo.models.dit import DiT
from stepvideo.models.rope import rope_tables
from stepvideo.models.step_llm import StepLLM, sqrt_alibi
from stepvideo.models.video_vae import VideoVAE

SMALL = {"num_attention_heads": 8, "attention_head_dim": 64, "num_layers": 4, "caption_channels": [256, 128]}
SMALL_VAE = {"enc_ch": 8, "dec_ch": 16, "num_groups": 8, "z_channels": 16}


def build(network: type[nn.Module], cfg, dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    with torch.device("meta"):
        return network(cfg).to(dtype)  # type: ignore[call-arg]


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def measured(network: nn.Module, *inputs: Tensor | None) -> int:
    """Bytes at the worst moment beyond weights and inputs."""
    for cache in (rope_tables, sqrt_alibi):
        cache.cache_clear()
    with LiveBytes([*network.parameters(), *(x for x in inputs if x is not None)]) as live:
        before = live.now
        with FusedKernels(), torch.no_grad():
            network(*inputs)
    return live.peak - before


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device="meta")


def dit_case(cfg: DiTConfig, batch: int, latent: tuple[int, int, int], dtype: torch.dtype) -> tuple[int, int]:
    text, clip = 320, 77
    f, h, w = latent
    dit = build(DiT, cfg, dtype)
    x = zeros(batch, f, cfg.in_channels, h, w)
    inputs = [x, zeros(batch, text, cfg.caption_channels[0]), zeros(batch, clip, cfg.caption_channels[1])]
    inputs += [zeros(batch), zeros(batch, text + clip)]
    if cfg.use_additional_conditions:
        inputs += [x, zeros(1)]
    ledger = Ledger()
    dit_forward(ledger, cfg, batch, latent, text, clip, dtype.itemsize)
    return ledger.peak, measured(dit, *inputs)


@pytest.mark.parametrize(
    ("cfg", "total"),
    [
        (DiTConfig(), 29_342_478_400),
        (DiTConfig(use_additional_conditions=True), 29_382_205_504),
        (DiTConfig(**SMALL, patch_size=2), None),
        (DiTConfig(**SMALL, block="mmdit"), None),
        (DiTConfig(**SMALL, block="mmdit", block_norm="rms_norm"), None),
        (DiTConfig(**SMALL, attention="spatial_temporal"), None),
    ],
)
def test_parameters_of_the_dit(cfg, total):
    assert dit_parameters(cfg).total == (total or count(build(DiT, cfg)))


def test_matrices_of_a_block():
    p, dit = dit_parameters(DiTConfig(**SMALL)), build(DiT, DiTConfig(**SMALL))
    matrices = [m.weight for m in dit.transformer_blocks[0].modules() if isinstance(m, nn.Linear)]
    assert p.block == count(dit.transformer_blocks[0])
    assert p.block_matrices == sum(m.numel() for m in matrices)
    assert p.matrix_rows == sum(len(m) for m in matrices)
    assert p.largest_matrix == max(m.numel() for m in matrices)


def test_parameters_of_the_vae():
    encoder, decoder = vae_parameters(VAEConfig())
    assert (encoder, decoder) == (109_885_696, 388_933_123)
    for cfg in (VAEConfig(dual_path=False, z_channels=16), VAEConfig(**SMALL_VAE), VAEConfig(shortcut_path=False)):
        vae = build(VideoVAE, cfg)
        assert vae_parameters(cfg) == (count(vae.encoder), count(vae.decoder))


def test_parameters_of_the_text_encoders():
    assert step_llm_parameters(StepLLMConfig()) == 19_579_600_896
    assert clip_parameters(CLIPTextConfig()) == count(build(CLIPTextEncoder, CLIPTextConfig()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("batch", [1, 2])
def test_dit_at_the_released_size(batch, dtype):
    """544×992×204: 75,888 tokens. The peak lies inside a block and every block has the same, so two stand for 48."""
    predicted, truth = dit_case(DiTConfig(num_layers=2), batch, (36, 34, 62), dtype)
    assert predicted == pytest.approx(truth, rel=0.01)
    assert truth == pytest.approx(batch * dtype.itemsize * 5.15e9, rel=0.02)


@pytest.mark.parametrize("latent", [(1, 16, 16), (3, 8, 8), (12, 12, 20)])
@pytest.mark.parametrize("changes", [{}, {"use_additional_conditions": True}, {"patch_size": 2}])
def test_dit_at_small_sizes(latent, changes):
    predicted, truth = dit_case(DiTConfig(**SMALL, **changes), 2, latent, torch.bfloat16)
    assert predicted == pytest.approx(truth, rel=0.03)


@pytest.mark.parametrize("latent", [(3, 8, 8), (36, 34, 62)])
@pytest.mark.parametrize(
    "variant", [{"block": "mmdit"}, {"attention": "spatial_temporal"}, {"block_norm": "rms_norm"}], ids=str
)
def test_dit_variants(variant, latent):
    predicted, truth = dit_case(DiTConfig(**SMALL, **variant), 2, latent, torch.bfloat16)
    assert predicted == pytest.approx(truth, rel=0.1)


def test_the_in_place_step_of_qk_norm_is_the_assumed_one():
    assert qk_norm.IN_PLACE_ELEMENTS == IN_PLACE_ELEMENTS


@pytest.mark.parametrize(
    ("cfg", "shape"),
    [
        (VAEConfig(), (3, 34, 62)),
        (VAEConfig(), (1, 34, 62)),
        (VAEConfig(), (3, 16, 16)),
        (VAEConfig(dual_path=False, z_channels=16), (5, 34, 62)),
        (VAEConfig(spatial_group_norm=False), (3, 34, 62)),
        (VAEConfig(**SMALL_VAE), (3, 8, 8)),
        (VAEConfig(**SMALL_VAE, shortcut_path=False, frame_len=0), (5, 8, 8)),
    ],
)
@pytest.mark.parametrize("batch", [1, 2])
def test_vae_chunk(cfg, shape, batch):
    """Decoding latents of this shape, and encoding the pixels that they stand for."""
    vae = build(VideoVAE, cfg)
    t, h, w = shape
    video = (1 + (t - 1) * cfg.temporal_factor, h * cfg.spatial_factor, w * cfg.spatial_factor)
    ledger = Ledger()
    vae_decode_chunk(ledger, cfg, batch, shape, 2)
    truth = measured(vae.decoder, zeros(batch, cfg.z_channels, *shape, dtype=torch.bfloat16))
    assert ledger.peak == pytest.approx(truth, rel=0.01)
    ledger = Ledger()
    vae_encode_chunk(ledger, cfg, batch, video, 2)
    truth = measured(vae.encoder, zeros(batch, 3, *video, dtype=torch.bfloat16))
    assert ledger.peak == pytest.approx(truth, rel=0.01)


@pytest.mark.parametrize("batch", [1, 8])
def test_text_encoders_at_the_released_widths(batch):
    ids = zeros(batch, 320, dtype=torch.long)
    cfg, ledger = StepLLMConfig(num_layers=2), Ledger()
    step_llm_forward(ledger, cfg, batch, 320, 2)
    assert ledger.peak == pytest.approx(measured(build(StepLLM, cfg), ids), rel=0.01)
    cfg, ledger = CLIPTextConfig(num_hidden_layers=2), Ledger()
    clip_forward(ledger, cfg, batch, 77, 4)
    assert ledger.peak == pytest.approx(measured(build(CLIPTextEncoder, cfg, torch.float32), ids[:, :77]), rel=0.01)


def test_a_ledger_remembers_its_worst_moment():
    m = Ledger()
    with m.hold(3, "a"):
        m.touch(4, "b")
        with m.hold(1, "c"):
            m.touch(2, "d")
    assert (m.now, m.peak, m.where) == (0, 7, "b")


def test_live_bytes_counts_storages_once_and_until_they_are_freed():
    with LiveBytes() as live:
        a = torch.ones(1000)
        b = a.view(10, 100)[2:]
        assert live.now == 4000
        c = a + 1
        assert live.now == live.peak == 8000
        del a, c
        assert live.now == 4000  # b is a view of it
        del b
        assert live.now == 0
    assert live.peak == 8000
