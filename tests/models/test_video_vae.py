"""Video-VAE: chunking, causality, narrow forms, staged training. That it equals the released one:
tests/inference/test_parity.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stepvideo.models.config import DiscriminatorConfig, VAEConfig
from stepvideo.models.discriminator import PatchDiscriminator
from stepvideo.models.vae_blocks import pixel_shuffle_3d, pixel_unshuffle_3d
from stepvideo.models.vae_ops import group_norm, upsampled_conv
from stepvideo.models.video_vae import (
    DiagonalGaussian,
    VideoVAE,
    load_stage1_backbone,
    mix_boundaries,
    vae_parameter_groups,
)


def narrow(**changes: object) -> VAEConfig:
    sizes: dict[str, object] = dict(
        z_channels=4,
        enc_ch=4,
        enc_ch_mult=[1, 2, 4, 4],
        dec_ch=4,
        dec_ch_mult=[1, 2, 4, 4],
        num_res_blocks=1,
        num_groups=2,
    )
    return VAEConfig(**(sizes | changes))  # type: ignore[arg-type]


def build(cfg: VAEConfig, seed: int = 0) -> VideoVAE:
    torch.manual_seed(seed)
    return VideoVAE(cfg).eval()


def video(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(("dual_path", "factor", "latents"), [(True, 16, 3), (False, 8, 5)])
@torch.no_grad()
def test_shapes_of_clips_and_images(dual_path: bool, factor: int, latents: int) -> None:
    vae = build(narrow(dual_path=dual_path))
    for frames, coded in ((17, latents), (34, 2 * latents), (1, 1), (18, latents + 1)):
        z = vae.encode(video(2, frames, 3, 32, 48), torch.Generator().manual_seed(0))
        assert z.shape == (2, coded, 4, 32 // factor, 48 // factor)
        assert vae.decode(z).shape == (2, frames, 3, 32, 48)


@torch.no_grad()
def test_first_latent_is_the_code_of_the_first_frame() -> None:
    vae = build(narrow())
    x = video(1, 17, 3, 32, 32)
    changed = torch.cat([x[:, :1], video(1, 16, 3, 32, 32, seed=2)], dim=1)
    a, b = vae.encode_moments(x), vae.encode_moments(changed)
    torch.testing.assert_close(a[:, :1], b[:, :1], rtol=0, atol=1e-6)
    torch.testing.assert_close(a[:, :1], vae.encode_moments(x[:, :1]), rtol=0, atol=1e-6)
    assert (a[:, 1:] - b[:, 1:]).abs().amax() > 1e-3


@pytest.mark.parametrize("dual_path", [True, False])
@torch.no_grad()
def test_no_latent_or_frame_depends_on_a_later_one(dual_path: bool) -> None:
    vae = build(narrow(dual_path=dual_path))
    factor, last = vae.cfg.temporal_factor, vae.cfg.latent_len - 1
    x = video(1, 17, 3, 32, 32)
    tail = x.clone()
    tail[:, -factor:] *= -1
    a, b = vae.encode_moments(x), vae.encode_moments(tail)
    torch.testing.assert_close(a[:, :last], b[:, :last], rtol=0, atol=1e-6)
    assert (a[:, last] - b[:, last]).abs().amax() > 1e-3
    z = a.chunk(2, dim=2)[0].clone()
    y = vae.decode(z)
    z[:, -1] *= -1
    again = vae.decode(z)
    torch.testing.assert_close(y[:, :-factor], again[:, :-factor], rtol=0, atol=1e-6)
    assert (y[:, -factor:] - again[:, -factor:]).abs().amax() > 1e-3


@torch.no_grad()
def test_chunks_are_coded_independently() -> None:
    vae = build(narrow())
    x = video(1, 34, 3, 32, 32)
    whole = vae.encode(x, sample=False)
    halves = torch.cat([vae.encode(part, sample=False) for part in x.split(17, dim=1)], dim=1)
    torch.testing.assert_close(whole, halves, rtol=0, atol=0)
    decoded = torch.cat([vae.decode(part) for part in whole.split(3, dim=1)], dim=1)
    torch.testing.assert_close(vae.decode(whole, boundary_mix=False), decoded, rtol=0, atol=0)
    torch.testing.assert_close(vae.decode(whole), mix_boundaries(decoded, 17), rtol=0, atol=0)


def test_boundary_mix_is_the_released_asymmetric_one() -> None:
    x = torch.arange(51.0).view(1, 51, 1, 1, 1)
    mixed = mix_boundaries(x, 17).flatten()
    for a, b in ((16, 17), (33, 34)):
        assert mixed[b].item() == pytest.approx(0.6 * b + 0.4 * a)
        assert mixed[a].item() == pytest.approx(0.76 * a + 0.24 * b)
    kept = [t for t in range(51) if t not in (16, 17, 33, 34)]
    assert torch.equal(mixed[kept], x.flatten()[kept])


def test_number_of_latents() -> None:
    vae = build(narrow())
    counts = {204: 36, 136: 24, 102: 18, 68: 12, 51: 9, 17: 3, 1: 1, 4: 1, 9: 2, 12: 2, 29: 5}
    assert {n: vae.num_latents(n) for n in counts} == counts
    stage1 = build(narrow(dual_path=False))
    assert {n: stage1.num_latents(n) for n in (1, 2, 5, 8, 17, 34)} == {1: 1, 2: 1, 5: 2, 8: 2, 17: 5, 34: 10}


@pytest.mark.parametrize("frames", [5, 8, 13, 16, 22, 33])
def test_lengths_the_released_code_crashes_on_are_named(frames: int) -> None:
    vae = build(narrow())
    with pytest.raises(ValueError, match=f"{frames} frames.*nearest valid lengths"):
        vae.encode(video(1, frames, 3, 16, 16))


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 17, 3, 24, 16), "multiples of 16"), ((1, 17, 4, 16, 16), "expected"), ((17, 3, 16, 16), "expected")],
)
def test_bad_inputs_are_named(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(narrow()).encode(torch.zeros(shape))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_groups": 32}, "num_groups=32 does not divide"),
        ({"z_channels": 0}, "z_channels=0"),
        ({"enc_ch_mult": [1, 2]}, "enc_ch_mult"),
        ({"z_channels": 5}, "dual_path_ch"),
        ({"frame_len": 16}, "frame_len=16"),
    ],
)
def test_impossible_configs_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        narrow(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"z_channels": 64, "enc_ch": 8, "enc_ch_mult": [2, 4, 8, 8], "dec_ch": 16, "num_groups": 8},
        {"spatial_group_norm": False},
        {"frame_len": 9},
        {"dec_ch_mult": [1, 1, 1, 2], "num_groups": 4},
    ],
)
def test_narrow_forms_train(changes: dict[str, object]) -> None:
    vae = build(narrow(**changes)).train()
    x = video(2, vae.cfg.frame_len, 3, 16, 16)
    y, posterior = vae(x, torch.Generator().manual_seed(0))
    assert y.shape == x.shape
    ((y - x).abs().mean() + 1e-3 * posterior.kl().mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())


def test_dual_path_width_is_the_released_one_or_what_the_shortcuts_allow() -> None:
    assert VAEConfig().dual_path_width == 2048
    assert narrow(z_channels=4).dual_path_width == 128
    assert narrow(z_channels=64, enc_ch=16, dec_ch=16).dual_path_width == 512


def test_posterior() -> None:
    mean, logvar = torch.randn(2, 3, 4, 2, 2), torch.full((2, 3, 4, 2, 2), -50.0)
    tight = DiagonalGaussian(torch.cat([mean, logvar], dim=2))
    torch.testing.assert_close(tight.sample(torch.Generator().manual_seed(0)), mean, atol=1e-5, rtol=0)
    assert tight.logvar.unique().item() == -30.0
    p = DiagonalGaussian(torch.cat([mean, torch.full_like(mean, 0.7)], dim=2))
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, torch.tensor(0.35).exp()), normal(0.0, 1.0))
    torch.testing.assert_close(p.kl(), expected)
    draws = [p.sample(torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_stage1_backbone_moves_into_the_dual_path_form() -> None:
    stage1, stage2 = build(narrow(dual_path=False, z_channels=2)), build(narrow(), seed=1)
    before = {k: v.clone() for k, v in stage2.state_dict().items()}
    new = load_stage1_backbone(stage2, stage1.state_dict())
    assert {k.rsplit(".", 1)[0] for k in new} == {
        "encoder.conv_patchify.conv.conv",
        "encoder.conv_out.conv",
        "decoder.conv_in.conv",
        "decoder.conv_unpatchify.conv.conv",
    }
    source = stage1.state_dict()
    for key, value in stage2.state_dict().items():
        wanted = before[key] if key in new else source[key.replace("decoder.conv_out.", "decoder.conv_out.conv.")]
        assert torch.equal(value, wanted), key
    with pytest.raises(ValueError, match="widths"):
        load_stage1_backbone(stage2, build(narrow(dual_path=False, enc_ch=6, dec_ch=6)).encoder.state_dict())


@pytest.mark.parametrize("dual_path", [True, False])
def test_unfreeze_groups_partition_the_parameters(dual_path: bool) -> None:
    vae = build(narrow(dual_path=dual_path))
    groups = vae_parameter_groups(vae)
    ids = [id(p) for group in groups.values() for p in group]
    assert len(ids) == len(set(ids)) and set(ids) == {id(p) for p in vae.parameters()}
    assert len(groups["dual_path"]) == (8 if dual_path else 0)
    assert {id(p) for p in vae.decoder.mid.parameters()} <= {id(p) for p in groups["mid"]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "groups"), [(16, 8), (8, 8), (48, 8), (2, 1), (8, 1), (12, 1)])
def test_group_norm_gradient_equals_torch(dtype: torch.dtype, channels: int, groups: int) -> None:
    torch.manual_seed(0)
    x = (torch.randn(5, channels, 6, 10) * 2 + 1).to(dtype).contiguous(memory_format=torch.channels_last)
    weight, bias, out = torch.randn(channels), torch.randn(channels), torch.randn(5, channels, 6, 10).to(dtype)
    grads = []
    for fn in (lambda *a: group_norm(*a, 1e-5), lambda x, g, w, b: F.group_norm(x, g, w, b, 1e-5)):
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        y = fn(leaves[0], groups, *leaves[1:])
        grads.append([y.detach(), *torch.autograd.grad(y, leaves, out)])
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.1, "rtol": 0.02}
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)


@pytest.mark.parametrize(("shape", "causal"), [((2, 5, 4, 6, 3), True), ((2, 5, 1, 4, 4), True), ((3, 5, 6, 3), False)])
def test_convolution_after_upsampling_equals_the_plain_form(shape: tuple[int, ...], causal: bool) -> None:
    torch.manual_seed(0)
    dims = len(shape) - 2
    conv = torch.nn.Conv3d(5, 7, 3) if dims == 3 else torch.nn.Conv2d(5, 7, 3)
    x = torch.randn(shape, requires_grad=True)
    padded = F.pad(F.interpolate(x, scale_factor=2.0), [1, 1] * 2 + ([2, 0] if causal else []))
    plain, ours = conv(padded), upsampled_conv(x, conv.weight, conv.bias, causal)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    leaves = [x, conv.weight, conv.bias]
    out = torch.randn_like(plain)
    for a, b in zip(torch.autograd.grad(ours, leaves, out), torch.autograd.grad(plain, leaves, out), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_pixel_shuffle_inverts_unshuffle() -> None:
    x = video(2, 3, 5, 4, 6)
    packed = pixel_unshuffle_3d(x)
    assert packed.shape == (2, 24, 3, 2, 3)
    assert torch.equal(pixel_shuffle_3d(packed), x)


def test_bf16_autocast_stays_near_float32() -> None:
    vae = build(narrow())
    x = video(1, 17, 3, 32, 32)
    with torch.no_grad():
        exact = vae.decode(vae.encode(x, sample=False))
        with torch.autocast("cpu", torch.bfloat16):
            rough = vae.decode(vae.encode(x, sample=False))
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().mean() < 0.03 * exact.std()


@pytest.mark.parametrize(("shape", "patches"), [((2, 17, 3, 32, 48), (2, 5, 4, 6)), ((3, 1, 3, 32, 32), (3, 1, 4, 4))])
def test_discriminator_scores_patches_of_clips_and_images(shape: tuple[int, ...], patches: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    disc = PatchDiscriminator(DiscriminatorConfig(ch=16))
    x = video(*shape)
    logits = disc(x)
    assert logits.shape == patches
    torch.testing.assert_close(disc(x[:1]), logits[:1], atol=1e-5, rtol=1e-4)
    other = x.clone()
    other[..., -1, -1] += 0.5
    changed = (disc(other) - logits).abs()
    assert changed[..., -1, -1].amax() > 0


def test_discriminator_learns_to_tell_noise_from_ramps() -> None:
    torch.manual_seed(0)
    disc = PatchDiscriminator(DiscriminatorConfig(ch=8, ch_mult=[1, 2], num_groups=4))
    optimizer = torch.optim.Adam(disc.parameters(), 2e-3)
    ramp = torch.linspace(-1, 1, 16).expand(4, 5, 3, 16, 16)
    for step in range(30):
        loss = F.softplus(-disc(ramp)).mean() + F.softplus(disc(video(4, 5, 3, 16, 16, seed=step))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert disc(ramp).mean() > 1 > -1 > disc(video(4, 5, 3, 16, 16, seed=99)).mean()


@pytest.mark.parametrize("changes", [{"ch": 12}, {"ch_mult": []}, {"num_groups": 0}])
def test_impossible_discriminators_are_named(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes)) if "ch" not in changes else "does not divide"):
        DiscriminatorConfig(**changes)  # type: ignore[arg-type]
