"""Which attention kernel an accelerator takes; the choice is made on the host, so it is seen without one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stepvideo.models import attention
from stepvideo.models.attention import KERNELS, kernel_order


def order() -> list[int]:
    return list(torch._C._get_sdp_priority_order())


def test_cudnn_comes_first_on_cuda_and_torchs_order_is_left_elsewhere():
    before = order()
    with kernel_order("cuda"):
        assert order()[:4] == [int(k.value) for k in KERNELS]
        assert KERNELS[0].name == "CUDNN_ATTENTION"
        assert torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.math_sdp_enabled()  # the last resort stays
    assert order() == before
    with kernel_order("cpu"):
        assert order() == before


@pytest.mark.parametrize("compiled", [False, True])
def test_attention_runs_in_that_order(monkeypatch, compiled):
    """On a CPU the order has no effect: the result is the same, and a compiler takes the choice in without a break."""
    q, k, v = torch.randn(3, 1, 2, 8, 16, generator=torch.Generator().manual_seed(0))
    plain = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    monkeypatch.setattr(attention, "use_plain", lambda q, k: False)
    monkeypatch.setattr(attention, "kernel_order", lambda _: kernel_order("cuda"))
    torch._dynamo.reset()
    call = torch.compile(attention.attention, fullgraph=True, backend="aot_eager") if compiled else attention.attention
    torch.testing.assert_close(call(q, k, v), plain)
    if not compiled:
        seen = []
        monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, *_, **__: seen.append(order()) or q)
        attention.attention(q, k, v)
        assert seen[0][0] == int(KERNELS[0].value)
