"""Step-LLM: equal to the released network, causal, and able to learn."""

from __future__ import annotations

from dataclasses import fields

import torch

from stepvideo.models.config import StepLLMConfig
from stepvideo.models.step_llm import StepLLM, alibi_slopes, lm_logits, next_token_loss, sqrt_alibi


def released(case) -> StepLLM:
    model = StepLLM(StepLLMConfig(**{f.name: case.config[f.name] for f in fields(StepLLMConfig)}))
    model.load_state_dict(case.weights)
    return model


@torch.no_grad()
def test_equals_the_released_network(golden):
    case = golden("step_llm_a")
    hidden = released(case)(case.inputs["input_ids"])
    torch.testing.assert_close(hidden, case.outputs["hidden"], atol=2e-5, rtol=1e-4)


def test_bias_is_minus_slope_times_root_of_distance(golden):
    bias = sqrt_alibi(6, 16, torch.device("cpu"), torch.float32)
    torch.testing.assert_close(bias.clamp_min(-1e30), golden("step_llm_a").outputs["alibi_bias"])


def test_slopes_of_48_heads():
    slopes = alibi_slopes(48)
    assert slopes[:2] == [2**-0.25, 2**-0.5] and slopes[31] == 2**-8
    assert slopes[32:34] == [2**-0.125, 2**-0.375] and len(slopes) == 48


def test_keys_and_shapes_of_the_release(official_keys):
    with torch.device("meta"):
        model = StepLLM(StepLLMConfig())
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == dict(official_keys["step_llm"]["keys"])
    assert sum(p.numel() for p in model.parameters()) == official_keys["step_llm"]["param_count"]


@torch.no_grad()
def test_later_tokens_do_not_reach_earlier_ones(golden):
    case = golden("step_llm_a")
    model, ids = released(case), case.inputs["input_ids"].clone()
    before = model(ids)
    ids[:, 10:] = 3
    torch.testing.assert_close(model(ids)[:, :10], before[:, :10])


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
