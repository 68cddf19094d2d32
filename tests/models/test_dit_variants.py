"""The forms that the report compares its DiT with: each against its definition, in training, on disk and as config."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flows.compose import compose
from flows.graph import build
from stepvideo.errors import ArtifactError, ConfigError
from stepvideo.models.attention import attention
from stepvideo.models.checkpoints import dit_config, load_dit, save_dit
from stepvideo.models.config import DiTConfig
from stepvideo.models.dit import DiT
from stepvideo.models.dit_blocks import BLOCK_NORM_EPS, SelfAttention
from stepvideo.models.rope import rope_tables

VARIANTS = [{"attention": "spatial_temporal"}, {"block": "mmdit"}, {"block_norm": "rms_norm"}]
CLOSE = {"atol": 1e-5, "rtol": 1e-4}
LLM, CLIP, FRAMES = 5, 3, 3


def model(seed: int = 0, **changes: object) -> DiT:
    """A small DiT in which nothing is zero, so that everything has an influence."""
    sizes: dict = dict(num_attention_heads=2, attention_head_dim=16, num_layers=4, in_channels=4, out_channels=4)
    dit = DiT(DiTConfig(**(sizes | {"caption_channels": [12, 8]} | changes)))
    draw = torch.Generator().manual_seed(seed)
    dit.init_weights(draw)
    with torch.no_grad():
        for p in dit.parameters():
            if not p.any() or p.ndim == 1:
                p.add_(torch.randn(p.shape, generator=draw), alpha=0.3)
    return dit


def arguments(frames: int = FRAMES) -> dict:
    draw = torch.Generator().manual_seed(1)
    mask = torch.ones(2, CLIP + LLM, dtype=torch.int64)
    mask[0, -2:] = 0
    return {
        "hidden_states": torch.randn(2, frames, 4, 4, 6, generator=draw),
        "encoder_hidden_states": torch.randn(2, LLM, 12, generator=draw),
        "encoder_hidden_states_2": torch.randn(2, CLIP, 8, generator=draw),
        "timestep": torch.tensor([0.25, 0.75]),
        "encoder_attention_mask": mask,
    }


@pytest.mark.parametrize("change", VARIANTS, ids=str)
@pytest.mark.parametrize("image_to_video", [False, True])
def test_learns_with_every_parameter(change: dict, image_to_video: bool):
    a = arguments()
    target = a["hidden_states"] * 0.5 - 1
    if image_to_video:
        a |= {"condition_hidden_states": torch.ones_like(target), "motion_score": 5.0}
    dit = model(**change, num_layers=2, use_additional_conditions=image_to_video)
    optimizer = torch.optim.AdamW(dit.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        loss = (dit(**a) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert [n for n, p in dit.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("change", VARIANTS, ids=str)
@torch.no_grad()
def test_starts_as_the_released_form_does(change: dict):
    dit = DiT(DiTConfig(2, 16, 4, 4, 4, caption_channels=[12, 8], **change))
    dit.init_weights(torch.Generator().manual_seed(0))
    assert not dit(**arguments()).any()
    largest = max(p.abs().max().item() for n, p in dit.named_parameters() if "norm" not in n and "table" not in n)
    assert 0.1 < largest < 3


@pytest.mark.parametrize("change", VARIANTS, ids=str)
@torch.no_grad()
def test_comes_back_from_disk_and_is_named_there(tmp_path, change: dict):
    dit = model(**change)
    save_dit(dit, tmp_path)
    back = load_dit(tmp_path)
    assert back.cfg == dit.cfg
    assert torch.equal(back(**arguments()), dit(**arguments()))
    path = tmp_path / "transformer" / "config.json"
    data = json.loads(path.read_text())
    assert {k: data[k] for k in ("attention", "block", "block_norm") if k in data} == change
    key = next(iter(change))
    path.write_text(json.dumps(data | {key: "other"}))
    with pytest.raises(ArtifactError, match=f"config.json: {key}='other': give one of"):
        dit_config(tmp_path)


def test_the_released_form_is_saved_as_released(tmp_path):
    save_dit(model(), tmp_path)
    assert (
        not {"attention", "block", "block_norm"} & json.loads((tmp_path / "transformer/config.json").read_text()).keys()
    )


def test_is_chosen_in_the_config_of_a_cascade():
    chosen = {"attention": "spatial_temporal", "block_norm": "rms_norm"}
    nodes = build(compose(["profile=smoke", *(f"stages.t2i.dit.{k}={v}" for k, v in chosen.items())]))
    dit = next(n for n in nodes if n.name == "t2i").config["dit"]
    assert {k: dit[k] for k in chosen} == chosen
    with pytest.raises(ConfigError, match="block='unet': give one of cross, mmdit"):
        build(compose(["profile=smoke", "stages.t2i.dit.block=unet"]))


@pytest.mark.parametrize(("layers", "block"), [(3, "cross"), (2, "mmdit")])
def test_an_impossible_choice_is_named(layers: int, block: str):
    with pytest.raises(ValueError, match=f"num_layers={layers} and block='{block}'.* give an even number"):
        DiTConfig(num_layers=layers, attention="spatial_temporal", block=block)


# Spatial-temporal attention


def masked_full(may_attend_ss: Tensor):
    """Full attention under a mask: what the regrouped attention must equal."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, may_attend_ss)

    return attend


