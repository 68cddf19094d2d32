"""The VAE's cheaper operations equal the plain ones, gradients included, in float32 and in bf16 autocast."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stepvideo.models.vae_ops import upsampled_conv


def plain(x, weight, bias, causal):
    up = F.interpolate(x, scale_factor=2, mode="nearest")
    if weight.ndim == 4:
        return F.conv2d(up, weight, bias, padding=1)
    return F.conv3d(F.pad(up, (1, 1, 1, 1, 2, 0) if causal else (1, 1, 1, 1, 1, 1)), weight, bias)


@pytest.mark.parametrize("shape", [(4, 8, 6, 6), (2, 8, 1, 4, 4), (2, 8, 2, 6, 6), (2, 16, 5, 4, 4)])
@pytest.mark.parametrize("bf16", [False, True])
def test_upsampled_conv_and_its_gradients(shape, bf16):
    torch.manual_seed(0)
    dims = len(shape) - 2
    weight = (torch.randn(8, shape[1], *[3] * dims) * 0.1).requires_grad_()
    bias = torch.randn(8, requires_grad=True)
    x = torch.randn(shape, requires_grad=True)
    results = []
    for f, autocast in ((plain, False), (upsampled_conv, bf16)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = f(x, weight, bias, dims == 3)
        torch.manual_seed(1)
        grads = torch.autograd.grad(y, (x, weight, bias), torch.randn(y.shape).to(y.dtype))
        results.append([y.detach().float(), *(g.float() for g in grads)])
    for a, b in zip(*results, strict=True):
        assert torch.isfinite(b).all()
        assert (a - b).abs().max() <= (0.03 if bf16 else 1e-5) * a.abs().max()
