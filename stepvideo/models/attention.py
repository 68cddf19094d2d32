"""Attention as one function, so that a faster kernel has one place to go.

Legend: b batch, q query tokens, k key tokens, h query heads, g key/value heads, d head dimension.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def attention(q_bqhd: Tensor, k_bkgd: Tensor, v_bkgd: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention with scale 1/sqrt(d): [b, q, h, d] in, [b, q, h·d] out.

    `bias` broadcasts to [b, h, q, k]: bool (True attends) or a float added to the logits. Fewer key/value heads than
    query heads means grouped queries: query head i reads key head i // (h / g).
    """
    q, k, v = (x.transpose(1, 2) for x in (q_bqhd, k_bkgd, v_bkgd))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=k.shape[1] != q.shape[1])
    return out.transpose(1, 2).flatten(2)


def key_bias(mask_bk: Tensor | None) -> Tensor | None:
    """A key mask [b, k] of 0 and 1, any dtype, as the bool bias [b, 1, 1, k] of `attention`; None stays None."""
    return None if mask_bk is None else (mask_bk > 0)[:, None, None, :]
