"""bf16 does not inherit the released code's rounding faults: text length, RoPE angles, timestep.

Each fault is imitated here in our own bf16 network, which shows that the comparison with fp32 would see it. The
yardstick is the error of bf16 on inputs where the fault, by its nature, does nothing.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stepvideo.diffusion.schedule import sigmas
from stepvideo.models import dit as dit_module
from stepvideo.models.config import DiTConfig
from stepvideo.models.dit import DiT

CLIP, LLM = 77, 320
LENGTHS = torch.arange(257, CLIP + LLM + 1)  # attended tokens of CLIP and Step-LLM together
AXES = [(63, 1, 1), (1, 63, 1), (1, 1, 63)]  # positions 0 to 62: the released model at 544x992 has as many


def network() -> DiT:
    """Large QK-norm weights make attention choose, so that one wrong token or angle is not averaged away."""
    dit = DiT(DiTConfig(2, 64, 2, 8, 8, caption_channels=[16, 16]))
    draw = torch.Generator().manual_seed(0)
    dit.init_weights(draw)
    with torch.no_grad():
        for name, p in dit.named_parameters():
            if not p.any():
                p.copy_(torch.randn(p.shape, generator=draw) * (0.5 if p.ndim == 1 else p.shape[-1] ** -0.5))
            elif "_norm.weight" in name:
                p.fill_(1.8)
    return dit.requires_grad_(False)


def inputs(batch: int = 1, grid: tuple[int, int, int] = (2, 3, 3)) -> dict[str, Tensor]:
    f, h, w = grid
    draw = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(1, f, 8, h, w, generator=draw).expand(batch, -1, -1, -1, -1),
        "encoder_hidden_states": torch.randn(1, 4, 16, generator=draw).expand(batch, -1, -1),
        "encoder_hidden_states_2": torch.randn(1, 1, 16, generator=draw).expand(batch, CLIP, -1),
        "timestep": torch.full((batch,), 0.25),
    }


def error(a: dict[str, Tensor], wrong: dict[str, Tensor] | None = None) -> Tensor:
    """Error of bf16, on `a` or on `wrong`, against fp32 on `a`: root mean square of each sample, relative. [b]"""
    exact = network()(**a)
    rough = network().bfloat16()(**(wrong or a)).float()
    return ((rough - exact).square().mean((1, 2, 3, 4)) / exact.square().mean((1, 2, 3, 4))).sqrt()


def texts(strong: int) -> dict[str, Tensor]:
    """One sample for each length: one word again and again; the token `strong` places after the last one differs."""
    a = inputs(len(LENGTHS))
    word, other = torch.randn(2, 16, generator=torch.Generator().manual_seed(2))
    differs = torch.arange(LLM) == (LENGTHS - CLIP - 1 + strong)[:, None]
    a["encoder_hidden_states"] = torch.where(differs[..., None], other, word)
    a["encoder_attention_mask"] = (torch.arange(CLIP + LLM) < LENGTHS[:, None]).long()
    return a


@torch.no_grad()
@pytest.mark.parametrize(("strong", "harmed"), [(0, 1), (1, 3)], ids=["last word", "first padding"])
def test_text_of_any_length_is_attended_exactly(strong: int, harmed: int):
    """A mask summed in bf16 drops the last token of lengths 4n + 1 and lets in a padding token at 4n + 3."""
    a = texts(strong)
    ours = error(a)
    summed = a["encoder_attention_mask"].bfloat16().sum(1, keepdim=True).long()
    assert torch.equal(summed[:, 0] - LENGTHS, torch.tensor([0, -1, 0, 1])[LENGTHS % 4])
    faulty = error(a, a | {"encoder_attention_mask": (torch.arange(CLIP + LLM) < summed).long()})
    noise = ours[LENGTHS % 2 == 0].max()
    assert ours.max() < 1.5 * noise
    assert faulty[LENGTHS % 4 == harmed].min() > 5 * noise


def bf16_angles(
    frames: int, height: int, width: int, split: tuple[int, int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """`rope_tables` with the released fault: angles in bf16 before cos and sin."""
    cos, sin = [], []
    axes = torch.meshgrid(*(torch.arange(n, device=device) for n in (frames, height, width)), indexing="ij")
    for positions, band in zip(axes, split, strict=True):
        inv_freq = 1e4 ** -(torch.arange(0, band, 2, device=device) / band)
        angles = (positions.reshape(-1, 1) * inv_freq).bfloat16().float()
        cos += [angles.cos()] * 2
        sin += [-angles.sin(), angles.sin()]
    return torch.cat(cos, -1), torch.cat(sin, -1)


def rotated(net: DiT, grid: tuple[int, int, int]) -> Tensor:
    """Queries and keys of the first self-attention, as attention gets them: [2, 1, h, s, d] fp32."""
    seen: list[Tensor] = []
    attend = net.transformer_blocks[0].attn1.attend

    def watch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen.append(torch.stack([q, k]).float())
        return attend(q, k, v)

    net.transformer_blocks[0].attn1.attend = watch
    net(**inputs(grid=grid))
    return seen[0]


@torch.no_grad()
@pytest.mark.parametrize("grid", AXES, ids=["time", "height", "width"])
def test_positions_up_to_62_are_rotated_exactly(monkeypatch, grid: tuple[int, int, int]):
    """Up to position 3, angles in bf16 are harmless."""
    exact = rotated(network(), grid)
    ours = (rotated(network().bfloat16(), grid) - exact).abs().amax((0, 1, 2, 4))
    monkeypatch.setattr(dit_module, "rope_tables", bf16_angles)
    faulty = (rotated(network().bfloat16(), grid) - exact).abs().amax((0, 1, 2, 4))
    noise = ours[:4].max()
    assert ours.max() < 2 * noise
    assert faulty[:4].max() < 1.5 * noise and faulty.max() > 3 * ours.max()


@torch.no_grad()
def test_timesteps_are_embedded_exactly():
    """The released schedule of 50 steps; times that are 8-bit numbers, times 1000 too, are harmless in bf16."""
    t = sigmas(50, 13.0)[:-1]
    a = inputs(len(t)) | {"timestep": t}
    ours = error(a)
    noise = error(inputs(4) | {"timestep": torch.tensor([0.0, 0.125, 0.25, 0.5])}).max()
    in_bf16 = (t.bfloat16() * 1000).float() / 1000
    faulty = error(a, a | {"timestep": in_bf16})
    assert ours.max() < 1.5 * noise
    assert faulty.max() > 5 * noise and (faulty > 2 * ours).sum() >= 10