@torch.no_grad()
def test_spatial_temporal_equals_full_attention_under_masks():
    ours, full = model(attention="spatial_temporal"), model()
    full.load_state_dict(ours.state_dict())  # the same parameters
    frame = torch.arange(FRAMES).repeat_interleave(4 * 6)
    place = torch.arange(4 * 6).repeat(FRAMES)
    for i, block in enumerate(full.transformer_blocks):
        group = place if i % 2 else frame
        block.attn1.attend = masked_full(group[:, None] == group)
    torch.testing.assert_close(ours(**arguments()), full(**arguments()), **CLOSE)


@torch.no_grad()
def test_on_one_frame_spatial_blocks_equal_full_ones_and_temporal_ones_pass_values_on():
    ours, full = model(attention="spatial_temporal"), model()
    full.load_state_dict(ours.state_dict())
    for block in full.transformer_blocks[1::2]:
        block.attn1.attend = lambda q, k, v: v.transpose(1, 2).flatten(2)
    torch.testing.assert_close(ours(**arguments(1)), full(**arguments(1)), **CLOSE)


# MMDiT


@torch.no_grad()
def test_joint_block_equals_its_definition():
    """Two streams, one softmax over the tokens of both, in float64 and without our layers."""
    dit = model(block="mmdit").double()
    block, draw = dit.transformer_blocks[0], torch.Generator().manual_seed(3)
    grid, texts, d = (2, 2, 3), 4, 32
    x, text = (torch.randn(2, n, d, generator=draw, dtype=torch.float64) for n in (12, texts))
    time = torch.randn(2, 6, d, generator=draw, dtype=torch.float64)
    cos, sin = rope_tables(*grid, (8, 4, 4), torch.device("cpu"))
    attends = torch.tensor([[1] * 12 + [1, 1, 0, 0], [1] * 12 + [1] * 4], dtype=torch.bool)

    def rotate(q: Tensor) -> Tensor:  # [b, s, h, e]
        swapped = torch.cat([half for band in q.split((8, 4, 4), -1) for half in reversed(band.chunk(2, -1))], -1)
        return q * cos[:, None] + swapped * sin[:, None]

    def rms(q: Tensor, weight: Tensor) -> Tensor:
        return q / (q.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    def before(stream, tokens: Tensor):
        m = [v[:, None] for v in (stream.scale_shift_table + time).unbind(1)]
        h = F.layer_norm(tokens, (d,), stream.norm1.weight, stream.norm1.bias, BLOCK_NORM_EPS) * (1 + m[1]) + m[0]
        q, k, v = (h @ stream.wqkv.weight.T).view(2, -1, 2, 3, 16).unbind(3)
        return m, rms(q, stream.q_norm.weight), rms(k, stream.k_norm.weight), v

    def after(stream, m: list[Tensor], tokens: Tensor, read: Tensor) -> Tensor:
        tokens = tokens + m[2] * (read @ stream.wo.weight.T)
        h = F.layer_norm(tokens, (d,), stream.norm2.weight, stream.norm2.bias, BLOCK_NORM_EPS) * (1 + m[4]) + m[3]
        h = F.gelu(h @ stream.ff.net[0].proj.weight.T, approximate="tanh") @ stream.ff.net[2].weight.T
        return tokens + m[5] * h

    mx, qx, kx, vx = before(block.video, x)
    mt, qt, kt, vt = before(block.text, text)
    q, k, v = (torch.cat(p, 1) for p in ((rotate(qx), qt), (rotate(kx), kt), (vx, vt)))
    logits = torch.einsum("bqhe,bkhe->bhqk", q, k) / 4
    weights = logits.masked_fill(~attends[:, None, None], -torch.inf).softmax(-1)
    read = torch.einsum("bhqk,bkhe->bqhe", weights, v).flatten(2)
    expected = after(block.video, mx, x, read[:, :12]), after(block.text, mt, text, read[:, 12:])
    got = block(x, time, text, attends[:, None, None], (cos, sin))
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_mmdit_does_not_see_masked_text():
    dit, a = model(block="mmdit"), arguments()
    before = dit(**a)
    a["encoder_hidden_states"][0, -2:] = torch.linspace(-9, 9, 24).view(2, 12).square()
    torch.testing.assert_close(dit(**a), before)
    a["encoder_hidden_states"][0, 0] = torch.linspace(-9, 9, 12).square()
    assert (dit(**a)[0] - before[0]).abs().max() > 1e-4


@torch.no_grad()
def test_mmdit_updates_the_text_and_reads_the_update():
    """Without the text stream's feed-forward and output the video would come out otherwise."""
    dit, a = model(block="mmdit"), arguments()
    before = dit(**a)
    dit.transformer_blocks[0].text.wo.weight.zero_()
    assert (dit(**a) - before).abs().max() > 1e-4
    last = {n.split(".")[0] for n, _ in dit.transformer_blocks[-1].text.named_parameters()}
    assert last == {"scale_shift_table", "norm1", "k_norm", "wkv"}


# RMSNorm


@torch.no_grad()
def test_rms_norm_equals_its_formula_and_has_no_bias():
    dit = model(block_norm="rms_norm")
    norms = {n for n, _ in dit.named_parameters() if ".norm" in n}
    assert norms == {f"transformer_blocks.{i}.norm{j}.weight" for i in range(4) for j in (1, 2)}
    x = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0)) * 3 + 1
    norm = dit.transformer_blocks[0].norm1
    expected = x / (x.square().mean(-1, keepdim=True) + BLOCK_NORM_EPS).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)


def test_attention_kinds_alternate():
    kinds = [type(b.attn1).__name__ for b in model(attention="spatial_temporal").transformer_blocks]
    assert kinds == ["SpatialAttention", "TemporalAttention"] * 2
    assert all(type(b.attn1) is SelfAttention for b in model().transformer_blocks)
