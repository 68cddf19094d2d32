"""Step-LLM: causal, and able to learn. That it equals the released network: tests/inference/test_parity.py."""

from __future__ import annotations

import torch

from stepvideo.models.config import StepLLMConfig
from stepvideo.models.step_llm import StepLLM, alibi_slopes, lm_logits, next_token_loss


def test_slopes_of_48_heads():
    slopes = alibi_slopes(48)
    assert slopes[:2] == [2**-0.25, 2**-0.5] and slopes[31] == 2**-8
    assert slopes[32:34] == [2**-0.125, 2**-0.375] and len(slopes) == 48


@torch.no_grad()
def test_later_tokens_do_not_reach_earlier_ones():
    model = StepLLM(StepLLMConfig(48, 2, 6, 2, 100, 1e-5, 96))
    model.init_weights(torch.Generator().manual_seed(0))
    ids = torch.arange(48).view(2, 24)
    before = model(ids)
    ids[:, 10:] = 3
    torch.testing.assert_close(model(ids)[:, :10], before[:, :10])
    assert (model(ids)[:, 10:] - before[:, 10:]).abs().max() > 1e-3


def test_learns_next_tokens_and_ignores_padding():
    model = StepLLM(StepLLMConfig(32, 2, 4, 2, 64, 1e-5, 20))
    model.init_weights(torch.Generator().manual_seed(0))
    ids = torch.tensor([[1, 5, 6, 7, 2, 2], [1, 8, 9, 2, 2, 2]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]])
    changed = ids.clone()
    changed[1, 4:] = 11
    with torch.no_grad():
        assert lm_logits(model, model(ids)).shape == (2, 6, 20)
        torch.testing.assert_close(next_token_loss(model, changed, mask), next_token_loss(model, ids, mask))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    first = last = float("nan")
    for step in range(40):
        loss = next_token_loss(model, ids, mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first, last = (loss.item() if step == 0 else first), loss.item()
    # After BOS either sentence may follow: two equally likely tokens among seven predicted ones.
    assert last < 0.35 < first
