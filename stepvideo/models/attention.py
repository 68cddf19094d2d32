"""Attention as one function, so that a faster kernel has one place to go.

Legend: b batch, h query heads, g key/value heads, q query tokens, k key tokens, d head dimension.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

# With gradients or grouped queries, and up to this many logits, two plain products beat the fused kernel on a CPU: 7
# times in bf16, whose backward is slow there.
PLAIN_LOGITS = 2**22

# The first that takes the arguments is used. torch's own order begins with FlashAttention 2, which is half as fast as
# cuDNN's kernels on Hopper at training shapes.
KERNELS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def attention(q_bhqd: Tensor, k_bgkd: Tensor, v_bgkd: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention with scale 1/sqrt(d): heads first in, [b, q, h·d] out in the dtype of the values.

    `bias` broadcasts to [b, h, q, k]: bool (True attends) or a float added to the logits. Fewer key/value heads than
    query heads means grouped queries: query head i reads key head i // (h / g).
    """
    if use_plain(q_bhqd, k_bgkd):
        out = plain_attention(q_bhqd, k_bgkd, v_bgkd, bias)
    else:
        gqa = k_bgkd.shape[1] != q_bhqd.shape[1]
        q, k = q_bhqd.to(v_bgkd.dtype), k_bgkd.to(v_bgkd.dtype)
        with kernel_order(q.device.type):
            out = F.scaled_dot_product_attention(q, k, v_bgkd, attn_mask=bias, enable_gqa=gqa)
    return out.transpose(1, 2).flatten(2).to(v_bgkd.dtype)


def kernel_order(device: str) -> AbstractContextManager[object]:
    """Within it, fused attention on a device of this type is taken from `KERNELS`, in their order."""
    return sdpa_kernel(KERNELS, set_priority=True) if device == "cuda" else nullcontext()


def use_plain(q: Tensor, k: Tensor) -> bool:
    """Whether `attention` takes matrix products: on a CPU, while the logits are few, where the fused kernel is slow."""
    few = q.shape[:3].numel() * k.shape[2] <= PLAIN_LOGITS
    return few and q.device.type == "cpu" and (torch.is_grad_enabled() or k.shape[1] != q.shape[1])


def plain_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """`attention` by two batched products in fp32, whatever autocast says: [b, h, q, d] fp32."""
    b, h, nq, d = q.shape
    with torch.autocast(q.device.type, enabled=False):
        if k.shape[1] != h:
            k, v = (x.repeat_interleave(h // x.shape[1], dim=1) for x in (k, v))
        q, k, v = (x.float().flatten(0, 1) for x in (q * d**-0.5, k, v))
        logits = torch.bmm(q, k.transpose(1, 2))
        if bias is not None:
            if bias.dtype == torch.bool:
                bias = torch.zeros(bias.shape, device=q.device).masked_fill_(~bias, float("-inf"))
            logits = (logits.unflatten(0, (b, h)) + bias).flatten(0, 1)
        return torch.bmm(logits.softmax(-1), v).unflatten(0, (b, h))


def key_bias(mask_bk: Tensor | None) -> Tensor | None:
    """A key mask [b, k] of 0 and 1, any dtype, as the bool bias [b, 1, 1, k] of `attention`; None stays None."""
    return None if mask_bk is None else (mask_bk > 0)[:, None, None, :]
