"""Step-LLM: hidden states, and the bias of its attention."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from stepvideo.inference.parity.compare import Tolerance
from stepvideo.inference.parity.configs import step_llm_config
from stepvideo.inference.parity.golden import Case, NotUnderstood
from stepvideo.models.step_llm import StepLLM, sqrt_alibi

CLOSE = Tolerance(2e-5, 1e-4)
FUTURE = -1e30  # what the cases hold where the bias is −inf


def build(case: Case) -> StepLLM:
    """The case's network with its weights."""
    case.config.skip("attention", "valid_lengths")
    if not case.config.get("no_final_norm", True):
        raise NotUnderstood("no_final_norm=false: the released network has no final norm, and so has ours")
    with torch.device("meta"):
        model = StepLLM(step_llm_config(case.config))
    return case.load(model)


def outputs(case: Case) -> Iterator[tuple[str, Tensor, Tolerance]]:
    """`hidden` and `alibi_bias`."""
    model = build(case)
    yield "hidden", model(case.inputs["input_ids"]), CLOSE
    if "alibi_bias" in case.outputs:
        heads, length = model.cfg.num_attention_heads, case.outputs["alibi_bias"].shape[-1]
        bias = sqrt_alibi(heads, length, torch.device("cpu"), torch.float32)
        yield "alibi_bias", bias.clamp_min(FUTURE), CLOSE
