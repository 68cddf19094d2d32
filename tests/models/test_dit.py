"""The DiT: its text mask, its initial weights, its training. That it equals the released module:
tests/inference/test_parity.py."""

from __future__ import annotations

import pytest
import torch

from stepvideo.models.config import DiTConfig
from stepvideo.models.dit import DiT

CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def small(**changes: object) -> DiT:
    sizes: dict = dict(num_attention_heads=2, attention_head_dim=16, num_layers=2, in_channels=4, out_channels=4)
    model = DiT(DiTConfig(**(sizes | {"caption_channels": [12, 8]} | changes)))
    model.init_weights(torch.Generator().manual_seed(0))
    return model


def arguments(b: int = 2, llm: int = 5, clip: int = 3) -> dict:
    draw = torch.Generator().manual_seed(1)
    mask = torch.ones(b, clip + llm, dtype=torch.int64)
    mask[0, -2:] = 0
    return {
        "hidden_states": torch.randn(b, 3, 4, 4, 6, generator=draw),
        "encoder_hidden_states": torch.randn(b, llm, 12, generator=draw),
        "encoder_hidden_states_2": torch.randn(b, clip, 8, generator=draw),
        "timestep": torch.tensor([0.25, 0.75])[:b],
        "encoder_attention_mask": mask,
    }


def opened(model: DiT) -> DiT:
    """A model whose output depends on everything: what `init_weights` sets to zero is random."""
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            if not p.any():
                p.normal_(0, 0.3, generator=draw)
    return model


@torch.no_grad()
def test_masked_text_has_no_influence():
    model, a = opened(small()), arguments()
    before = model(**a)
    a["encoder_hidden_states"][0, -2:] = torch.randn(2, 12) * 9
    torch.testing.assert_close(model(**a), before)
    a["encoder_hidden_states"][0, 0] = torch.randn(12)
    assert (model(**a)[0] - before[0]).abs().max() > 1e-4


@torch.no_grad()
def test_samples_of_a_batch_do_not_mix():
    model, a = opened(small()), arguments()
    whole = model(**a)
    for i in range(2):
        torch.testing.assert_close(model(**{k: v[i : i + 1] for k, v in a.items()}), whole[i : i + 1], **CLOSE)


@torch.no_grad()
def test_long_texts_are_masked_exactly():
    """The released code sums the mask in bf16, which rounds totals above 256 to a multiple of 4."""
    model, a = opened(small()), arguments(b=1, llm=260, clip=3)
    a["encoder_attention_mask"][0] = (torch.arange(263) < 259).long()
    before = model(**a)
    a["encoder_hidden_states"][0, 256] = torch.randn(12)  # token 260 of CLIP + Step-LLM: the first that is masked
    torch.testing.assert_close(model(**a), before)
    a["encoder_hidden_states"][0, 255] = torch.randn(12)
    assert (model(**a) - before).abs().max() > 1e-5


@torch.no_grad()
@pytest.mark.parametrize("mask", [[1, 1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 1, 0, 1, 0], [1, 1, 1, 0, 0, 0, 0, 0]])
def test_text_that_nobody_attends_is_dropped_exactly(mask):
    model, a = opened(small()), arguments()
    a["encoder_attention_mask"][:] = torch.tensor(mask)
    keep = a["encoder_attention_mask"][0, 3:].bool()
    short = a | {"encoder_hidden_states": a["encoder_hidden_states"][:, keep], "encoder_attention_mask": None}
    torch.testing.assert_close(model(**a), model(**short))


@torch.no_grad()
def test_initial_output_is_zero_and_seeded():
    a, b = small(), small()
    assert not a(**arguments()).any()
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert torch.equal(a.transformer_blocks[0].scale_shift_table[[2, 5]], torch.ones(2, 32))


@pytest.mark.parametrize("bf16", [False, True])
def test_learns_from_scratch(bf16):
    """Every parameter gets a gradient, and a constant velocity is learnt."""
    model, a = small(), arguments()
    target = a["hidden_states"] * 0.5 - 1
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = (model(**a).float() - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_activation_checkpointing_changes_nothing():
    from torch.utils.checkpoint import checkpoint

    plain, wrapped = opened(small()), opened(small())
    for block in wrapped.transformer_blocks:
        block.forward = lambda *x, f=block.forward: checkpoint(f, *x, use_reentrant=False)  # type: ignore[method-assign]
    for model in (plain, wrapped):
        model(**arguments()).square().mean().backward()
    for (name, p), q in zip(plain.named_parameters(), wrapped.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_states": torch.zeros(2, 3, 5, 4, 6)}, r"\[2, 3, 5, 4, 6\]: expected \[b, f, 4, h, w\]"),
        ({"encoder_hidden_states_2": None}, "caption_channels"),
        ({"encoder_attention_mask": torch.ones(2, 5)}, r"must be \[2, 8\]"),
        ({"condition_hidden_states": torch.zeros(2, 3, 4, 4, 6)}, "takes no condition_hidden_states"),
        ({"motion_score": 5.0}, "takes no motion_score"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        small()(**(arguments() | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_head_dim": 20}, "attention_head_dim=20.*multiple of 8"),
        ({"num_layers": 0}, "num_layers=0"),
        ({"caption_channels": [1, 2, 3]}, "caption_channels"),
    ],
)
def test_wrong_configs_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        DiTConfig(**change)
