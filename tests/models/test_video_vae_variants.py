"""Forms of the Video-VAE that the report compares with or describes: single path, no chunks, space-time GroupNorm."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from flows.compose import compose
from flows.graph import build
from stepvideo.models import video_vae
from stepvideo.models.checkpoints import load_vae, save_vae
from stepvideo.models.config import VAEConfig
from stepvideo.models.video_vae import VideoVAE, load_stage1_backbone, vae_parameter_groups

EXACT = {"rtol": 0, "atol": 1e-6}


def config(**changes: object) -> VAEConfig:
    sizes: dict = dict(z_channels=4, enc_ch=4, enc_ch_mult=[1, 2, 4, 4], dec_ch=4, dec_ch_mult=[1, 2, 4, 4])
    return VAEConfig(**(sizes | {"num_res_blocks": 1, "num_groups": 2} | changes))


def build_vae(**changes: object) -> VideoVAE:
    torch.manual_seed(0)
    return VideoVAE(config(**changes)).eval()


def video(frames: int, seed: int = 1) -> Tensor:
    return torch.rand((1, frames, 3, 32, 32), generator=torch.Generator().manual_seed(seed)) * 2 - 1


# Single path


@torch.no_grad()
def test_single_path_is_the_dual_path_without_its_shortcuts(monkeypatch):
    single, dual = build_vae(shortcut_path=False), build_vae()
    dual.load_state_dict(single.state_dict())  # the same tensors
    x = video(17)
    z = single.encode(x, sample=False)
    y = single.decode(z)
    assert (dual.encode(x, sample=False) - z).abs().max() > 0.01 and (dual.decode(z) - y).abs().max() > 0.01
    for name in ("group_mean", "group_repeat"):
        monkeypatch.setattr(video_vae, name, lambda h, width: h.new_zeros(h.shape[0], width, *h.shape[2:]))
    torch.testing.assert_close(dual.encode(x, sample=False), z)
    torch.testing.assert_close(dual.decode(z), y)


@torch.no_grad()
def test_single_path_compresses_as_the_dual_path_does():
    vae = build_vae(shortcut_path=False)
    for frames, latents in ((1, 1), (17, 3), (34, 6)):
        z = vae.encode(video(frames), sample=False)
        assert z.shape == (1, latents, 4, 2, 2) and vae.decode(z).shape[1] == frames


def test_single_path_has_the_stages_of_training():
    """Stage 1 is handed over as to the dual path, and the same parameters are freed first."""
    single = build_vae(shortcut_path=False)
    fresh = load_stage1_backbone(single, build_vae(dual_path=False).state_dict())
    assert {k.rsplit(".", 1)[0] for k in fresh} == {
        "encoder.conv_patchify.conv.conv",
        "encoder.conv_out.conv",
        "decoder.conv_in.conv",
        "decoder.conv_unpatchify.conv.conv",
    }
    assert len(vae_parameter_groups(single)["dual_path"]) == 8


# Without chunks


@pytest.mark.parametrize("frames", [*range(1, 18), 20, 21, 24, 25, 36])
@torch.no_grad()
def test_one_chunk_of_t_frames_is_ceil_of_t_over_8_latents(frames: int):
    """The rule, and that the network follows it: t % 8 of 1 to 4 can be coded, 1 comes back whole."""
    vae, x = build_vae(frame_len=0), video(frames)[..., :16, :16]
    if frames % 8 not in (1, 2, 3, 4):
        with pytest.raises(ValueError, match=f"{frames} frames cannot be coded as one chunk.*% 8 .* \\[0, 5, 6, 7\\]"):
            vae.encode(x)
        return
    z = vae.encode(x, sample=False)
    assert z.shape[1] == vae.num_latents(frames) == -(-frames // 8)
    assert vae.decode(z).shape[1] == 8 * z.shape[1] - 7 == frames - (frames - 1) % 8


def test_lengths_of_the_report_and_of_the_release():
    assert config(frame_len=0).num_latents(204) == 26
    assert config().num_latents(204) == 36
    assert config(frame_len=0, dual_path=False).num_latents(204) == 51
    assert [config(frame_len=0, dual_path=False).num_latents(n) for n in range(1, 10)] == [1, 1, 1, 1, 2, 2, 2, 2, 3]
    with pytest.raises(ValueError, match=r"nearest valid lengths: \[.*201, 202, 203, 204.*\] \(8n \+ 1 wastes nothing"):
        config(frame_len=0).num_latents(205)


@pytest.mark.parametrize("dual_path", [True, False])
@torch.no_grad()
def test_one_chunk_equals_a_chunk_of_that_length(dual_path: bool):
    whole, x = build_vae(frame_len=0, dual_path=dual_path), video(33)
    chunked = build_vae(frame_len=33, dual_path=dual_path)
    chunked.load_state_dict(whole.state_dict())
    z = whole.encode(x, sample=False)
    torch.testing.assert_close(z, chunked.encode(x, sample=False), **EXACT)
    torch.testing.assert_close(whole.decode(z), chunked.decode(z), **EXACT)


@torch.no_grad()
def test_one_chunk_is_causal_and_remembers_more_than_17_frames():
    vae, x = build_vae(frame_len=0), video(33)
    later, first = x.clone(), x.clone()
    later[:, 25:] *= -1
    first[:, 0] *= -1
    z, z_later, z_first = (vae.encode(v, sample=False) for v in (x, later, first))
    torch.testing.assert_close(z[:, :4], z_later[:, :4], **EXACT)
    assert (z[:, 4] - z_later[:, 4]).abs().max() > 1e-3
    assert (z[:, 3:] - z_first[:, 3:]).abs().amax((0, 2, 3, 4)).min() > 1e-6  # no border stops the first frame
    y, y_later = vae.decode(z), vae.decode(z_later)
    torch.testing.assert_close(y[:, :25], y_later[:, :25], **EXACT)
    assert (y[:, 25:] - y_later[:, 25:]).abs().max() > 1e-3


# Space-time GroupNorm


@torch.no_grad()
def test_space_time_group_norm_sees_the_future_and_the_spatial_one_does_not():
    """Why the report replaced it: statistics over time tie every frame to its whole chunk."""
    x = video(17)
    changed = torch.cat([x[:, :16], 3 * x[:, 16:]], dim=1)
    first = {}
    for spatial in (True, False):
        vae = build_vae(spatial_group_norm=spatial)
        first[spatial] = (vae.encode(x, sample=False) - vae.encode(changed, sample=False))[:, 0].abs().max()
    assert first[True] < 1e-6 and first[False] > 1e-4


# All of them


@pytest.mark.parametrize("change", [{"shortcut_path": False}, {"frame_len": 0}, {"spatial_group_norm": False}], ids=str)
def test_learns_with_every_parameter_and_comes_back_from_disk(tmp_path, change: dict):
    vae, x = build_vae(**change).train(), torch.linspace(-1, 1, 16).expand(1, 9, 3, 16, 16)
    optimizer = torch.optim.Adam(vae.parameters(), 3e-3)
    losses = []
    for step in range(25):
        y, posterior = vae(x, torch.Generator().manual_seed(step))
        loss = (y - x).square().mean() + 1e-4 * posterior.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]
    assert [n for n, p in vae.named_parameters() if p.grad is None or not p.grad.any()] == []
    save_vae(vae, tmp_path)
    back = load_vae(tmp_path)
    assert back.cfg == vae.cfg
    assert torch.equal(back.encode(x, sample=False), vae.eval().encode(x, sample=False))


def test_only_a_variant_is_named_on_disk(tmp_path):
    for change in ({}, {"shortcut_path": False}):
        save_vae(build_vae(**change), tmp_path)
        saved = json.loads((tmp_path / "vae" / "config.json").read_text())
        assert {k: v for k, v in saved.items() if k == "shortcut_path"} == change


def test_is_chosen_in_the_config_of_a_cascade():
    chosen = {"shortcut_path": False, "frame_len": 0, "spatial_group_norm": False}
    nodes = build(
        compose(["profile=smoke", "weights.vae=train", *(f"stages.vae2.vae.{k}={v}" for k, v in chosen.items())])
    )
    vae = next(n for n in nodes if n.name == "vae2").config["vae"]
    assert {k: vae[k] for k in chosen} == chosen


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shortcut_path": False, "dual_path": False}, "the 4x8x8 form .* has no shortcut"),
        ({"frame_len": -1}, "frame_len=-1 .* or 0 for no chunks"),
    ],
)
def test_an_impossible_choice_is_named(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        config(**change)
